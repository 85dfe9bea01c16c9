"""External sort of Arrow rows by a key, in memory that does not grow with them.

Rows come in sorted batches. They stay in memory up to a limit and then go to one spill file, a record batch each. In
the end the batches are merged a range of keys at a time, through a memory map of which only that range is held.
:mod:`star_rl.sources.sink` compares it with DuckDB.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_rl.files import writing_error
from star_rl.sources.cleaning import whole

#: Bytes of rows that are merged at a time.
PIECE = 16 << 20
#: One key in so many is looked at to cut the keys into ranges.
_STEP = 512


class Runs:
    """Rows of one schema, sorted by its first column (strings, byte order) and, where it has one, its ``timestamp``.

    Rows that compare equal keep the order in which they were added.

    Args:
        file: the spill file; it is made when memory runs out.
        memory: bytes kept in memory.
    """

    def __init__(self, schema: pa.Schema, file: Path, memory: int) -> None:
        self.schema, self.file, self.memory = schema, file, memory
        self.rows = 0
        #: Batches spilled so far.
        self.spilled = 0
        self._held: list[pa.RecordBatch] = []
        self._total = 0
        self._open: contextlib.ExitStack | None = None
        self._writer: pa.ipc.RecordBatchFileWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows that :func:`sorted_batch` made.

        Raises:
            StarError: the spill file cannot be written.
        """
        if not len(batch):
            return
        self.rows += len(batch)
        self._held.append(batch)
        self._total += batch.nbytes
        if self._writer is None and self._total <= self.memory:
            return
        try:
            if self._writer is None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self._open = contextlib.ExitStack()
                sink = self._open.enter_context(pa.OSFile(str(self.file), "wb"))
                self._writer = self._open.enter_context(pa.ipc.new_file(sink, self.schema))
            for held in self._held:
                self._writer.write_batch(held)
                self.spilled += 1
        except OSError as error:
            raise writing_error(self.file, error) from error
        self._held = []

    def close(self) -> None:
        """Close and remove the spill file."""
        if self._open is not None:
            with contextlib.suppress(OSError):
                self._open.close()
            self._open = self._writer = None
        self.file.unlink(missing_ok=True)

    def pieces(self) -> Iterator[pa.Table]:
        """Yield all rows in order, in tables of about :data:`PIECE` bytes that hold each key whole. Only once.

        Raises:
            StarError: the spill file cannot be written.
        """
        if self._open is None:
            held, self._held = self._held, []
            yield from self._merged(held, None)
            return
        try:
            self._open.close()
            self._open = self._writer = None
        except OSError as error:
            raise writing_error(self.file, error) from error
        with open(self.file, "rb") as handle:  # unmapped with the last table that needs it
            mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped)))
        yield from self._merged([reader.get_batch(k) for k in range(reader.num_record_batches)], mapped)

    def _merged(self, runs: list[pa.RecordBatch], mapped: mmap.mmap | None) -> Iterator[pa.Table]:
        edges = _edges([run[0] for run in runs], -(-self._total // PIECE))
        _forget(mapped)
        for starts, stops in itertools.pairwise(edges):
            cut = zip(runs, starts, stops, strict=True)
            slices = [run.slice(start, stop - start) for run, start, stop in cut if stop > start]
            if slices:
                table = pa.Table.from_batches(slices).combine_chunks()
                yield table if len(slices) == 1 else table.take(_order(table))
                del table
            del slices
            _forget(mapped)


def _order(rows: pa.Table | pa.RecordBatch) -> pa.Array:
    """Return the order of the rows by first column and ``timestamp``; equal rows keep theirs. Shape: (n,)."""
    names = rows.schema.names
    keys = [names[0], *(["timestamp"] if "timestamp" in names else [])]
    return pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in keys])


def sorted_batch(columns: Sequence[pa.Array | pa.ChunkedArray], schema: pa.Schema) -> pa.RecordBatch:
    """Return columns as a batch sorted by its first column and ``timestamp``; equal rows keep their order."""
    batch = pa.RecordBatch.from_arrays([whole(column) for column in columns], schema=schema)
    return batch.take(_order(batch))


def _forget(mapped: mmap.mmap | None) -> None:
    """Give back the pages of a map that were looked at; they stay in the system's cache."""
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def heads(keys: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Mark the first row of each key among sorted keys. Shape: (n,), bool."""
    keys = whole(keys)
    first = np.ones(len(keys), bool)
    if len(keys) > 1:
        first[1:] = pc.not_equal(keys.slice(1), keys.slice(0, len(keys) - 1)).to_numpy(zero_copy_only=False)
    return first


def second_copies(user: np.ndarray, item: np.ndarray, stamp: np.ndarray) -> np.ndarray:
    """Return those rows, sorted by user and stamp, that repeat an earlier one. Shapes: (n,) each; (copies,)."""
    tie = np.zeros(len(user), bool)
    tie[1:] = (user[1:] == user[:-1]) & (stamp[1:] == stamp[:-1])
    tie[:-1] |= tie[1:]
    rows = np.flatnonzero(tie)
    order = rows[np.lexsort((rows, item[rows], stamp[rows], user[rows]))]
    a, b = order[1:], order[:-1]
    return a[(user[a] == user[b]) & (stamp[a] == stamp[b]) & (item[a] == item[b])]


def _edges(keys: list[pa.Array], parts: int) -> list[list[int]]:
    """Return the rows at which each run is cut, so that every key lies within one of about ``parts`` ranges.

    Shape: (ranges + 1, runs). Keys compare in byte order.
    """
    edges = [[0] * len(keys)]
    if parts > 1:
        sample = pa.concat_arrays([key.take(pa.array(range(0, len(key), _STEP))) for key in keys])
        sample = sample.take(pc.sort_indices(sample))
        for cut in sorted({sample[len(sample) * k // parts].as_py().encode() for k in range(1, parts)}):
            below = zip(keys, edges[-1], strict=True)
            edges.append([_first_from(key, cut, low) for key, low in below])
    return [*edges, [len(key) for key in keys]]


def _first_from(keys: pa.Array, cut: bytes, low: int) -> int:
    """Return the first row from ``low`` on whose key is not below ``cut``."""
    return bisect.bisect_left(range(len(keys)), cut, low, key=lambda row: keys[row].as_py().encode())
