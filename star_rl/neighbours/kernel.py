"""Typed functions over the compiled kernel (``_kernel.c``), called through ctypes, which releases the GIL."""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from star_rl.errors import StarError

_VERSION = 7

Result = TypeVar("Result")


@dataclass(frozen=True)
class Walk:
    """The input of a block of rows: plain arrays, so that processes share it by shared memory.

    A walk goes row -> mid -> target over two CSR matrices. ``weight(row, j) = S * target_scale[j] * row_scale[row]``
    with ``S = sum over mids of mid_values[edge] * mid_factor[mid] * target_values[edge]``; a missing array counts as
    ones. Targets in the row's own list (``own_*``), or else the row itself, are left out.

    Where paths are merely counted, targets of one degree have one scale: ``target_scale = kind_scale[target_kinds]``.
    ``packed`` is what :func:`pack` makes of the targets, or None.

    Shapes: mid_indptr (n_rows + 1,) int64; target_indptr (n_mids + 1,) int64; indices int32; values and scales float64;
    target_kinds (n_targets,) uint32; kind_scale (n_kinds,) float64; packed as target_indices, uint32.
    """

    mid_indptr: np.ndarray
    mid_indices: np.ndarray
    target_indptr: np.ndarray
    target_indices: np.ndarray
    row_scale: np.ndarray
    target_scale: np.ndarray
    k: int
    target_kinds: np.ndarray | None = None
    kind_scale: np.ndarray | None = None
    packed: np.ndarray | None = None
    mid_values: np.ndarray | None = None
    mid_factor: np.ndarray | None = None
    target_values: np.ndarray | None = None
    own_indptr: np.ndarray | None = None
    own_indices: np.ndarray | None = None

    @property
    def n_targets(self) -> int:
        return len(self.target_scale)

    @functools.cached_property
    def support_type(self) -> type[np.uint16] | type[np.int32]:
        """The smaller type that holds every support: no more than the mids of the largest row."""
        most = int(np.diff(self.mid_indptr).max(initial=0))
        return np.uint16 if most <= np.iinfo(np.uint16).max else np.int32

    @property
    def kind_bits(self) -> int:
        """How many bits tell the kinds apart."""
        return 0 if self.kind_scale is None else max(len(self.kind_scale) - 1, 0).bit_length()

    @property
    def unweighted(self) -> bool:
        """Whether paths are only counted, so that integer counters suffice."""
        return self.target_kinds is not None


