"""Retrievers: items that a user with a history does not have yet, best first.

Notation: I items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Protocol

import numpy as np
import pyarrow as pa

from star_rl.errors import StarError
from star_rl.neighbours import Graph


class Retriever(Protocol):
    """Finds items for a history, best first; ``learned`` is the fingerprint of what it learned from."""

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
    """Make a retriever by its name.

    Raises:
        StarError: the name is unknown.
    """
    if name not in RETRIEVERS:
        raise StarError(f"there is no retriever {name!r}", f"one of {', '.join(RETRIEVERS)}")
    return RETRIEVERS[name](visible)
