"""JSON lines as Arrow columns of a few fields, a block at a time; what is no JSON object is told with its line number.

The native scanner reads a block and leaves to Python the lines that are odd, or all where it was not built (several
times slower). Both make the same of a line; a bad one costs itself, never its neighbours. Arrow's own reader is no way:
a line ``null`` ends the process with a segmentation fault (pyarrow 26).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from star_rl.sources.lines import Chunk, blocks, chunks
from star_rl.sources.lookahead import cores, spread
from star_rl.sources.scan import LARGEST, PADDING, Column, Fields, Scanner, room, scanner_available

Bad = Callable[[int, str], None]
Row = dict[str, Any]
T = Any

#: Threads that read one file.
_THREADS = 4


@dataclass(frozen=True)
class LineBlock:
    """The rows of a block of lines.

    Attributes:
        count: lines of the block. lines: number of each row's line, from 0, shape (n,).
        columns: by field; numbers are float64. They may lie in memory that the thread's next block overwrites.
        bad: line number from 0, and reason.
    """

    count: int
    lines: np.ndarray
    columns: dict[str, Column]
    bad: list[tuple[int, str]]

    def text(self, name: str) -> pa.Array:
        """Strings of a field, null where a row has none."""
        column = self.columns[name].text
        return pa.nulls(len(self.lines), pa.string()) if column is None else column


class Reader:
    """Reads blocks of JSON lines. Any thread may call it; each has memory of its own.

    Args:
        odd: makes the fields of a row that the scanner cannot read; by default they are taken as they stand, as text
            where ``fields`` wants text.
        native: whether the scanner is used; by default, if it was built.
    """

    def __init__(self, fields: Fields, odd: Callable[[Row], Row] | None = None, native: bool | None = None) -> None:
        self.fields, self._odd = fields, odd or (lambda row: row)
        self._native = scanner_available() if native is None else native
        self._local = threading.local()

    def __call__(self, chunk: Chunk) -> LineBlock:
        """The rows of a chunk of a file.

        Raises:
            OSError: the file cannot be read.
        """
        if not self._native or chunk.size > LARGEST:
            return self._python(chunk.read())
        memory: np.ndarray | None = getattr(self._local, "memory", None)
        if memory is None or len(memory) < chunk.size + PADDING:
            memory = self._local.memory = room(chunk.size + PADDING)
            self._local.scanner = Scanner(self.fields)
        size = chunk.read_into(memory)
        memory[size : size + PADDING] = 0
        scanned = self._local.scanner.scan(memory, size)
        if not len(scanned.odd):
            return LineBlock(scanned.count, scanned.lines, scanned.columns, [])
        odd = ((line, memory[start:stop].tobytes()) for line, start, stop in scanned.odd.tolist())
        return _merged(LineBlock(scanned.count, scanned.lines, scanned.columns, []), self._slow(odd, scanned.count))

    def _python(self, block: bytes) -> LineBlock:
        lines = block.split(b"\n")
        count = len(lines) - (not lines[-1])
        return self._slow(((number, line) for number, line in enumerate(lines) if line), count)

    def _slow(self, lines: Iterator[tuple[int, bytes]], count: int) -> LineBlock:
        numbers: list[int] = []
        bad: list[tuple[int, str]] = []
        strings = (*self.fields.texts, *self.fields.strings)
        texts: dict[str, list[str | None]] = {name: [] for name in (*strings, *self.fields.values)}
        values: dict[str, list[float | None]] = {name: [] for name in self.fields.values}
        for number, line in lines:
            if not line.strip():
                continue
            row = _object(line)
            if not isinstance(row, dict):
                bad.append((number, row))
                continue
            numbers.append(number)
            row = self._odd(row)
            for name in strings:
                texts[name].append(_text(row.get(name)))
            for name in self.fields.values:
                value = row.get(name)
                texts[name].append(_text(value) if isinstance(value, str) else None)
                values[name].append(_number(value))
        columns = {name: Column(pa.array(column, pa.string())) for name, column in texts.items()}
        for name, column in values.items():
            columns[name] = Column(columns[name].text, pa.array(column, pa.float64()))
        return LineBlock(count, np.array(numbers, np.int32), columns, bad)


def read_objects(path: str | Path, bad: Bad) -> Iterator[tuple[int, Row]]:
    """Yield ``(line number, object)``; for files of which most fields are wanted."""
    for start, block, _ in blocks(path, 1 << 20):
        for number, line in enumerate(block.split(b"\n"), start):
            if line.strip():
                row = _object(line)
                if isinstance(row, dict):
                    yield number, row
                else:
                    bad(number, row)


def read_blocks(path: str | Path, reader: Reader, work: Callable[[LineBlock], T]) -> Iterator[tuple[int, LineBlock, T]]:
    """Read a file in several threads, with ``work`` done to each block there.

    Yields:
        number of the block's first line, the block (of which only ``count``, ``lines`` and ``bad`` still stand), and
        what ``work`` made of it; in the order of the file.

    Raises:
        StarError: the file is absent, or a damaged gzip file.
    """

    def both(chunk: Chunk) -> tuple[LineBlock, T]:
        block = reader(chunk)
        done = work(block)
        return LineBlock(block.count, block.lines.copy(), {}, block.bad), done

    line = 1
    for block, done in spread(both, chunks(path), cores(_THREADS)):
        yield line, block, done
        line += block.count


def _merged(a: LineBlock, b: LineBlock) -> LineBlock:
    """Two parts of one block's rows, in the order of lines."""
    lines = np.concatenate([a.lines, b.lines])
    order = pa.array(np.argsort(lines, kind="stable"))

    def join(x: pa.Array | None, y: pa.Array | None, kind: pa.DataType) -> pa.Array | None:
        if (x is None or not x.null_count < len(x)) and (y is None or not y.null_count < len(y)):
            return None
        parts = [pa.nulls(len(p.lines), kind) if v is None else v for p, v in ((a, x), (b, y))]
        return pa.concat_arrays(parts).take(order)

    columns = {}
    for name, column in b.columns.items():
        other = a.columns[name]
        columns[name] = Column(
            join(other.text, column.text, pa.string()), join(other.number, column.number, pa.float64())
        )
    return LineBlock(a.count, lines[order.to_numpy()], columns, [*a.bad, *b.bad])


# ---------------------------------------------------------------------- one line


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() else repr(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) + 0.0  # no negative zero, here or elsewhere
    except OverflowError:
        return float("inf")


def _object(line: bytes) -> Row | str:
    """One line's object, or the reason why it is none."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            row = json.loads(line)  # takes NaN and lone surrogates, which Python itself writes
        except UnicodeDecodeError:
            return "invalid UTF-8"
        except (ValueError, RecursionError):
            return "not JSON"
    return row if isinstance(row, dict) else "not a JSON object"


def pick(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those entries of a row that hold something."""
    return {name: row[name] for name in names if row.get(name) not in (None, "", [], {})}
