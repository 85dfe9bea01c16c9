"""Random, popularity, ItemKNN and UserKNN: baselines that are counted, not trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import pyarrow as pa

from star_rl.baselines.base import Baseline, codes_of
from star_rl.neighbours import Graph
from star_rl.options import Size, Whole, section
from star_rl.progress import Progress
from star_rl.records import Task


@section
class Random(Baseline):
    """A uniformly random order: HR_avg 15 % in expectation over 20 candidates."""

    seed: Whole = 0
    name = "random"

    def fit(self, visible: pa.Table, progress: Progress | None = None) -> Self:
        return self

    def scores(self, task: Task, history: Sequence[str]) -> np.ndarray:
        return np.zeros(len(task.candidates))


@section
class Counted(Baseline):
    """A baseline that reads the bipartite graph. Subclasses set up what they need in ``_prepare``."""

    seed: Whole = 0

    def fit(self, visible: pa.Table, progress: Progress | None = None) -> Self:
        self.graph = Graph.from_table(visible)
        assert self.graph.item_ids is not None, "a graph made from a table has ids"
        self._code = {name: code for code, name in enumerate(self.graph.item_ids.to_pylist())}
        self._prepare()
        return self

    def _prepare(self) -> None:
        pass

    def _codes(self, task: Task, history: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the candidates (-1: nobody visibly has it) and the distinct known items of the history."""
        seen = codes_of(self._code, dict.fromkeys(history))
        return codes_of(self._code, task.candidates), seen[seen >= 0]


@section
class Popularity(Counted):
    """Candidates by the number of visible users who have them."""

    name = "popularity"

    def scores(self, task: Task, history: Sequence[str]) -> np.ndarray:
        asked, _ = self._codes(task, history)
        users = np.append(np.diff(self.graph.item_indptr), 0)  # an unseen item's -1 reads the appended zero
        return users[asked].astype(float)


@section
class ItemKNN(Counted):
    """Candidates by their summed cosine to the items of the history, over visible users.

    ``score(c) = sum over h in history of |users(h) & users(c)| / sqrt(|users(h)| |users(c)|)``
    """

    name = "item_knn"

    def _prepare(self) -> None:
        from scipy.sparse import csr_array

        graph = self.graph
        ones = np.ones(graph.n_edges, np.float32)
        by_item = csr_array((ones, graph.user_items, graph.user_indptr), (graph.n_users, graph.n_items)).T.tocsr()
        norm = np.sqrt(np.maximum(by_item.sum(axis=1), 1.0))
        by_item.data /= np.repeat(norm, np.diff(by_item.indptr)).astype(np.float32)
        self._by_item = by_item

    def scores(self, task: Task, history: Sequence[str]) -> np.ndarray:
        asked, seen = self._codes(task, history)
        scores, known = np.zeros(len(asked)), asked >= 0
        if len(seen) and known.any():
            profile = self._by_item[seen].sum(axis=0)
            scores[known] = self._by_item[asked[known]] @ np.asarray(profile).ravel()
        return scores


@section
class UserKNN(Counted):
    """Candidates by the summed weight of the most similar visible users who have them.

    ``score(c) = sum over the k nearest users v that have c of cosine(history, items(v))``, where the cosine of two sets
    is ``|a & b| / sqrt(|a| |b|)``. The history stands for the user, so one that is absent from ``visible`` is served
    alike; the user's own row is never a neighbour. Without a history, or where no neighbour has any of the candidates,
    all tie.

    Args:
        neighbours: k. Users as similar as the last of them count as well.
    """

    neighbours: Size = 200
    name = "user_knn"

    def _prepare(self) -> None:
        from scipy.sparse import csr_array

        graph = self.graph
        assert graph.user_ids is not None, "a graph made from a table has ids"
        self._users = {name: code for code, name in enumerate(graph.user_ids.to_pylist())}
        self._norm = np.sqrt(np.maximum(np.diff(graph.user_indptr), 1))
        ones = np.ones(graph.n_edges)
        self._by_item = csr_array((ones, graph.item_users, graph.item_indptr), (graph.n_items, graph.n_users))

    def scores(self, task: Task, history: Sequence[str]) -> np.ndarray:
        asked, seen = self._codes(task, history)
        scores, known = np.zeros(len(asked)), asked >= 0
        if len(seen) and known.any():
            shared = np.asarray(self._by_item[seen].sum(axis=0)).ravel()
            weight = shared / self._norm / np.sqrt(len(seen))
            own = self._users.get(task.user_id)
            if own is not None:
                weight[own] = 0.0
            if self.neighbours < len(weight):
                weight[weight < np.partition(weight, -self.neighbours)[-self.neighbours]] = 0.0
            scores[known] = self._by_item[asked[known]] @ weight
        return scores
