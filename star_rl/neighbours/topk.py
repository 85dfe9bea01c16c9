"""Top-k neighbours over the bipartite graph (paper: Collaborative Signal Translation).

ItemCF: item -> its users -> their items. UserCF: user -> its items -> their users, then what those similar users like.
Only the rows asked for are computed. Order: weight (as the float32 that is reported) descending, then id ascending.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from star_rl.errors import StarError
from star_rl.neighbours import blocks
from star_rl.neighbours.graph import Graph
from star_rl.neighbours.kernel import Walk
from star_rl.neighbours.weights import Decay, Weighting, WeightName
from star_rl.neighbours.windows import count_users, windows_of

if TYPE_CHECKING:
    import pyarrow as pa

#: Ids as strings, or a NumPy array of integer codes.
Ids: TypeAlias = "Sequence[str] | np.ndarray | pa.Array"


@dataclass(frozen=True)
class Neighbours:
    """Rows of (neighbour, weight, support), best first.

    Shapes: codes (n_rows,) int32, -1 for a key that the graph does not hold (its row is empty); indptr (n_rows +
    1,) int64; indices, weights, support (n,) int32, float32, uint16 (or int32 where that is too small). Support
    counts what is behind a weight: shared users (ItemCF; with windows, users who have both items in one window),
    shared items (UserCF), similar users who have the item (liked items).

    ``keys`` and ``ids`` (of the neighbours, by code) are Arrow strings, or None where the graph holds codes only.
    ``side`` is ``"item"``, ``"user"`` or ``"liked"``; ``complete`` says that every row of the graph was asked for.
    """

    codes: np.ndarray
    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    support: np.ndarray
    keys: pa.Array | None
    ids: pa.Array | None
    side: str
    k: int
    weighting: Weighting
    complete: bool

    def __len__(self) -> int:
        return len(self.codes)

    def to_arrow(self) -> pa.Table:
        """Return one row a key: key string, neighbours list<string>, weights list<float>, support list<int32>."""
        import pyarrow as pa

        if len(self.indices) > np.iinfo(np.int32).max:
            raise StarError(f"{len(self.indices)} neighbours do not fit one table", "ask for the rows in several parts")
        offsets = pa.array(self.indptr.astype(np.int32))
        keys = pa.array(self.codes).cast(pa.string()) if self.keys is None else self.keys
        codes = pa.array(self.indices)
        names = codes.cast(pa.string()) if self.ids is None else self.ids.take(codes)
        lists = [
            pa.ListArray.from_arrays(offsets, values) for values in (names, self.weights, self.support.astype(np.int32))
        ]
        return pa.table([keys, *lists], ["key", "neighbours", "weights", "support"])


def item_neighbours(
    graph: Graph,
    items: Ids | None = None,
    k: int = 50,
    weight: WeightName = "cosine",
    *,
    alpha: float = 0.5,
    decay: Decay | None = None,
    window: int = 0,
    threads: int | None = None,
    ray: str | None = None,
) -> Neighbours:
    """Return for each item (ItemCF) the k items that weigh most over shared users.

    Args:
        items: ids (or an array of codes), in the order wanted; None for all items.
        k: at most this many neighbours a row, at least 1.
        weight, alpha, decay, window: see :class:`star_rl.neighbours.Weighting`; ``decay`` and ``window`` need a graph
            with times.
        threads, ray: how to run it; they do not change the result. See :func:`star_rl.neighbours.blocks.run`.

    Raises:
        StarError: an option is out of range, or the graph has no times for ``decay`` or ``window``.
    """
    return _neighbours(graph, "item", items, k, Weighting(weight, alpha, decay, window), threads, ray)


def user_neighbours(
    graph: Graph,
    users: Ids | None = None,
    k: int = 50,
    weight: WeightName = "cosine",
    *,
    alpha: float = 0.5,
    decay: Decay | None = None,
    threads: int | None = None,
    ray: str | None = None,
) -> Neighbours:
    """Return for each user (UserCF) the k users that weigh most over shared items, as :func:`item_neighbours`."""
    return _neighbours(graph, "user", users, k, Weighting(weight, alpha, decay), threads, ray)


def liked_items(
    graph: Graph, similar: Neighbours, k: int = 50, *, threads: int | None = None, ray: str | None = None
) -> Neighbours:
    """Return the items that similar users have, by the sum of those users' weights, without the user's own items.

    Args:
        similar: the result of :func:`user_neighbours` on the same graph.

    Raises:
        StarError: ``similar`` is not such a result, or ``k`` is below 1.
    """
    if similar.side != "user" or (len(similar.codes) and int(similar.codes.max()) >= graph.n_users):
        raise StarError(
            f"liked_items got neighbours of side {similar.side!r}", "pass user_neighbours of the same graph"
        )
    walk = Walk(
        mid_indptr=similar.indptr,
        mid_indices=similar.indices,
        target_indptr=graph.user_indptr,
        target_indices=graph.user_items,
        row_scale=np.ones(len(similar)),
        target_scale=np.ones(graph.n_items),
        k=_checked(k),
        mid_values=similar.weights.astype(np.float64),
        own_indptr=graph.user_indptr,
        own_indices=graph.user_items,
    )
    known = np.flatnonzero(similar.codes >= 0).astype(np.int32)
    found = blocks.run(walk, known, similar.codes[known], threads, ray)
    indptr, indices, weights, support = _with_empty_rows(found, known, len(similar))
    keys, ids = similar.keys, graph.item_ids
    return Neighbours(
        similar.codes, indptr, indices, weights, support, keys, ids, "liked", k, similar.weighting, similar.complete
    )


def _neighbours(
    graph: Graph, side: str, asked: Ids | None, k: int, weighting: Weighting, threads: int | None, ray: str | None
) -> Neighbours:
    size, ids = (graph.n_items, graph.item_ids) if side == "item" else (graph.n_users, graph.user_ids)
    if asked is None:
        codes, keys = np.arange(size, dtype=np.int32), ids
    else:
        codes = graph.item_codes(asked) if side == "item" else graph.user_codes(asked)
        keys = _keys(asked, codes, ids)
    known = np.flatnonzero(codes >= 0)
    rows = codes if len(known) == len(codes) else codes[known]
    found = walk_rows(graph, side, rows, _checked(k), weighting, threads, ray)
    indptr, indices, weights, support = _with_empty_rows(found, known, len(codes))
    return Neighbours(codes, indptr, indices, weights, support, keys, ids, side, k, weighting, asked is None)


def walk_rows(
    graph: Graph, side: str, rows: np.ndarray, k: int, weighting: Weighting, threads: int | None, ray: str | None
) -> blocks.Rows:
    """Return the neighbours of these rows (codes) of one side.

    Raises:
        StarError: the weighting has a decay or a window but the graph has no times.
    """
    if not weighting.window:
        return blocks.run(_walk(graph, side, k, weighting), rows, rows, threads, ray)
    windows, halves = windows_of(graph, weighting.window, times=weighting.decay is not None)
    found = blocks.run(_walk(windows, side, k, weighting), rows, rows, threads, ray)
    return count_users(halves, rows, found)


def _walk(graph: Graph, side: str, k: int, weighting: Weighting) -> Walk:
    """Build the walk item -> user -> item (side ``"item"``) or user -> item -> user (``"user"``) with its scales.

    Raises:
        StarError: the weighting decays but the graph has no times.
    """
    forth = graph.item_indptr, graph.item_users, graph.item_times
    back = graph.user_indptr, graph.user_items, graph.user_times
    (indptr, indices, times), (back_indptr, back_indices, back_times) = (
        (forth, back) if side == "item" else (back, forth)
    )
    degrees = np.diff(indptr)
    factor = weighting.factor(np.diff(back_indptr))
    values = back_values = None
    if weighting.decay is not None:
        if times is None or back_times is None:
            raise StarError(
                "decay needs timestamps, and the graph has none", "build it with Graph.from_table(.., times=True)"
            )
        values, back_values = weighting.decay.values(times), weighting.decay.values(back_times)
    if factor is not None or values is not None:
        terms = np.ones(len(indices)) if factor is None else factor[indices]
        if values is not None:
            terms *= values * values
        rows = np.repeat(np.arange(len(degrees)), degrees)
        masses = np.bincount(rows, weights=terms, minlength=len(degrees))
        row_scale, target_scale = weighting.scales(masses)
        kinds = kind_scale = None
    else:  # masses are degrees: scales are worked out once per degree
        occurs = np.bincount(degrees) > 0
        by_kind = weighting.scales(np.flatnonzero(occurs).astype(np.float64))
        kinds = (np.cumsum(occurs, dtype=np.uint32) - np.uint32(1))[degrees]
        kind_scale = by_kind[1]
        row_scale, target_scale = by_kind[0][kinds], kind_scale[kinds]
    hops = indptr, indices, back_indptr, back_indices
    return Walk(*hops, row_scale, target_scale, k, kinds, kind_scale, None, values, factor, back_values)


def _checked(k: int) -> int:
    if not 1 <= k <= 100_000:
        raise StarError(f"k = {k} lies outside 1..100000", "give the number of neighbours a row shall have")
    return k


def _keys(asked: Ids, codes: np.ndarray, ids: pa.Array | None) -> pa.Array | None:
    if isinstance(asked, np.ndarray) and asked.dtype.kind in "iu":
        return None if ids is None else ids.take(codes)
    import pyarrow as pa

    if isinstance(asked, pa.ChunkedArray):
        asked = asked.combine_chunks()
    return asked.cast(pa.string()) if isinstance(asked, pa.Array) else pa.array(list(asked), pa.string())


def _with_empty_rows(found: blocks.Rows, at: np.ndarray, n_rows: int) -> blocks.Rows:
    """Spread computed rows over ``n_rows``; rows not in ``at`` are empty."""
    indptr, indices, weights, support = found
    if len(at) == n_rows:
        return found
    lengths = np.zeros(n_rows, np.int64)
    lengths[at] = np.diff(indptr)
    spread = np.zeros(n_rows + 1, np.int64)
    np.cumsum(lengths, out=spread[1:])
    return spread, indices, weights, support
