"""Rank over all items, which the paper leaves open: a retriever finds some, a method re-ranks them in windows.

A window holds as many items as a task has candidates, so every method can re-rank it. Windows go from the bottom of the
retrieved list to its top, each sharing its upper half with the next, so that an item found low can rise all the way
(Sun et al. 2023, section 3.2, sliding windows). Items of the history are not retrieved. A truth that was not retrieved
is a miss for every method.

Notation: n tasks, I items, m retrieved.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from star_rl.errors import StarError
from star_rl.evaluation import metrics
from star_rl.evaluation.methods import Method, Ranking, TaskContext, as_ranking
from star_rl.evaluation.results import Answer
from star_rl.evaluation.runner import ContextOf, read_answers, run_method
from star_rl.evaluation.studies.retrievers import Retriever
from star_rl.evaluation.tasks import TaskSet, digest
from star_rl.failure import Failure
from star_rl.files import read_json
from star_rl.progress import Progress
from star_rl.records import CANDIDATES, Task
from star_rl.report.grid import Cell, Grid, Row, worded

CUTS = (10, 20)
#: Shown as the method in a retriever's own row; number of failure reasons that are named.
ALONE, REASONS = "\u2013", 3
#: Re-ranks a window: ``(task whose candidates are the window) -> ranking``.
Rerank = Callable[[Task], Awaitable[Ranking]]


def windows(count: int, size: int = CANDIDATES, step: int | None = None) -> list[tuple[int, int]]:
    """Return the places ``[start, stop)`` of the windows over a list, the lowest first.

    Raises:
        StarError: a size below 2, or a step that is not within 1..size.
    """
    step = max(1, size // 2) if step is None else step
    if size < 2 or not 1 <= step <= size:
        raise StarError(f"windows of {size} by steps of {step}", "give a size of 2 or more and a step up to it")
    if count <= size:
        return [(0, count)] if count else []
    starts = [*range(count - size, 0, -step), 0]
    return [(start, start + size) for start in starts]


async def rerank(
    task: Task, retrieved: Sequence[str], ask: Rerank, size: int = CANDIDATES, step: int | None = None, seed: int = 0
) -> Ranking:
    """Return the retrieved items as a method re-ranks them, window after window.

    Seed and task decide the order in which a window is shown, so that a method that echoes its candidates gains
    nothing. Items that the method does not name follow those it names, in the order of retrieval; ids outside the
    window are dropped. A window that fails, or in which nothing is named, fails the task: the order of retrieval is not
    the method's merit.
    """
    order = list(retrieved)
    places = windows(len(order), size, step)
    for number, (start, stop) in enumerate(places):
        window = order[start:stop]
        shown = list(window)
        random.Random(f"{seed}:{task.task_id}:{number}").shuffle(shown)
        name = f"{task.task_id}~{number}"
        found = await ask(replace(task, task_id=name, candidates=tuple(shown), ground_truth=""))
        known = set(window)
        named = [str(entry) for entry in dict.fromkeys(found.ids or ()) if entry in known]
        if not named:
            failure = found.failure or Failure("malformed", "named none of the items")
            where = f"{failure.message} (window {number + 1} of {len(places)})"
            return Ranking(None, replace(failure, message=where, limit=None))  # a window's limit is a setting
        order[start:stop] = [*named, *(item for item in window if item not in set(named))]
    return Ranking(order)


class Shared:
    """A method that several retrievers share: entered when first needed, left at the end of the block."""

    def __init__(self, method: Method) -> None:
        self.method, self._stack = method, AsyncExitStack()
        self._open = False

    async def __aenter__(self) -> Shared:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def opened(self) -> Method:
        if not self._open:
            self.method, self._open = await self._stack.enter_async_context(self.method), True
        return self.method


class Reranked(Method):
    """A method over retrieved items, as a method of its own: its answer to a task is the whole list, re-ranked.

    Args:
        lists: task id -> what the retriever found, best first.
        depth: number of items asked for.
        window: items re-ranked at once.
        timeout: seconds for one window.
        seed: of the order in which a window is shown.
    """

    def __init__(
        self,
        shared: Shared,
        retriever: Retriever,
        lists: Mapping[str, Sequence[str]],
        depth: int,
        window: int,
        timeout: float,
        seed: int,
    ) -> None:
        self._shared, self._lists, self._window = shared, lists, window
        self._timeout, self._seed = timeout, seed
        self.retriever, self.depth = retriever, depth
        self.name = f"{shared.method.name} on {depth} of {retriever.name}"

    @property
    def patience(self) -> float:
        """Seconds after which a task has surely ended, window by window."""
        most = max((len(windows(len(found), self._window)) for found in self._lists.values()), default=0)
        return self._timeout * (most + 1)

    @property
    def describe(self) -> dict[str, Any]:
        found = {"retriever": self.retriever.name, "learned": self.retriever.learned, "depth": self.depth}
        asked = {"window": self._window, "shown": self._seed, "seconds": self._timeout}
        return {**self._shared.method.settings, **found, **asked}

    async def __aenter__(self) -> Method:
        self._shared.method.watch = self.watch
        self.in_flight = (await self._shared.opened()).in_flight
        return self

    async def rank(self, context: TaskContext) -> Ranking:
        method = self._shared.method

        async def ask(window: Task) -> Ranking:
            try:
                return as_ranking(await asyncio.wait_for(method.rank(replace(context, task=window)), self._timeout))
            except TimeoutError:
                return Ranking(None, Failure.late(self._timeout))

        return await rerank(context.task, self._lists[context.task.task_id], ask, self._window, seed=self._seed)


def figures(
    rankings: Sequence[Sequence[str | None] | None],
    tasks: Sequence[Task],
    lists: Sequence[Sequence[str]],
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return HR and NDCG at 10 and 20 in percent with 95 % intervals, and the share of truths retrieved.

    Args:
        rankings: of each task; ``None`` is a failure, which is a miss. Shape: (n,).
        lists: what was retrieved for each task. Shape: (n, m).
    """
    ranks = metrics.ranks([None if one is None else list(one) for one in rankings], [one.ground_truth for one in tasks])
    found = [task.ground_truth in own for task, own in zip(tasks, lists, strict=True)]
    rows = {f"hr{k}": metrics.hits(ranks, k) for k in CUTS} | {f"ndcg{k}": metrics.ndcg(ranks, k) for k in CUTS}
    result: dict[str, Any] = {"n": len(tasks), "failed": int((ranks == metrics.FAILED).sum())}
    result["retrieved"] = 100 * float(np.mean(found))
    for name, interval in zip(rows, metrics.bootstrap(np.stack(list(rows.values())), resamples, seed), strict=True):
        result[name] = 100 * interval.mean
        result[f"{name}_low"], result[f"{name}_high"] = 100 * interval.low, 100 * interval.high
    return result


