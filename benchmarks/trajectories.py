"""Trajectories through the builders: filtered and written as an SFT set; seconds and peak memory.

    python -m benchmarks.trajectories [--runs 10000] [--profile full] [--out FILE]

The teacher's rules make the runs, so that the texts are real ones; making them is timed apart.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import read_options, write_json
from star_rl.data_builders.sft_set import SftOptions, build_sft
from star_rl.evidence import StoreAnswer
from star_rl.mars import RuleBackend, RuleOptions, Team, TeamOptions, identity_of, teach
from star_rl.prompts import Case, PromptOptions
from star_rl.records import SCENARIOS, Item, Task
from star_rl.tools import ToolBox

_HISTORY, _PASSES = 60, 4


class Store:
    """Evidence of a usual length: five groups, neighbours in a seeded order."""

    def __init__(self, items: list[str]) -> None:
        self.items = items
        self.text = "\n".join(f"{n}. Kind {n}: often chosen together.\n   items: 1, 2, 3" for n in range(5))

    def answer(self, tool: str, keys: Sequence[str], named: Any = None) -> StoreAnswer:
        start = hash((tool, *keys)) % len(self.items)
        return StoreAnswer(self.text, [self.items[(start + 7 * step) % len(self.items)] for step in range(50)])


def world(tasks: int) -> tuple[dict[str, Item], dict[str, list[tuple[str, int, float | None]]], list[Task]]:
    chance = random.Random(0)
    items = {f"{n}": Item(f"{n}", f"A title of usual length {n}", (f"Kind {n % 17}",)) for n in range(2000)}
    ids = list(items)
    histories: dict[str, list[tuple[str, int, float | None]]] = {}
    listed = []
    for n in range(tasks):
        taken = chance.sample(ids, _HISTORY + 20)
        histories[f"u{n}"] = [(item, 10**9 + 86400 * place, 4.0) for place, item in enumerate(taken[:_HISTORY])]
        candidates = taken[_HISTORY:]
        truth = chance.choice(candidates)
        listed.append(Task(f"t{n}", "books", SCENARIOS[n % 5], f"u{n}", tuple(candidates), truth, 2 * 10**9))
    return items, histories, listed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=10000)
    parser.add_argument("--profile", choices=("full", "compact"), default="full")
    parser.add_argument("--out", type=Path, help="file to write the figures to")
    options = read_options(parser, runs=80)
    items, histories, tasks = world(options.runs // _PASSES)
    store = Store(list(items))
    team = Team(
        RuleBackend(RuleOptions()),
        lambda case: ToolBox(store, case.candidates, "candidates"),
        TeamOptions(),
    )
    figures: dict[str, Any] = {"runs": len(tasks) * _PASSES, "profile": options.profile}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        began = time.perf_counter()
        asyncio.run(
            teach(
                tasks,
                team,
                lambda task: Case.of(task, histories[task.user_id], items),
                root / "runs",
                identity_of(team, {}),
                passes=_PASSES,
            )
        )
        figures["teach_seconds"] = round(time.perf_counter() - began, 2)
        began, work = time.perf_counter(), time.process_time()
        audit = build_sft(
            root / "runs",
            lambda task: Case.of(task, histories[task.user_id], items),
            root / "sft",
            SftOptions(prompt=PromptOptions(options.profile), within=0, per_task=_PASSES),
        )
        figures["seconds"] = round(time.perf_counter() - began, 2)
        figures["cpu_seconds"] = round(time.process_time() - work, 2)
        figures["kept"] = audit["kept"]
        figures["prompt_tokens_p50"] = audit["tokens"]["prompt"]["p50"]
        figures["mebibytes"] = round((root / "sft" / "sft.parquet").stat().st_size / 2**20, 1)
    figures["peak_mebibytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    for name, value in figures.items():
        print(f"{name:18} {value}")
    if options.out:
        write_json(options.out, figures)


if __name__ == "__main__":
    main()
