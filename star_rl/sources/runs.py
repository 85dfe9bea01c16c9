"""External sort of Arrow rows by a key, in memory that does not grow with them.

Rows come in batches that are sorted each. They stay in memory up to a limit and then go to one spill file, a record
batch each. At the end the batches are merged a range of keys at a time, through a memory map of which no more than the
range is held. :mod:`star_rl.sources.sink` says by how much DuckDB lost against it.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_rl.files import writing_error
from star_rl.sources.cleaning import whole
from star_rl.sources.scan import native_order

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
        self._bytes = 0
        self._total = 0
        self._open: contextlib.ExitStack | None = None
        self._writer: pa.ipc.RecordBatchFileWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows that :func:`ordered` has sorted.

        Raises:
            StarError: the spill file cannot be written.
        """
        if not len(batch):
            return
        self.rows += len(batch)
        self._held.append(batch)
        self._bytes += batch.nbytes
        self._total += batch.nbytes
        if self._writer is None and self._bytes <= self.memory:
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
        self._held, self._bytes = [], 0

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
        if self._writer is None:
            held, self._held = self._held, []
            yield from self._merged(held, None)
            return
        try:
            assert self._open is not None
            self._open.close()
            self._open = self._writer = None
        except OSError as error:
            raise writing_error(self.file, error) from error
        with open(self.file, "rb") as handle:
            mapped = mmap.mmap(
                handle.fileno(), 0, access=mmap.ACCESS_READ
            )  # unmapped with the last table that needs it
        reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped)))
        yield from self._merged([reader.get_batch(k) for k in range(reader.num_record_batches)], mapped)

    def _merged(self, runs: list[pa.RecordBatch], mapped: mmap.mmap | None) -> Iterator[pa.Table]:
        if not runs:
            return
        if len(runs) == 1 and self._total <= PIECE:
            yield pa.Table.from_batches(runs)
            return
        parts = max(1, -(-self._total // PIECE))
        edges = _edges([run[0] for run in runs], parts)
        _forget(mapped)
        for part in range(edges.shape[1] - 1):
            bounds = zip(runs, edges[:, part].tolist(), edges[:, part + 1].tolist(), strict=True)
            slices = [run.slice(start, stop - start) for run, start, stop in bounds if stop > start]
            if not slices:
                continue
            table = pa.Table.from_batches(slices).combine_chunks()
            if len(slices) == 1:
                yield table
            else:
                yield table.take(pa.array(ordered(table)))
            del slices, table
            _forget(mapped)


def ordered(rows: pa.Table | pa.RecordBatch) -> np.ndarray:
    """Order of the rows by first column and ``timestamp``, equal ones as they stand. Shape: (n,), int64."""
    keys = whole(rows[0])
    stamps = whole(rows["timestamp"]).to_numpy() if "timestamp" in rows.schema.names and len(rows) else None
    native = native_order(keys, stamps)
    if native is not None:
        return native
    codes = keys.dictionary_encode()
    words = codes.dictionary
    rank = np.empty(len(words), np.int64)
    rank[pc.sort_indices(words).to_numpy()] = np.arange(len(words))
    key = rank[codes.indices.to_numpy()]
    if stamps is not None:
        low, span = int(stamps.min()), int(stamps.max()) - int(stamps.min()) + 1
        if len(words) * span >= 2**62:
            return np.lexsort((stamps, key))
        key = key * span + (stamps - low)
    return np.argsort(key, kind="stable")


def _forget(mapped: mmap.mmap | None) -> None:
    """Give back the pages of a map that were looked at; they stay in the system's cache."""
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def heads(keys: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Of sorted keys, which row is the first of its key. Shape: (n,), bool."""
    keys = whole(keys)
    first = np.ones(len(keys), bool)
    if len(keys) > 1:
        first[1:] = pc.not_equal(keys.slice(1), keys.slice(0, len(keys) - 1)).to_numpy(zero_copy_only=False)
    return first


def sorted_batch(columns: Sequence[pa.Array | pa.ChunkedArray], schema: pa.Schema) -> pa.RecordBatch:
    """Columns as a batch in the order of :func:`ordered`."""
    batch = pa.RecordBatch.from_arrays([whole(column) for column in columns], schema=schema)
    return batch.take(pa.array(ordered(batch)))


def second_copies(user: np.ndarray, item: np.ndarray, stamp: np.ndarray) -> np.ndarray:
    """Rows, sorted by user and stamp, that repeat an earlier (user, item, stamp). Shapes: (n,) each; (copies,)."""
    tie = np.zeros(len(user), bool)
    tie[1:] = (user[1:] == user[:-1]) & (stamp[1:] == stamp[:-1])
    tie[:-1] |= tie[1:]
    rows = np.flatnonzero(tie)
    order = rows[np.lexsort((rows, item[rows], stamp[rows], user[rows]))]
    a, b = order[1:], order[:-1]
    return a[(user[a] == user[b]) & (stamp[a] == stamp[b]) & (item[a] == item[b])]


def _edges(keys: list[pa.Array], parts: int) -> np.ndarray:
    """Where each run is cut so that every key lies within one of about ``parts`` ranges. Shape: (runs, ranges + 1)."""
    cuts: list[bytes] = []
    if parts > 1:
        sample = pa.concat_arrays([key.take(pa.array(range(0, len(key), _STEP))) for key in keys])
        sample = sample.take(pc.sort_indices(sample))
        cuts = sorted({sample[len(sample) * k // parts].as_py().encode() for k in range(1, parts)})
    rows = []
    for key in keys:
        edge = [0]
        for cut in cuts:
            edge.append(_bisect(key, cut, edge[-1]))
        rows.append([*edge, len(key)])
    return np.array(rows, np.int64)


def _bisect(column: pa.Array, key: bytes, low: int) -> int:
    """First row from ``low`` on whose string is not below ``key`` in byte order, the order of :func:`ordered`."""
    high = len(column)
    while low < high:
        middle = (low + high) // 2
        if column[middle].as_py().encode() < key:
            low = middle + 1
        else:
            high = middle
    return low
