"""Retrievers: items that a user with a history does not have yet, best first, by a baseline's scores of all items."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import pyarrow as pa

from star_rl.baselines import ItemKNN, Popularity, UserKNN
from star_rl.errors import StarError
from star_rl.neighbours import Graph
from star_rl.records import Task

RETRIEVERS = {kind.name: kind for kind in (Popularity, ItemKNN, UserKNN)}


class Retriever:
    """Finds items for a history; ``learned`` is the fingerprint of the visible interactions that it learned from.

    Raises:
        StarError: the name is unknown, or nothing is visible.
    """

    def __init__(self, name: str, visible: pa.Table) -> None:
        if name not in RETRIEVERS:
            raise StarError(f"there is no retriever {name!r}", f"one of {', '.join(RETRIEVERS)}")
        graph = Graph.from_table(visible)
        if graph.item_ids is None or not graph.n_items:
            raise StarError("there are no visible interactions to retrieve from", "split again with fewer held out")
        self.name, self._baseline = name, RETRIEVERS[name]().fit(visible)
        self._ids: list[str] = graph.item_ids.to_pylist()
        self._popularity = np.diff(graph.item_indptr)
        learned = sha256("\n".join(self._ids).encode())
        for array in (graph.user_indptr, graph.user_items):
            learned.update(np.ascontiguousarray(array).data)
        self.learned = learned.hexdigest()[:16]

    def retrieve(self, history: Sequence[str], count: int) -> list[str]:
        """Return items not in the history, best first; equals by popularity, then by id."""
        scores = self._baseline.scores(Task("", "", "", "", tuple(self._ids), "", 0), history)
        order = np.lexsort((np.arange(len(scores)), -self._popularity, -scores))
        had = set(history)
        best = (self._ids[code] for code in order[: count + len(had)].tolist())
        return [item for item in best if item not in had][:count]
