"""Ranking over all items, which the paper leaves open: a retriever finds some, a method re-ranks them in windows.

A window holds as many items as a task has candidates, so whatever ranks a task re-ranks a window. Windows go from the
bottom of the retrieved list to its top, each sharing its upper half with the next, so that an item found low can rise
all the way (Sun et al. 2023, section 3.2, sliding windows). What the user had before is not retrieved. A truth that was
not retrieved is a miss for every method.

Notation: n tasks, I items, m retrieved.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from star_rl.errors import StarError
from star_rl.evaluation import metrics
from star_rl.evaluation.methods import Method, Ranking, TaskContext, as_ranking
from star_rl.failure import Failure
from star_rl.neighbours import Graph
from star_rl.records import CANDIDATES, Task
from star_rl.report.grid import Cell, Grid, Row, worded

CUTS = (10, 20)
#: Re-ranks a window: ``(task whose candidates are the window) -> ranking``.
Rerank = Callable[[Task], Awaitable[Ranking]]


class Retriever(Protocol):
    """Finds items for a history, best first; what it learned from is told apart by ``learned``."""

    name: str
    learned: str

    def retrieve(self, history: Sequence[str], count: int) -> list[str]: ...


class _Graphed(ABC):
    """Scores all items of the visible interactions from the items of a history. Shape of scores: (I,)."""

    name = ""

    def __init__(self, visible: pa.Table) -> None:
        from scipy.sparse import csr_array

        self.graph = graph = Graph.from_table(visible)
        if graph.item_ids is None or not graph.n_items:
            raise StarError("there are no visible interactions to retrieve from", "split again with fewer held out")
        self.ids: list[str] = graph.item_ids.to_pylist()
        ones = np.ones(len(graph.user_items), np.float32)
        self.by_user = csr_array((ones, graph.user_items, graph.user_indptr), (graph.n_users, graph.n_items))
        self.popularity = np.asarray(self.by_user.sum(axis=0)).ravel()
        learned = sha256("\n".join(self.ids).encode())
        for array in (graph.user_indptr, graph.user_items):
            learned.update(np.ascontiguousarray(array).data)
        self.learned = learned.hexdigest()[:16]

    def retrieve(self, history: Sequence[str], count: int) -> list[str]:
        """Items not in the history, best first; equals by popularity, then by id."""
        seen = self.graph.item_codes(list(dict.fromkeys(history)))
        seen = seen[seen >= 0]
        scores = self.scores(seen).astype(np.float64)
        order = np.lexsort((np.arange(len(scores)), -self.popularity, -scores))
        had = set(seen.tolist())
        return [self.ids[code] for code in order[: count + len(had)].tolist() if code not in had][:count]

    @abstractmethod
    def scores(self, seen: np.ndarray) -> np.ndarray:
        """Scores of all items, given the codes of those seen. Shape: (items,)."""


class PopularityRetriever(_Graphed):
    """Items by the number of users who have them."""

    name = "popularity"

    def scores(self, seen: np.ndarray) -> np.ndarray:
        return self.popularity


class ItemKnnRetriever(_Graphed):
    """Items by their summed cosine to the items of the history, over users; the score of baselines.ItemKNN."""

    name = "item_knn"

    def __init__(self, visible: pa.Table) -> None:
        super().__init__(visible)
        scaled = self.by_user.T.tocsr()
        scaled.data /= np.repeat(np.sqrt(np.maximum(self.popularity, 1)), np.diff(scaled.indptr)).astype(np.float32)
        self._by_item = scaled

    def scores(self, seen: np.ndarray) -> np.ndarray:
        profile = np.asarray(self._by_item[seen].sum(axis=0)).ravel() if len(seen) else np.zeros(self.by_user.shape[0])
        return np.asarray(self._by_item @ profile)


class UserKnnRetriever(_Graphed):
    """Items of the users most like the history, weighted by the cosine between the histories.

    Args:
        neighbours: users asked.
    """

    name = "user_knn"

    def __init__(self, visible: pa.Table, neighbours: int = 200) -> None:
        super().__init__(visible)
        self._neighbours = neighbours
        self._norm = np.sqrt(np.maximum(np.asarray(self.by_user.sum(axis=1)).ravel(), 1))

    def scores(self, seen: np.ndarray) -> np.ndarray:
        if not len(seen):
            return np.zeros(len(self.ids))
        taste = np.zeros(len(self.ids), np.float32)
        taste[seen] = 1.0
        alike = np.asarray(self.by_user @ taste) / (self._norm * np.sqrt(len(seen)))
        near = np.argsort(-alike, kind="stable")[: self._neighbours]
        return np.asarray(alike[near] @ self.by_user[near]).ravel()


RETRIEVERS: dict[str, Callable[[pa.Table], Retriever]] = {
    "popularity": PopularityRetriever,
    "item_knn": ItemKnnRetriever,
    "user_knn": UserKnnRetriever,
}


def retriever(name: str, visible: pa.Table) -> Retriever:
    """A retriever by name.

    Raises:
        StarError: there is none of that name.
    """
    if name not in RETRIEVERS:
        raise StarError(f"there is no retriever {name!r}", f"one of {', '.join(RETRIEVERS)}")
    return RETRIEVERS[name](visible)


def windows(count: int, size: int = CANDIDATES, step: int | None = None) -> list[tuple[int, int]]:
    """Places ``[start, stop)`` of the windows over a list, the lowest first.

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
    """The retrieved items in the order that a method gives them, window after window.

    A window is shown in an order that seed and task decide, so that a method that echoes its candidates gains nothing.
    What the method does not name, or names twice, stands after what it names, in the order of retrieval; what is not in
    the window is left out. A window that fails, or in which nothing is named, fails the task: the order of retrieval is
    not the method's merit.
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
    """A method that several retrievers share: entered at the first need, left at the end of the block."""

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
    """A method over what was retrieved, as a method of its own: its answer to a task is the whole list, re-ranked.

    Args:
        shared: what re-ranks.
        retriever: what retrieved.
        lists: task id -> what was retrieved, best first.
        depth: how much was asked for.
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
        """Seconds within which a task is done or has failed, window by window."""
        most = max((len(windows(len(found), self._window)) for found in self._lists.values()), default=0)
        return self._timeout * (most + 1)

    @property
    def describe(self) -> dict[str, Any]:
        found = {"retriever": self.retriever.name, "learned": self.retriever.learned, "depth": self.depth}
        asked = {"window": self._window, "shown": self._seed, "seconds": self._timeout}
        return {**self._shared.method.identity, **found, **asked}

    async def __aenter__(self) -> Method:
        self._shared.method.watch = self.watch
        self.in_flight = (await self._shared.opened()).in_flight
        return self

    async def rank(self, task: Task, context: TaskContext) -> Ranking:
        method = self._shared.method

        async def ask(window: Task) -> Ranking:
            try:
                return as_ranking(await asyncio.wait_for(method.rank(window, context), self._timeout))
            except TimeoutError:
                return Ranking(None, Failure.late(self._timeout))

        return await rerank(task, self._lists[task.task_id], ask, self._window, seed=self._seed)


def figures(
    rankings: Sequence[Sequence[str | None] | None],
    tasks: Sequence[Task],
    lists: Sequence[Sequence[str]],
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """HR and NDCG at 10 and 20 over all items, in percent with 95 % intervals, and the share of truths retrieved.

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
    """Failures of each pair of retriever and method, as sentences."""
    return [
        f"{row['method']} on what {row['retriever']} retrieved: {row['failed']:,} of {row['n']:,} tasks failed and "
        f"count as misses ({'; '.join(f'{count:,} x {reason}' for reason, count in row['reasons'])})"
        for row in rows
        if row.get("failed")
    ]


def grid(rows: Sequence[Mapping[str, Any]]) -> Grid:
    """A row a pair of retriever and method."""
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
