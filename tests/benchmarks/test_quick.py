"""``make bench-NAME ARGS=--quick`` of every benchmark: it ends well and prints its figures."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Benchmark -> a row of its table, which has to hold a figure.
ROWS = {
    "algorithms": "dapo",
    "baselines": "lightgcn",
    "chat": r"star_rl\.chat",
    "end-to-end": "evidence",
    "evidence": r"synthetic *\| 40 *\| fusion",
    "faults": "tasks:",
    "neighbours": "implicit",
    "plan": "training, 10.0 M",
    "rewards": "bootstrap_20_x_1500",
    "rollout": "star_agent",
    "starec-size": "tasks",
    "store": "lmdb",
    "tables": "pandas",
    "teacher": "no tools",
    "trajectories": "kept",
}
#: Those with an environment of their own.
OWN = {"baselines", "neighbours", "official", "pretrained", "store", "tables"}
#: Those that take seconds; the others are slow tests.
SHORT = {"evidence", "faults", "rewards", "starec-size", "teacher", "trajectories"}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_every_benchmark_is_tried_and_has_its_requirements():
    assert set(re.findall(r"^bench-([\w-]+):", MAKEFILE, re.MULTILINE)) == set(ROWS)
    assert {file.stem for file in (ROOT / "benchmarks" / "requirements").iterdir()} == OWN
    assert {name for name in re.findall(r"\.bench/([\w-]+)/\.installed", MAKEFILE)} == OWN


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in ROWS]
)
def test_quick_ends_well_and_prints_figures(name):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # as a user calls it
    done = subprocess.run(
        ["make", "-s", f"bench-{name}", "ARGS=--quick"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(rf"^[| ]*{ROWS[name]}[ |].*\d", done.stdout, re.MULTILINE), done.stdout[-3000:]
