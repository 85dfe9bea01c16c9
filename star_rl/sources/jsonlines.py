"""JSON lines as Arrow columns of a few fields, a block at a time; bad lines are reported with their number.

The native scanner reads a block and leaves odd lines to Python, or all of them where it was not built. Both make the
same of a line; a bad line costs itself, never its neighbours. Arrow's own reader was tried: a line ``null`` ends the
process with a segmentation fault (pyarrow 26).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from star_rl.sources.lines import blocks
from star_rl.sources.lookahead import cores, spread
from star_rl.sources.scan import LARGEST, Column, Fields, Scanner, scanner_available

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
        """Return the strings of a field, null where a row has none."""
        column = self.columns[name].text
        return pa.nulls(len(self.lines), pa.string()) if column is None else column


class Reader:
    """Reads blocks of JSON lines. Any thread may call it; each has memory of its own.

    Args:
        native: whether the scanner is used; by default, if it was built.
    """

    def __init__(self, fields: Fields, native: bool | None = None) -> None:
        self.fields = fields
        self._native = scanner_available() if native is None else native
        self._local = threading.local()

    def __call__(self, block: bytes) -> LineBlock:
        """Read the rows of whole lines."""
        if not self._native or len(block) > LARGEST:
            lines = block.split(b"\n")
            return self._slow(enumerate(lines), len(lines) - (not lines[-1]))
        if not hasattr(self._local, "scanner"):
            self._local.scanner = Scanner(self.fields)
        count, numbers, columns, odd = self._local.scanner.scan(block)
        rows = LineBlock(count, numbers, columns, [])
        if not len(odd):
            return rows
        return _merged(rows, self._slow(((line, block[start:stop]) for line, start, stop in odd.tolist()), count))

    def _slow(self, lines: Iterable[tuple[int, bytes]], count: int) -> LineBlock:
        numbers: list[int] = []
        bad: list[tuple[int, str]] = []
        texts: dict[str, list[str | None]] = {name: [] for name in (*self.fields.texts, *self.fields.values)}
        values: dict[str, list[float | None]] = {name: [] for name in self.fields.values}
        for number, line in lines:
            if not line.strip():
                continue
            row = _object(line)
            if not isinstance(row, dict):
                bad.append((number, row))
                continue
            numbers.append(number)
            for name in self.fields.texts:
                texts[name].append(_text(row.get(name)))
            for name in self.fields.values:
                value = row.get(name)
                texts[name].append(_text(value) if isinstance(value, str) else None)
                values[name].append(_number(value))
        columns = {
            name: Column(
                pa.array(column, pa.string()), pa.array(values[name], pa.float64()) if name in values else None
            )
            for name, column in texts.items()
        }
        return LineBlock(count, np.array(numbers, np.int32), columns, bad)


def read_objects(path: str | Path, bad: Bad) -> Iterator[tuple[int, Row]]:
    """Yield ``(line number, object)``; for files of which most fields are wanted."""
    for start, block in blocks(path, 1 << 20):
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
        in the order of the file: the number of the block's first line, the block (without its columns), and what
        ``work`` made of it.

    Raises:
        StarError: the file is missing, or a damaged gzip file.
    """

    def both(job: tuple[int, bytes]) -> tuple[int, LineBlock, T]:
        block = reader(job[1])
        done = work(block)
        return job[0], LineBlock(block.count, block.lines.copy(), {}, block.bad), done

    yield from spread(both, blocks(path), cores(_THREADS))


def _merged(a: LineBlock, b: LineBlock) -> LineBlock:
    """Merge two parts of one block's rows in the order of lines."""
    lines = np.concatenate([a.lines, b.lines])
    order = pa.array(np.argsort(lines, kind="stable"))

    def join(x: pa.Array | None, y: pa.Array | None, kind: pa.DataType) -> pa.Array | None:
        if (x is None or x.null_count == len(x)) and (y is None or y.null_count == len(y)):
            return None
        parts = [pa.nulls(len(p.lines), kind) if v is None else v for p, v in ((a, x), (b, y))]
        return pa.concat_arrays(parts).take(order)

    columns = {
        name: Column(join(one.text, other.text, pa.string()), join(one.number, other.number, pa.float64()))
        for (name, one), other in zip(a.columns.items(), b.columns.values(), strict=True)
    }
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
    """Return the object of one line, or the reason why it has none."""
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
    """Return those entries of a row that hold something."""
    return {name: value for name in names if (value := row.get(name)) or value == 0}
