"""New interactions without a rebuild: only the affected rows are computed again.

What a new or renewed pair (user, item) changes, for the side "item" (the side "user" mirrors it):

- the mass of the item, hence its own row and the row of every item that shares a user with it;
- the sums of the item with the user's other items, which share that user and so are among those rows;
- for ``log`` also f_u of the user, hence the masses of all the user's items and the rows around each of them.

Rows only ever grow neighbours, so the sets are read off the new graph. With windows a pair moves all that the user has
after it to other places, so all items of the user are walked again; neighbours that are lost are among them. All else
is carried over with codes shifted; as codes keep the order of ids, ties stay broken as a rebuild breaks them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from star_rl.errors import StarError
from star_rl.neighbours import blocks
from star_rl.neighbours.graph import Graph
from star_rl.neighbours.topk import Neighbours, walk_rows
from star_rl.neighbours.windows import windows_of

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Updated:
    """The graph with all interactions, the neighbours on it, and how many rows were walked again."""

    graph: Graph
    neighbours: Neighbours
    recomputed: int


def update(
    graph: Graph,
    neighbours: Neighbours,
    interactions: pa.Table,
    *,
    threads: int | None = None,
    ray: str | None = None,
) -> Updated:
    """Update the neighbours of ``graph`` with further interactions; equal to a rebuild on all of them.

    Args:
        neighbours: from :func:`item_neighbours` or :func:`user_neighbours` on ``graph``. If they were complete, rows
            of new ids are added; else the same keys stay.
        interactions: columns as for :meth:`Graph.from_table`; pairs that the graph holds already are no change.

    Raises:
        StarError: neighbours of another kind, a graph without ids, or a decay without a fixed ``now`` (with the
            latest timestamp as reference every weight moves, and no row could be kept).
    """
    if neighbours.side == "liked":
        raise StarError(
            "liked items cannot be updated in place", "update the user neighbours, then call liked_items again"
        )
    if neighbours.weighting.decay is not None and neighbours.weighting.decay.now is None:
        raise StarError("an update needs a decay with a fixed reference time", "give Decay(half_life, now=..)")
    grown = graph.extended(interactions)
    size = grown.n_items if neighbours.side == "item" else grown.n_users
    touched = np.zeros(size + 1, bool)  # the last entry stands for keys that are not in the graph (code -1)
    touched[_touched(graph, grown, neighbours)] = True
    old_ids, new_ids = (
        (graph.item_ids, grown.item_ids) if neighbours.side == "item" else (graph.user_ids, grown.user_ids)
    )
    assert old_ids is not None and new_ids is not None  # extended() has refused a graph without ids
    shift = _codes_in(old_ids, new_ids)
    if neighbours.complete:
        codes, keys = np.arange(len(new_ids), dtype=np.int32), new_ids
        old_row = np.full(len(codes), -1, np.int64)
        old_row[shift] = np.arange(len(neighbours))
        touched[np.flatnonzero(old_row < 0)] = True
    else:
        keys = neighbours.keys
        codes = _codes_in(keys, new_ids)
        old_row = np.arange(len(codes), dtype=np.int64)
    again = np.flatnonzero(touched[codes])
    fresh = walk_rows(grown, neighbours.side, codes[again], neighbours.k, neighbours.weighting, threads, ray)
    indptr, indices, weights, support = _merge(neighbours, shift, old_row, again, fresh)
    result = replace(
        neighbours,
        codes=codes,
        indptr=indptr,
        indices=indices,
        weights=weights,
        support=support,
        keys=keys,
        ids=new_ids,
    )
    return Updated(grown, result, len(again))


def _ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Concatenate ``range(start, stop)`` over all pairs. Shape: (sum of lengths,), int64."""
    lengths = stops - starts
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)


def _codes_in(ids: pa.Array, known: pa.Array) -> np.ndarray:
    import pyarrow.compute as pc

    found = pc.fill_null(pc.index_in(ids, value_set=known), -1)
    return np.ascontiguousarray(found.to_numpy(zero_copy_only=False), np.int32)


def _touched(graph: Graph, grown: Graph, neighbours: Neighbours) -> np.ndarray:
    """Rows of the grown graph whose neighbours may differ (see the head of this module). Shape: (n,), with repeats."""
    users, items = _changed_pairs(graph, grown)
    weighting = neighbours.weighting
    rows, mids = (items, users) if neighbours.side == "item" else (users, items)
    moved = rows
    if weighting.name == "log" or weighting.window:
        _, (indptr, indices) = _hops(grown, neighbours.side)
        mids = np.unique(mids)
        moved = indices[_ranges(indptr[mids], indptr[mids + 1])]
    if weighting.name == "log":
        rows = moved
    if weighting.window:
        grown = windows_of(grown, weighting.window).windows
    (indptr, indices), (back_indptr, back_indices) = _hops(grown, neighbours.side)
    rows = np.unique(rows)
    near = np.unique(indices[_ranges(indptr[rows], indptr[rows + 1])])
    around = back_indices[_ranges(back_indptr[near], back_indptr[near + 1])]
    return np.concatenate([moved, around])


def _hops(graph: Graph, side: str) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Return (indptr, indices) from rows to mids, and back."""
    forth = (graph.item_indptr, graph.item_users), (graph.user_indptr, graph.user_items)
    return forth if side == "item" else forth[::-1]


def _changed_pairs(graph: Graph, grown: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that are new or have a later time, as codes of the grown graph. Shapes: (n,), (n,)."""
    assert graph.user_ids is not None and graph.item_ids is not None
    assert grown.user_ids is not None and grown.item_ids is not None
    to_user, to_item = _codes_in(graph.user_ids, grown.user_ids), _codes_in(graph.item_ids, grown.item_ids)
    width = np.int64(max(grown.n_items, 1))
    before = to_user[graph.users_of_edges()] * width + to_item[graph.user_items]
    after = grown.users_of_edges() * width + grown.user_items  # both ascend: edges are sorted by user, then item
    at = np.searchsorted(after, before)
    changed = np.ones(len(after), bool)
    changed[at] = False
    if graph.user_times is not None and grown.user_times is not None:
        changed[at] = graph.user_times != grown.user_times[at]
    pairs = after[changed]
    return pairs // width, pairs % width


def _merge(
    old: Neighbours, shift: np.ndarray, old_row: np.ndarray, again: np.ndarray, fresh: blocks.Rows
) -> blocks.Rows:
    """Rows ``again`` from ``fresh``, all others from ``old`` with shifted codes."""
    n = len(old_row)
    source = old_row.copy()
    source[again] = -1
    kept = np.flatnonzero(source >= 0)
    lengths = np.zeros(n, np.int64)
    lengths[kept] = old.indptr[source[kept] + 1] - old.indptr[source[kept]]
    lengths[again] = np.diff(fresh[0])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    size = int(indptr[-1])
    take = _ranges(old.indptr[source[kept]], old.indptr[source[kept] + 1])
    to_kept, to_fresh = _ranges(indptr[kept], indptr[kept + 1]), _ranges(indptr[again], indptr[again + 1])
    indices, weights, support = np.empty(size, np.int32), np.empty(size, np.float32), np.empty(size, fresh[3].dtype)
    indices[to_kept], indices[to_fresh] = shift[old.indices[take]], fresh[1]
    weights[to_kept], weights[to_fresh] = old.weights[take], fresh[2]
    support[to_kept], support[to_fresh] = old.support[take], fresh[3]
    return indptr, indices, weights, support
