"""The teacher's table on MovieLens 100K by rules: full, without each part, each strategy alone; audits of the SFT sets.

    python -m benchmarks.teacher [--audits] [--data DIR] [--work DIR] [--out FILE]

Tables, split, neighbours and evidence come from the chain's own stages, in ``--work`` (``.bench/teacher``). The table
is over everybody's last film; the audits are over the training tasks, two passes each. The raw files lie in
``ml-100k`` of ``--data``, of ``$STAR_RL_DATA``, or of ``../shared/data``.

*calls* are tool calls per task. Rules ask no model, so *model tokens* are 0; *written* is what a model would have had
to write (tokens of the trajectory, estimated), *read* what the tools answered.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import CACHE, ROOT, machine, read_options, table, write_json
from star_rl.data_builders.sft_set import SETTINGS, SftOptions, build_sft
from star_rl.evaluation import metrics
from star_rl.mars import identity_of, read_runs, teach
from star_rl.pipeline.chain import STAGES
from star_rl.pipeline.options import Recipe, SourceSection, SplitSection
from star_rl.pipeline.runner import run as run_stages
from star_rl.prompts import PromptOptions, estimate_tokens
from star_rl.records import Task
from star_rl.run import Run
from star_rl.teacher import open_teacher
from star_rl.trajectory import LACKING, Response

#: Weights of the teacher by rules: the three signals that come from evidence, alike.
EQUAL = {"users": 1.0, "history": 1.0, "recent": 1.0}
#: A bad habit for reinforcement learning to mend: a third of the weight on the signal that reads no evidence.
HABIT = {**EQUAL, "category": 1.5}
_HABIT = ", a third on category"
LACKS = {
    "full": {},
    "no tools": {"tools": False},
    "no planner": {"planner": False},
    "no reflector": {"reflector": False},
}
PASSES = 2
RESAMPLES = 2000


def recipe(source: SourceSection, work: Path) -> Recipe:
    """Everybody's last film for the test; all tasks; the paper's form of prompt and evidence, with the lens."""
    made = Recipe(name="world", out=str(work))
    made.source = source
    made.split = SplitSection({"test": "last"})
    made.tools.lens = "candidates"
    return made


def runs_of(world: Run, tasks: list[Task], options: Mapping[str, Any], folder: Path, passes: int = 1) -> float:
    """Teach into a new folder; seconds."""
    shutil.rmtree(folder, ignore_errors=True)
    config = {**world.config, "teacher": {"backend": "rules", "options": dict(options)}}

    async def work() -> float:
        async with open_teacher(world, config, world.config["seed"], folder / "cache.sqlite") as teacher:
            identity = identity_of(teacher.team, {}, teacher.model, world.store.fingerprint)
            account = await teach(tasks, teacher.team, world.case, folder, identity, passes)
            return account.seconds

    return asyncio.run(work())


def scored(folder: Path, tasks: list[Task], seconds: float) -> tuple[dict[str, Any], np.ndarray]:
    """Figures of a folder of runs, one a task, and HR_avg per task."""
    runs = {run.task.task_id: run for run in read_runs(folder)}
    rankings = [None if runs[task.task_id].failure else runs[task.task_id].ranking for task in tasks]
    found = metrics.ranks(rankings, [task.ground_truth for task in tasks])
    values = np.stack([*(metrics.hits(found, k) for k in metrics.CUTS), metrics.hr_avg(found)])
    *rates, average = metrics.bootstrap(values, RESAMPLES)
    read = [
        sum(estimate_tokens(b.text) for phase in run.trajectory.phases for b in phase.blocks if isinstance(b, Response))
        for run in runs.values()
    ]
    whole = [estimate_tokens(run.text) for run in runs.values()]
    row: dict[str, Any] = {f"hr{k}": 100 * rate.mean for k, rate in zip(metrics.CUTS, rates, strict=True)}
    row |= {"hr_avg": 100 * average.mean, "hr_avg_low": 100 * average.low, "hr_avg_high": 100 * average.high}
    row |= {
        "n": len(tasks),
        "failed": sum(bool(run.failure) for run in runs.values()),
        "sent_back": sum(run.corrected for run in runs.values()) / len(runs),
        "tool_calls": sum(run.sum("calls") for run in runs.values()) / len(runs),
        "model_tokens": sum(run.tokens for run in runs.values()) / len(runs),
        "tokens_written": (sum(whole) - sum(read)) / len(runs),
        "tokens_read": sum(read) / len(runs),
        "seconds": seconds,
    }
    return row, metrics.hr_avg(found)


def methods() -> dict[str, dict[str, Any]]:
    """Name -> options of the teacher."""
    made = {name: {"rules": {"strategies": EQUAL}, **lacks} for name, lacks in LACKS.items()}
    made |= {f"{name} alone": {"rules": {"strategies": {name: 1.0}}} for name in HABIT}
    return made | {
        f"{name}{_HABIT}": {"rules": {"strategies": HABIT}, **LACKS[name]} for name in ("full", "no reflector")
    }


def compare(world: Run, work: Path) -> dict[str, Any]:
    """The table."""
    tasks = world.tasks("test")
    rows, per_task = {}, {}
    for name, options in methods().items():
        folder = work / "test" / name.replace(", ", "_").replace(" ", "_")
        rows[name], per_task[name] = scored(folder, tasks, runs_of(world, tasks, options, folder))
    for name, row in rows.items():
        reference = f"full{_HABIT}" if name.endswith(_HABIT) else "full"
        if name != reference:
            pair = metrics.paired(per_task[name], per_task[reference])
            row |= {"against": reference, "difference": [100 * pair.mean, 100 * pair.low, 100 * pair.high]}
    return rows


def show(rows: Mapping[str, Mapping[str, Any]]) -> str:
    head = ("teacher", "n", "HR@1", "HR@3", "HR@5", "HR_avg", "95 %", "against full", "sent back", "calls")
    lines = []
    for name, row in rows.items():
        pair = row.get("difference")
        lines.append(
            (
                name,
                row["n"],
                *(f"{row[key]:.1f}" for key in ("hr1", "hr3", "hr5", "hr_avg")),
                f"{row['hr_avg_low']:.1f} .. {row['hr_avg_high']:.1f}",
                f"{pair[0]:+.1f} ({pair[1]:+.1f} .. {pair[2]:+.1f})" if pair else "",
                f"{row['sent_back']:.1%}",
                f"{row['tool_calls']:.2f}",
                f"{row['tokens_written']:.0f}",
                f"{row['tokens_read']:.0f}",
            )
        )
    return table((*head, "written", "read"), lines)


def audits(world: Run, work: Path) -> dict[str, Any]:
    """Every SFT set of the training tasks, from runs of a teacher that lacks what the set lacks."""
    tasks = world.tasks("train")
    found: dict[str, Any] = {}
    for setting in SETTINGS:
        lacks = LACKING.get(setting, ())
        runs = work / "train" / (setting if lacks else "full")
        if setting != "planner_only":  # its plans are those of the full teacher
            options = {"rules": {"strategies": EQUAL}, **dict.fromkeys(lacks, False)}
            runs_of(world, tasks, options, runs, PASSES)
        began = time.perf_counter()
        audit = build_sft(
            runs,
            world.case,
            work / "sft" / setting,
            SftOptions(
                setting, PromptOptions(**{k: world.config["prompt"][k] for k in ("profile", "history", "budget")})
            ),
        )
        found[setting] = {**audit, "seconds": time.perf_counter() - began}
    return found


def show_audits(found: Mapping[str, Mapping[str, Any]]) -> str:
    head = ("set", "read", "kept", "tasks", "dropped", "corrected", "over-long", "prompt p50/p90/p99/max")
    lines = []
    for name, audit in found.items():
        tokens = {
            part: "/".join(str(audit["tokens"][part][q]) for q in ("p50", "p90", "p99", "max"))
            for part in ("prompt", "trajectory", "total")
        }
        lines.append(
            (
                name,
                audit["read"],
                audit["kept"],
                audit["tasks"],
                ", ".join(f"{reason} {count}" for reason, count in audit["dropped"].items()) or "none",
                f"{audit['corrected_share']:.1%}",
                audit["over_long"]["count"],
                *tokens.values(),
            )
        )
    return table((*head, "trajectory", "total"), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder that holds ml-100k")
    parser.add_argument("--audits", action="store_true", help="audit the SFT sets too")
    parser.add_argument("--work", type=Path, default=CACHE / "teacher", help="where stages, runs and sets go")
    parser.add_argument("--out", type=Path, default=CACHE / "teacher.json")
    options = read_options(parser, work=CACHE / "quick" / "teacher")
    data = options.data or Path(os.environ.get("STAR_RL_DATA") or ROOT.parent / "shared" / "data")
    source = SourceSection("movielens", str(data.resolve() / "ml-100k"))
    if options.quick:  # a clean clone has no MovieLens
        source = SourceSection("synthetic", None, {"users": 60})
    made = recipe(source, options.work)
    run_stages(made, STAGES, until="evidence")
    world = Run(options.work / made.name, {**asdict(made), "seed": made.seed})
    print(f"\nTeacher by rules, {len(world.tasks('test'))} held-out tasks, HR in percent; a random order scores 15.0.")
    print(
        "full and its ablations: strategies users, history and recent with equal weights. Rules use no model tokens.\n"
    )
    rows = compare(world, options.work)
    print(show(rows))
    figures: dict[str, Any] = {"machine": machine(("numpy", "pyarrow")), "strategies": EQUAL, "methods": rows}
    if options.audits:
        tasks = len(world.tasks("train"))
        print(f"\nSFT sets of {tasks} training tasks, {PASSES} passes each, equal weights, filter top-1;")
        print("tokens are estimated from characters\n")
        figures["audits"] = audits(world, options.work)
        print(show_audits(figures["audits"]))
    write_json(options.out, figures)


if __name__ == "__main__":
    main()
