"""What the evidence is worth to a rule that reads it: each of the teacher's strategies, the teacher, and a fusion.

    python -m benchmarks.evidence [--data DIR] [--cases ml-100k,games,cds] [--work DIR] [--out FILE]

*before* is plain co-occurrence over whole sequences with 100 neighbours, 50 of a user; *after* is the recipe. Tasks,
visible interactions and methods are the same in both columns. At most 1,000 test tasks a case; nothing is trained.
*teacher* is the mean of its strategies: what it is expected to reach. The raw files lie in ``--data``, in
``$STAR_RL_DATA``, or in ``../shared/data``.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import star_rl
from benchmarks.harness import CACHE, ROOT, machine, read_options, table, write_json
from star_rl.evaluation import metrics, results
from star_rl.evaluation.tasks import read_tasks
from star_rl.pipeline.chain import STAGES
from star_rl.pipeline.runner import run as run_stages
from star_rl.records import Task

#: Case -> recipe, and its file or folder within the data.
CASES = {
    "ml-100k": ("learn-ml100k", "ml-100k"),
    "games": ("learn-games", "amazon-games-6k"),
    "cds": ("learn-cds", "agentcf-cds-100/CDs-100-user-dense.test.inter"),
    "synthetic": ("quickstart", ""),  # with --quick: a clean clone has no other data
}
BEFORE = tuple(f"neighbours.{value}" for value in ("window=0", "items_k=100", "users_k=50", "liked_k=100"))
STRATEGIES = ("users", "history", "recent")
READ = (*(f"mars:strategy={name}:name={name} alone" for name in STRATEGIES), "fusion")
#: Methods that do not read the evidence.
OTHERS = ("popularity", "item_knn")
TASKS = 1000


def answers(recipe: star_rl.Recipe, methods: Sequence[str]) -> tuple[dict[str, np.ndarray], list[Task]]:
    """Run a recipe as far as the evidence and ask the methods; hits of each by cut and task, shape: (3, n)."""
    run_stages(recipe, STAGES, until="evidence")
    run = Path(recipe.out) / recipe.name
    folder = run / "evaluated"
    shutil.rmtree(folder, ignore_errors=True)  # answers are kept by name, not by the code that gave them
    star_rl.evaluate(methods, run, folder, limit=TASKS)
    tasks, given = read_tasks(folder / "tasks.parquet"), results.read(folder / "answers.parquet")
    found = {}
    for name in dict.fromkeys(given["method"].to_pylist()):
        ranks = results.ranks_by_task(given, name, tasks)[0]
        found[name] = np.stack([metrics.hits(ranks, k) for k in metrics.CUTS])
    found["teacher"] = np.mean([found[f"{name} alone"] for name in STRATEGIES], axis=0)
    return found, tasks


def compare(case: str, data: Path, work: Path) -> dict[str, Any]:
    """One case: method -> figures before and after, and the paired difference."""
    recipe, path = CASES[case]
    source = f"source.root={data / path}" if path else "source.options.users=200"
    common = (source, f"out={work}", f"split.options.max_test={TASKS}")
    before, first = answers(star_rl.load_recipe(recipe, [*common, f"name={case}-before", *BEFORE]), READ)
    after, second = answers(star_rl.load_recipe(recipe, [*common, f"name={case}-after"]), (*OTHERS, *READ))
    assert first == second, "both columns are of the same tasks"
    rows: dict[str, Any] = {name: {"after": figures(hits)} for name, hits in after.items()}
    for name, hits in before.items():
        pair = metrics.paired(after[name].mean(axis=0), hits.mean(axis=0))
        rows[name] |= {"before": figures(hits), "difference": [100 * pair.mean, 100 * pair.low, 100 * pair.high]}
    return {"recipe": recipe, "n": len(first), "methods": rows}


def figures(hits: np.ndarray) -> dict[str, float]:
    """HR in percent and the interval of HR_avg over tasks."""
    average = metrics.bootstrap(hits.mean(axis=0))[0]
    shown = {f"hr{k}": 100 * float(rate) for k, rate in zip(metrics.CUTS, hits.mean(axis=1), strict=True)}
    return shown | {"hr_avg": 100 * average.mean, "low": 100 * average.low, "high": 100 * average.high}


def show(cases: dict[str, Any]) -> str:
    """One table in Markdown."""

    def cells(row: dict[str, float] | None) -> tuple[str, str]:
        if row is None:
            return "", ""
        average = f"{row['hr_avg']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
        return " / ".join(f"{row[f'hr{k}']:.1f}" for k in metrics.CUTS), average

    lines = []
    for case, found in cases.items():
        for name, row in found["methods"].items():
            change = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*row["difference"]) if "difference" in row else ""
            lines.append((case, found["n"], name, *cells(row.get("before")), *cells(row["after"]), change))
    rates, average = "HR@" + "/".join(map(str, metrics.CUTS)), "HR_avg [95 %]"
    head = ("data", "n", "method", f"{rates} before", average, f"{rates} after", average, "after - before")
    return table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--cases", default="ml-100k,games,cds", help=f"some of {', '.join(CASES)}")
    parser.add_argument("--work", type=Path, default=CACHE / "evidence", help="where the runs go")
    parser.add_argument("--out", type=Path, default=CACHE / "evidence.json")
    options = read_options(parser, work=CACHE / "quick" / "evidence", cases="synthetic")
    data = (options.data or Path(os.environ.get("STAR_RL_DATA") or ROOT.parent / "shared" / "data")).resolve()
    found = {}
    for case in options.cases.split(","):
        if case != "synthetic" and not (data / CASES[case][1]).exists():
            print(f"{case} is not in {data} (set STAR_RL_DATA or --data): left out")
        else:
            found[case] = compare(case, data, options.work)
    shown = show(found)
    print(f"\n{shown}")
    write_json(options.out, {"machine": machine(("numpy", "pyarrow")), "cases": found})
    options.out.with_suffix(".md").write_text(shown + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
