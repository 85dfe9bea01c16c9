"""Half-overlapping windows of users' sequences: items count as chosen together inside one window only.

A user's items, ordered by time (ties by item id), are cut twice into windows of ``size``, the second cut half a window
later. So each item stands in two windows, and two close items may share both. A walk over windows weighs by shared
windows; :func:`count_users` turns its supports into numbers of users.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from star_rl.errors import StarError
from star_rl.neighbours.graph import Graph

if TYPE_CHECKING:
    from star_rl.neighbours.blocks import Rows

#: Rows whose supports are corrected at once.
_ROWS = 1 << 10


class Windows(NamedTuple):
    """Two graphs in which a "user" is a piece of a user's sequence: windows, and the halves that two windows share."""

    windows: Graph
    halves: Graph


def windows_of(graph: Graph, size: int, times: bool = False) -> Windows:
    """Cut the users of ``graph`` into half-overlapping windows of ``size`` items; items keep their codes and ids.

    A user's item counts once, at its latest time, as everywhere in the graph. With ``times`` windows have them too.

    Raises:
        StarError: the graph has no times.
    """
    if graph.user_times is None:
        raise StarError(
            "windows need timestamps, and the graph has none", "build it with Graph.from_table(.., times=True)"
        )
    lengths = np.diff(graph.user_indptr)
    order = np.lexsort((graph.user_times, graph.users_of_edges()))  # stable: ties stay in the order of item codes
    items = graph.user_items[order]
    stamps = np.tile(graph.user_times[order], 2) if times else None
    place = np.arange(graph.n_edges) - np.repeat(graph.user_indptr[:-1], lengths)
    first, second = place % size == 0, (place == 0) | ((place + size // 2) % size == 0)

    def cut(starts: np.ndarray, items: np.ndarray, stamps: np.ndarray | None) -> Graph:
        made = Graph.from_codes(np.cumsum(starts) - 1, items, stamps, n_items=graph.n_items)
        return replace(made, item_ids=graph.item_ids)

    both = np.concatenate([first, second])
    return Windows(cut(both, np.tile(items, 2), stamps), cut(first | second, items, None))


def count_users(halves: Graph, rows: np.ndarray, found: Rows) -> Rows:
    """Turn the supports of ``found``, a walk over windows for these item codes, into numbers of users, in place.

    Two items of one user share one window, or two if they share a half. Users are windows less halves.
    """
    import scipy.sparse as sp

    indptr, indices, weights, support = found
    ones = np.ones(halves.n_edges, np.int32)
    forth = sp.csr_matrix((ones, halves.item_users, halves.item_indptr), (halves.n_items, halves.n_users))
    back = sp.csr_matrix((ones, halves.user_items, halves.user_indptr), (halves.n_users, halves.n_items))
    for low in range(0, len(rows), _ROWS):
        edges = indptr[low : low + _ROWS + 1]
        at = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
        if not len(at):  # SciPy answers an empty choice by a matrix
            continue
        shared = forth[rows[low : low + _ROWS]] @ back
        shared.sort_indices()  # else each look-up reads the whole row
        part = slice(edges[0], edges[-1])
        support[part] -= np.asarray(shared[at, indices[part]]).ravel().astype(support.dtype)
    return indptr, indices, weights, support
