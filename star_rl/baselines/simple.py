"""Random, Popularity, ItemKNN and UserKNN.

All of them see what the evidence store saw, the split's visible interactions, and the history of the task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from star_rl.errors import StarError
from star_rl.neighbours import Graph
from star_rl.records import Task

if TYPE_CHECKING:
    from star_rl.evaluation.methods import TaskContext


def _jitter(task: Task, seed: int) -> np.ndarray:
    """Tie-breaking noise in (0, 1), shape (candidates,): the order of the candidates must not decide."""
    digest = hashlib.sha256(f"{seed}:{task.task_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little")).random(len(task.candidates))


def ranked(task: Task, scores: np.ndarray, seed: int) -> list[str]:
    """The candidates by falling score, ties by seed. Shape of scores: (candidates,)."""
    order = np.lexsort((_jitter(task, seed), -scores))
    return [task.candidates[index] for index in order]


class _Items:
    """Codes of a graph's items by id; faster than :meth:`Graph.item_codes` for the few ids of one task."""

    def __init__(self, graph: Graph) -> None:
        assert graph.item_ids is not None, "a graph made from a table has ids"
        self._code = {name: code for code, name in enumerate(graph.item_ids.to_pylist())}

    def codes(self, ids: Iterable[str]) -> np.ndarray:
        """-1 for an item that nobody visibly has. Shape: (n,) int64."""
        return np.array([self._code.get(name, -1) for name in ids], np.int64)


class Random:
    """A uniformly random order: HR_avg 15 % in expectation over 20 candidates."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def rank(self, context: TaskContext) -> list[str]:
        return ranked(context.task, np.zeros(len(context.task.candidates)), self._seed)


class Popularity:
    """Candidates by the number of visible users who have them."""

    name = "popularity"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def fit(self, visible: pa.Table) -> Self:
        graph = Graph.from_table(visible)
        self._items = _Items(graph)
        self._users = np.append(np.bincount(graph.user_items, minlength=graph.n_items), 0)
        return self

    def rank(self, context: TaskContext) -> list[str]:
        codes = self._items.codes(context.task.candidates)  # -1 for an unseen item: the appended zero
        return ranked(context.task, self._users[codes].astype(float), self._seed)


class ItemKNN:
    """Candidates by their summed cosine to the items of the history, over visible users.

    ``score(c) = sum over h in history of |users(h) & users(c)| / sqrt(|users(h)| |users(c)|)``
    """

    name = "item_knn"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def fit(self, visible: pa.Table) -> Self:
        from scipy.sparse import csr_array

        graph = Graph.from_table(visible)
        self._items = _Items(graph)
        ones = np.ones(len(graph.user_items), np.float32)
        by_item = csr_array((ones, graph.user_items, graph.user_indptr), (graph.n_users, graph.n_items)).T.tocsr()
        norm = np.sqrt(np.maximum(by_item.sum(axis=1), 1.0))
        by_item.data /= np.repeat(norm, np.diff(by_item.indptr)).astype(np.float32)
        self._by_item = by_item
        return self

    def rank(self, context: TaskContext) -> list[str]:
        task = context.task
        seen, asked = self._items.codes(dict.fromkeys(context.item_ids)), self._items.codes(task.candidates)
        scores = np.zeros(len(asked))
        seen, known = seen[seen >= 0], asked >= 0
        if len(seen) and known.any():
            profile = self._by_item[seen].sum(axis=0)
            scores[known] = self._by_item[asked[known]] @ np.asarray(profile).ravel()
        return ranked(task, scores, self._seed)


class UserKNN:
    """Candidates by the summed weight of the most similar visible users who have them.

    ``score(c) = sum over the k nearest users v that have c of cosine(history, items(v))``, where the cosine of two sets
    is ``|a & b| / sqrt(|a| |b|)``. The history stands for the user, so one that is absent from ``visible`` is served
    alike; the user's own row is never a neighbour. Without a history, or where no neighbour has any of the candidates,
    all tie.

    Args:
        neighbours: k. Users as similar as the last of them count as well.
    """

    name = "user_knn"

    def __init__(self, seed: int = 0, *, neighbours: int = 200) -> None:
        if neighbours < 1:
            raise StarError(f"neighbours={neighbours} is below 1", "give 1 or more")
        self._seed, self._k = seed, neighbours

    def fit(self, visible: pa.Table) -> Self:
        self._graph = Graph.from_table(visible)
        self._items = _Items(self._graph)
        assert self._graph.user_ids is not None
        self._code = {name: code for code, name in enumerate(self._graph.user_ids.to_pylist())}
        self._norm = np.sqrt(np.maximum(np.diff(self._graph.user_indptr), 1))
        return self

    def rank(self, context: TaskContext) -> list[str]:
        graph, task = self._graph, context.task
        seen, asked = self._items.codes(dict.fromkeys(context.item_ids)), self._items.codes(task.candidates)
        seen = seen[seen >= 0]
        scores = np.zeros(len(asked))
        if len(seen):
            shared = np.bincount(np.concatenate([self._users(item) for item in seen]), minlength=graph.n_users)
            weight = shared / self._norm / np.sqrt(len(seen))
            own = self._code.get(task.user_id)
            if own is not None:
                weight[own] = 0.0
            if self._k < len(weight):
                weight[weight < np.partition(weight, -self._k)[-self._k]] = 0.0
            for place, item in enumerate(asked):
                if item >= 0:
                    scores[place] = weight[self._users(item)].sum()
        return ranked(task, scores, self._seed)

    def _users(self, item: int) -> np.ndarray:
        return self._graph.item_users[self._graph.item_indptr[item] : self._graph.item_indptr[item + 1]]
