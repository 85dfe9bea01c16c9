"""Delimited text as tables of strings, a block at a time; bad rows are reported with their line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv

from star_rl.errors import StarError
from star_rl.sources.lines import blocks, decodes

#: ``bad(line, reason)``
Bad = Callable[[int, str], None]


def read_delimited(
    path: str | Path,
    columns: Sequence[str],
    bad: Bad,
    *,
    delimiter: str = ",",
    header: bool = False,
    quoted: bool = False,
    encoding: str = "",
    take: Sequence[str] | None = None,
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Yield ``(line numbers, table of strings)`` of the rows that have the right number of fields.

    A quoted field may not hold a line break: so a stray quote costs one line, not the rest of the file.

    Args:
        columns: names of all fields, in the order of the file.
        delimiter: one character, or ``::``.
        header: whether the first line is skipped.
        quoted: whether double quotes enclose fields.
        encoding: a codec; empty: detected from the bytes. A line that it cannot decode is bad.
        take: the wanted columns; all by default.

    Raises:
        StarError: the file is missing, or a damaged gzip file.
    """
    wanted = list(take or columns)
    for start, block in blocks(path, encoding=encoding):
        if start == 1 and header:
            block = block.partition(b"\n")[2]
            start += 1
        if len(delimiter) > 1:
            block = block.replace(b"\t", b" ").replace(delimiter.encode(), b"\t")
        if not block.strip():
            continue
        yield from _parse(block, start, columns, wanted, bad, "\t" if len(delimiter) > 1 else delimiter, quoted)


def _parse(
    block: bytes, start: int, columns: Sequence[str], wanted: list[str], bad: Bad, delimiter: str, quoted: bool
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    wrong: list[int] = []
    lock = threading.Lock()

    def skip(row: csv.InvalidRow) -> str:
        with lock:
            wrong.append(row.number or 0)
        return "skip"

    # Blank lines go first: the reader would pass over them and the numbers of lines would shift.
    lines = block.split(b"\n")
    number = np.arange(start, start + len(lines))
    full = np.array([bool(line.strip()) for line in lines])
    if not full.all():
        block = b"\n".join(line for line in lines if line.strip())
        number = number[full]
    try:
        block.decode()
    except UnicodeDecodeError:
        lines = block.split(b"\n")
        good = np.array([decodes(line) for line in lines])
        for line in number[~good]:
            bad(int(line), "invalid UTF-8")
        block, number = b"\n".join(line for line, fine in zip(lines, good, strict=True) if fine), number[good]
    if not block:
        return
    try:
        table = csv.read_csv(
            pa.BufferReader(block),
            read_options=csv.ReadOptions(column_names=list(columns), use_threads=False, block_size=len(block) + 1),
            parse_options=csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quoted else False,
                invalid_row_handler=skip,
                newlines_in_values=False,
            ),
            convert_options=csv.ConvertOptions(
                column_types={name: pa.string() for name in columns}, include_columns=wanted, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise StarError(
            f"lines {start} onwards cannot be read as delimited text: {error}", "check delimiter and quotes"
        ) from error
    for row in wrong:
        bad(int(number[row - 1]), "wrong number of fields")
    number = np.delete(number, [row - 1 for row in wrong])
    if len(number) != len(table):  # a quote that encloses a line break joined two lines
        raise StarError(
            f"a quoted field between lines {number[0]} and {number[-1]} holds a line break",
            "write the file one row a line",
        )
    yield number, table