def problems(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the failures of each pair of retriever and method as sentences."""
    return [
        f"{row['method']} on what {row['retriever']} retrieved: {row['failed']:,} of {row['n']:,} tasks failed and "
        f"count as misses ({'; '.join(f'{count:,} x {reason}' for reason, count in row['reasons'])})"
        for row in rows
        if row.get("failed")
    ]


def grid(rows: Sequence[Mapping[str, Any]]) -> Grid:
    """Return a table with a row for each pair of retriever and method."""
    names = [f"{figure}{k}" for figure in ("hr", "ndcg") for k in CUTS]
    heads = ["retriever", "re-ranker", "m", "n", "failed", "retrieved %"]
    heads += [f"{figure}@{k}" for figure in ("HR", "NDCG") for k in CUTS]
    lines = []
    for row in rows:
        cells: list[Cell] = [*worded(row["method"]), *((row[key], str(row[key])) for key in ("depth", "n", "failed"))]
        cells.append((row["retrieved"], f"{row['retrieved']:.1f}"))
        cells += [
            (row[name], f"{row[name]:.1f} [{row[f'{name}_low']:.1f}, {row[f'{name}_high']:.1f}]") for name in names
        ]
        lines.append(Row(row["retriever"], cells))
    return Grid("Ranking over all items, %, 95 % interval", heads, lines, text=2, notes=problems(rows))


async def rows_of(
    methods: Sequence[Method],
    finders: Sequence[Retriever],
    tasks: TaskSet,
    context_of: ContextOf,
    folder: Path,
    depth: int,
    window: int,
    timeout: float,
    seed: int,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Return a row for each retriever alone and with each method; an engine opens once for all retrievers.

    Args:
        folder: of the answers, a ledger for each method and retriever.
        depth: items retrieved; ``window`` of them are re-ranked at once, in ``timeout`` seconds.
    """
    lists = {
        finder.name: [finder.retrieve(context_of(task, 0).item_ids, depth) for task in tasks.tasks]
        for finder in finders
    }
    read_answers(folder, tasks.tasks)  # answers to other tasks are refused before anything is asked
    asked: list[tuple[str, str, str]] = []
    for method in methods:
        async with Shared(method) as shared:
            for finder in finders:
                own = {task.task_id: found for task, found in zip(tasks.tasks, lists[finder.name], strict=True)}
                made = Reranked(shared, finder, own, depth, window, timeout, seed)
                await run_method(made, tasks.tasks, context_of, folder, timeout=made.patience, progress=progress)
                asked.append((finder.name, method.name, made.name))
    answers: dict[str, dict[str, Answer]] = {}
    for one in read_answers(folder, tasks.tasks):
        answers.setdefault(one.method, {})[one.task.task_id] = one

    def row(finder: str, name: str, rankings: Sequence[Any], reasons: Sequence[Any] = ()) -> dict[str, Any]:
        about = {"retriever": finder, "method": name, "depth": depth, "window": window}
        return {**about, "reasons": list(reasons), **figures(rankings, tasks.tasks, lists[finder], seed=seed)}

    rows = [row(name, ALONE, found) for name, found in lists.items()]
    for finder_name, name, ledger in asked:
        found = [answers[ledger][task.task_id] for task in tasks.tasks]
        reasons = Counter(str(one.failure) for one in found if one.failure).most_common(REASONS)
        rows.append(row(finder_name, name, [one.ranking for one in found], reasons))
    return rows


def merged(file: Path, rows: list[dict[str, Any]], tasks: TaskSet) -> list[dict[str, Any]]:
    """Return the rows of earlier calls on the same tasks, with these in the place of those of their names."""
    before = read_json(file) if file.is_file() else {}
    if not isinstance(before, dict) or before.get("tasks") != digest(tasks.tasks):
        return rows

    def key(row: dict[str, Any]) -> list[Any]:
        return [row.get(name) for name in ("retriever", "method", "depth", "window")]

    mine = [key(row) for row in rows]
    return [*(row for row in before.get("rows", ()) if key(row) not in mine), *rows]
