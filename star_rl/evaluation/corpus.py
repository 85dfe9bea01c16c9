"""Ranking over all items, which the paper leaves open: a retriever finds some, a method re-ranks them in windows.

A window holds as many items as a task has candidates, so whatever ranks a task re-ranks a window. Windows go from the
bottom of the retrieved list to its top, each sharing its upper half with the next, so that an item found low can rise
all the way (Sun et al. 2023, section 3.2, sliding windows). What the user had before is not retrieved. A truth that was
not retrieved is a miss for every method.

Notation: n tasks, I items, m retrieved.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from star_rl.errors import StarError
from star_rl.evaluation import metrics
from star_rl.evaluation.methods import Method, Ranking, TaskContext, as_ranking
from star_rl.neighbours import Graph
from star_rl.records import CANDIDATES, Task

CUTS = (10, 20)
#: Re-ranks a window: ``(task whose candidates are the window) -> ranking``.
Rerank = Callable[[Task], Awaitable[Ranking]]


class Retriever(Protocol):
    """Finds items for a history, best first."""

    name: str

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
) -> list[str]:
    """The retrieved items in the order that a method gives them, window after window.

    A window is shown in an order that seed and task decide, so that a method that echoes its candidates gains nothing.
    What the method does not name, or names twice, stands after what it names, in the order of retrieval; what is not in
    the window is left out. A window without an answer stays as it was.
    """
    order = list(retrieved)
    for number, (start, stop) in enumerate(windows(len(order), size, step)):
        window = order[start:stop]
        shown = list(window)
        random.Random(f"{seed}:{task.task_id}:{number}").shuffle(shown)
        name = f"{task.task_id}~{number}"
        found = await ask(replace(task, task_id=name, candidates=tuple(shown), ground_truth=""))
        known = set(window)
        named = [entry for entry in dict.fromkeys(found.ids or ()) if entry in known]
        order[start:stop] = [*map(str, named), *(item for item in window if item not in set(named))]
    return order


def asker(method: Method, context: TaskContext, failures: list[str]) -> Rerank:
    """``method`` as what re-ranks; an error is a window without an answer, and goes to ``failures``."""

    async def ask(task: Task) -> Ranking:
        try:
            found = as_ranking(await method.rank(task, context))
        except StarError:
            raise
        except Exception as error:  # a method may fail in any way
            found = Ranking(None, f"{type(error).__name__}: {error}")
        if found.failure:
            failures.append(found.failure)
        return found

    return ask


def figures(
    rankings: Sequence[Sequence[str]], tasks: Sequence[Task], resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """HR and NDCG at 10 and 20 over all items, in percent with 95 % intervals, and the share of truths retrieved."""
    ranks = np.array([metrics.rank_of(list(one), task.ground_truth) for one, task in zip(rankings, tasks, strict=True)])
    rows = {f"hr{k}": metrics.hits(ranks, k) for k in CUTS} | {f"ndcg{k}": metrics.ndcg(ranks, k) for k in CUTS}
    result: dict[str, Any] = {"n": len(tasks), "retrieved": 100 * float((ranks >= 1).mean())}
    for name, interval in zip(rows, metrics.bootstrap(np.stack(list(rows.values())), resamples, seed), strict=True):
        result[name] = 100 * interval.mean
        result[f"{name}_low"], result[f"{name}_high"] = 100 * interval.low, 100 * interval.high
    return result


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A row a pair of retriever and method."""
    heads = [*(f"HR@{k}" for k in CUTS), *(f"NDCG@{k}" for k in CUTS)]
    names = [*(f"hr{k}" for k in CUTS), *(f"ndcg{k}" for k in CUTS)]
    lines = [["retriever", "re-ranker", "m", "retrieved %", *heads], ["---", "---", *("---:" for _ in range(6))]]
    for row in rows:
        cells = [f"{row[name]:.1f} [{row[f'{name}_low']:.1f}, {row[f'{name}_high']:.1f}]" for name in names]
        lines.append([row["retriever"], row["method"], str(row["depth"]), f"{row['retrieved']:.1f}", *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
