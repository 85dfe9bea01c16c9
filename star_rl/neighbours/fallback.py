"""The functions of ``_kernel.c`` in NumPy: the same arguments' meaning, the same bits, several times slower.

Used where no compiler was there at installation, and as the oracle of the kernel's tests.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from star_rl.neighbours.kernel import Walk

#: Two-hop steps that are expanded at once (about 40 bytes each).
STEPS = 2_000_000


def expand(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """The concatenation of ``range(start, stop)`` over all pairs. Shape: (sum of lengths,), int64."""
    lengths = stops - starts
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)


def pointers(keys: np.ndarray, n_keys: int) -> tuple[np.ndarray, bool]:
    """Row pointers of ``keys`` (all in range) and whether the keys ascend."""
    indptr = np.zeros(n_keys + 1, np.int64)
    np.cumsum(np.bincount(keys, minlength=n_keys), out=indptr[1:])
    return indptr, bool(np.all(keys[1:] >= keys[:-1]))


def transpose(
    indptr: np.ndarray, indices: np.ndarray, times: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Indices (and times) of the transposed CSR pattern, rows ascending within each column."""
    rows = np.repeat(np.arange(len(indptr) - 1, dtype=np.int32), np.diff(indptr))
    order = np.argsort(indices, kind="stable")
    return rows[order], None if times is None else times[order]


def ascends(indptr: np.ndarray, indices: np.ndarray) -> bool:
    """Whether the indices of every row ascend strictly."""
    rises = indices[1:] > indices[:-1]
    starts = indptr[1:-1]
    rises[starts[(starts > 0) & (starts < len(indices))] - 1] = True  # from one row to the next anything goes
    return bool(np.all(rises))


def dedupe(
    indptr: np.ndarray, indices: np.ndarray, times: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Equal indices that stand side by side in a row become one, with the latest time."""
    rows = np.repeat(np.arange(len(indptr) - 1, dtype=np.int64), np.diff(indptr))
    first = np.ones(len(indices), bool)
    first[1:] = (indices[1:] != indices[:-1]) | (rows[1:] != rows[:-1])
    heads = np.flatnonzero(first)
    kept = np.zeros_like(indptr)
    np.cumsum(np.bincount(rows[heads], minlength=len(indptr) - 1), out=kept[1:])
    latest = None if times is None else (np.maximum.reduceat(times, heads) if len(heads) else times)
    return kept, indices[heads], latest


def work(walk: Walk, rows: np.ndarray) -> np.ndarray:
    """Two-hop steps of each row. Shape: (n_rows,), int64."""
    degrees = np.diff(walk.target_indptr)
    starts, stops = walk.mid_indptr[rows], walk.mid_indptr[rows + 1]
    ends = np.concatenate([[0], np.cumsum(degrees[walk.mid_indices[expand(starts, stops)]])])
    bounds = np.concatenate([[0], np.cumsum(stops - starts)])
    return ends[bounds[1:]] - ends[bounds[:-1]]


def walk_rows(
    walk: Walk,
    rows: np.ndarray,
    own_rows: np.ndarray,
    starts: np.ndarray,
    out: tuple[np.ndarray, np.ndarray, np.ndarray],
    lengths: np.ndarray,
) -> None:
    """Top-k of the rows, written into ``out`` = (indices, weights, support) from ``starts``."""
    steps = np.cumsum(work(walk, rows))
    edges = [0]
    while edges[-1] < len(rows):
        done = steps[edges[-1] - 1] if edges[-1] else 0
        edges.append(max(edges[-1] + 1, int(np.searchsorted(steps, done + STEPS, side="right"))))
    for low, high in pairwise(edges):
        _walk_block(walk, rows[low:high], own_rows[low:high], starts[low:high], out, lengths[low:high])


def _walk_block(
    walk: Walk,
    rows: np.ndarray,
    own_rows: np.ndarray,
    starts: np.ndarray,
    out: tuple[np.ndarray, np.ndarray, np.ndarray],
    lengths: np.ndarray,
) -> None:
    n = walk.n_targets
    first, stop = walk.mid_indptr[rows], walk.mid_indptr[rows + 1]
    hop = expand(first, stop)  # one entry an edge row -> mid
    hop_row = np.repeat(np.arange(len(rows), dtype=np.int64), stop - first)
    mids = walk.mid_indices[hop]
    low, high = walk.target_indptr[mids], walk.target_indptr[mids + 1]
    step = expand(low, high)  # one entry a two-hop path
    key = np.repeat(hop_row, high - low) * n + walk.target_indices[step]
    pairs, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    if walk.unweighted:
        sums: np.ndarray = counts.astype(np.float64)
    else:
        value = np.ones(len(hop)) if walk.mid_values is None else walk.mid_values[hop]
        if walk.mid_factor is not None:
            value = value * walk.mid_factor[mids]
        value = np.repeat(value, high - low)
        if walk.target_values is not None:
            value = value * walk.target_values[step]
        sums = np.bincount(inverse, weights=value, minlength=len(pairs))  # adds in path order, as the kernel does
    pair_row, target = pairs // n, (pairs % n).astype(np.int32)
    weight = (sums * walk.target_scale[target] * walk.row_scale[rows[pair_row]]).astype(np.float32)
    keep = ~np.isin(pairs, _own_pairs(walk, own_rows))
    pair_row, target, weight, counts = pair_row[keep], target[keep], weight[keep], counts[keep]
    order = np.lexsort((target, -weight, pair_row))
    sorted_rows = pair_row[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_rows, sorted_rows)
    best = order[rank < walk.k]
    lengths[:] = np.bincount(pair_row[best], minlength=len(rows))
    place = expand(starts, starts + lengths)
    for array, values in zip(out, (target, weight, counts), strict=True):
        array[place] = values[best]


def _own_pairs(walk: Walk, own_rows: np.ndarray) -> np.ndarray:
    """Keys (row of the block x n_targets + target) of what a row must not list."""
    rows = np.arange(len(own_rows), dtype=np.int64)
    if walk.own_indptr is None or walk.own_indices is None:
        return rows * walk.n_targets + own_rows
    start, stop = walk.own_indptr[own_rows], walk.own_indptr[own_rows + 1]
    return np.repeat(rows, stop - start) * walk.n_targets + walk.own_indices[expand(start, stop)]