@functools.cache
def library() -> ctypes.CDLL:
    """Load the compiled kernel.

    Raises:
        StarError: the kernel was not built, or the build is of another version or another machine.
    """
    folder = Path(__file__).parent
    files = [folder / f"_kernel{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    for file in filter(Path.exists, files):
        try:
            loaded = ctypes.CDLL(str(file))
            version = loaded.star_kernel_version()
        except (OSError, AttributeError) as error:
            raise StarError(f"the neighbour kernel {file} does not load: {error}", "run make install again") from error
        if version != _VERSION:
            raise StarError(
                f"the neighbour kernel {file} has version {version}, not {_VERSION}", "run make install again"
            )
        loaded.star_dedupe.restype = ctypes.c_int64
        return loaded
    raise StarError(
        f"the neighbour kernel was not built: there is no {files[0]}",
        "install a C compiler (apt install gcc) and run make install again",
    )


def _at(array: np.ndarray | None) -> ctypes.c_void_p | None:
    if array is None:
        return None
    if not array.flags.c_contiguous:
        raise ValueError("the kernel takes contiguous arrays")
    return ctypes.c_void_p(array.ctypes.data)


def _n(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)


#: Rows or edges below which a second thread is not worth its start.
PIECE = 1 << 17


def builders() -> int:
    """Return how many threads build a graph: at most two, since memory bandwidth limits them."""
    return min(2, len(os.sched_getaffinity(0)))


def in_pieces(piece: Callable[[int, int], Result], n: int, threads: int) -> list[Result]:
    """``piece(low, high)`` for equal parts of ``range(n)``, one a thread."""
    parts = max(1, min(threads, n // PIECE))
    edges = [part * n // parts for part in range(parts + 1)]
    if parts == 1:
        return [piece(0, n)]
    with ThreadPoolExecutor(parts) as pool:
        return list(pool.map(piece, edges[:-1], edges[1:]))


def pointers(keys: np.ndarray, n_keys: int, what: str) -> tuple[np.ndarray, bool]:
    """Return row pointers of the int32 codes ``keys``, and whether they ascend.

    Returns:
        indptr, shape (n_keys + 1,) int64; True if ``keys`` ascend.

    Raises:
        StarError: a code lies outside ``0 .. n_keys - 1``.
    """

    def piece(low: int, high: int) -> tuple[np.ndarray, int]:
        indptr = np.empty(n_keys + 1, np.int64)
        ascending = library().star_pointers(_n(high - low), _at(keys[low:high]), _n(n_keys), _at(indptr))
        return indptr, min(ascending, 1 if low == 0 or keys[low - 1] <= keys[low] else 0)

    parts = in_pieces(piece, len(keys), builders())
    if any(ascending < 0 for _, ascending in parts):
        raise StarError(f"a code of {what} lies outside 0..{n_keys - 1}", f"codes count the {what} from 0 without gaps")
    indptr = parts[0][0]
    for more, _ in parts[1:]:  # pointers are sums of counts, so those of the parts add up
        indptr += more
    return indptr, all(ascending for _, ascending in parts)


def scatter(
    keys: np.ndarray, values: np.ndarray, times: np.ndarray | None, indptr: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """``values`` (and ``times``) in stable order of ``keys``, whose row pointers are ``indptr``."""
    out, out_times = np.empty_like(values), None if times is None else np.empty_like(times)
    cursor = indptr[:-1].copy()
    library().star_scatter(_n(len(keys)), _at(keys), _at(values), _at(times), _at(cursor), _at(out), _at(out_times))
    return out, out_times


def transpose(
    indptr: np.ndarray, indices: np.ndarray, n_columns: int, times: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Transpose a CSR pattern (and times): rows of the result hold their indices in ascending order."""
    to, _ = pointers(indices, n_columns, "columns")
    out, out_times = np.empty_like(indices), None if times is None else np.empty_like(times)
    n_rows = len(indptr) - 1
    half = int(np.searchsorted(indptr, len(indices) // 2))

    def piece(first: int, stop: int, backwards: int) -> None:
        cursor = (to[1:] if backwards else to[:-1]).copy()
        arrays = map(_at, (indptr, indices, times, cursor, out, out_times))
        library().star_transpose(_n(first), _n(stop), ctypes.c_int32(backwards), *arrays)

    if len(indices) < 2 * PIECE or builders() == 1:
        piece(0, n_rows, 0)
    else:  # two threads fill the lists from both ends
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(piece, half, n_rows, 1)
            piece(0, half, 0)
            other.result()
    return to, out, out_times


def ascends(indptr: np.ndarray, indices: np.ndarray) -> bool:
    """Return whether the indices of every row ascend strictly."""

    def piece(low: int, high: int) -> bool:
        return bool(library().star_ascends(_n(high - low), _at(indptr[low : high + 1]), _at(indices)))

    return all(in_pieces(piece, len(indptr) - 1, builders()))


def dedupe(
    indptr: np.ndarray, indices: np.ndarray, times: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Merge adjacent equal indices of a row, keep the latest time. The arguments are consumed."""
    kept = library().star_dedupe(_n(len(indptr) - 1), _at(indptr), _at(indices), _at(times))
    if kept == len(indices):
        return indptr, indices, times
    return indptr, indices[:kept].copy(), None if times is None else times[:kept].copy()


def work(walk: Walk, rows: np.ndarray, threads: int = 1) -> np.ndarray:
    """Count the two-hop paths of each row: its cost, and an upper bound of its neighbours. Shape: (n_rows,), int64."""
    steps = np.empty(len(rows), np.int64)
    hops = _at(walk.mid_indptr), _at(walk.mid_indices), _at(walk.target_indptr)

    def piece(low: int, high: int) -> None:
        library().star_work(_n(high - low), _at(rows[low:high]), *hops, _at(steps[low:high]))

    in_pieces(piece, len(rows), threads)
    return steps


def pack(walk: Walk, threads: int = 1) -> Walk:
    """Pack the targets with their kinds, which saves a look-up per target, for 4 bytes an edge.

    Returns the same walk where that saves nothing: in a weighted walk, or beyond 32 bits.
    """
    kinds = walk.target_kinds
    if kinds is None or max(walk.n_targets - 1, 0).bit_length() + walk.kind_bits > 32:
        return walk
    targets = walk.target_indices
    packed = np.empty(len(targets), np.uint32)
    bits = ctypes.c_int32(walk.kind_bits)

    def piece(low: int, high: int) -> None:
        library().star_pack(_n(high - low), _at(targets[low:high]), _at(kinds), bits, _at(packed[low:high]))

    in_pieces(piece, len(targets), threads)
    return replace(walk, packed=packed)


class Walker:
    """Runs blocks of rows of one walk, reusing its scratch memory. One per thread."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self._touched = np.empty(walk.n_targets + 1, np.int32)
        if walk.unweighted:
            # A row's counts go up to its degree, so they fit 16 bits where supports do: half the cache.
            self._counters = np.zeros(walk.n_targets, np.uint16 if walk.support_type == np.uint16 else np.uint32)
        else:
            self._counts = np.zeros(walk.n_targets, np.uint32)
            self._sums = np.zeros(walk.n_targets, np.float64)

    def run(
        self,
        rows: np.ndarray,
        own_rows: np.ndarray,
        starts: np.ndarray,
        out: tuple[np.ndarray, np.ndarray, np.ndarray],
        lengths: np.ndarray,
    ) -> None:
        """Write the top-k of ``rows`` into ``out`` = (indices int32, weights float32, support uint16 or int32).

        Args:
            rows: rows of ``mid_indptr``, int32. own_rows: rows of the own list (or the targets to leave out), int32.
            starts: where each row's entries begin in ``out``, int64. lengths: filled with their numbers, int32.
        """
        walk = self.walk
        narrow = ctypes.c_int32(out[2].dtype == np.uint16)
        outputs = (_at(starts), *map(_at, out), narrow, _at(lengths))
        mids, targets = (_at(walk.mid_indptr), _at(walk.mid_indices)), _at(walk.target_indptr)
        n, k, touched = _n(len(rows)), ctypes.c_int32(walk.k), _at(self._touched)
        if walk.unweighted:
            packed, kinds = (walk.target_indices, walk.target_kinds) if walk.packed is None else (walk.packed, None)
            failed = library().star_count_rows(
                *(n, _at(rows), *mids, targets, _at(packed), ctypes.c_int32(walk.kind_bits), _at(kinds)),
                *(_at(walk.row_scale), _at(walk.kind_scale), k, _at(self._counters), touched, *outputs),
            )
        else:
            values = (_at(walk.mid_values), _at(walk.mid_factor))
            own = (_at(walk.own_indptr), _at(walk.own_indices))
            factors = (_at(walk.target_indices), _at(walk.target_values))
            failed = library().star_weigh_rows(
                *(n, _at(rows), _at(own_rows), *mids, *values, targets, *factors, *own),
                *(_at(walk.row_scale), _at(walk.target_scale), k, _at(self._sums), _at(self._counts), touched),
                *outputs,
            )
        if failed:
            raise MemoryError(f"no memory for lists of k = {walk.k} candidates")


def compact(
    starts: np.ndarray, lengths: np.ndarray, out: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Close the gaps between the rows of ``out`` and give back what is not needed. ``out`` is consumed."""
    total = int(lengths.sum())
    for array in out:
        library().star_compact(_n(len(starts)), _at(starts), _at(lengths), _n(array.itemsize), _at(array))
        array.resize(total, refcheck=False)  # realloc: shrinks in place
    return out
