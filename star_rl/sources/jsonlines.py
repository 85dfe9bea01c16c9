"""JSON lines as Arrow tables of a few fields, a block at a time; a line that is no JSON object is told with its number.

A block goes through Arrow's reader whole. Where that refuses it, or finds another number of objects than lines, its
lines are read one by one, so that a bad line costs itself and some time, never its neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from star_rl.sources.lines import blocks

Bad = Callable[[int, str], None]

#: Lines looked at to tell the type of a field.
_PEEK = 50


def read_objects(path: str | Path, bad: Bad) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, object)``; for files of which most fields are wanted."""
    for start, block, _ in blocks(path):
        for number, line in enumerate(block.split(b"\n"), start):
            if line.strip():
                row = _object(line)
                if isinstance(row, dict):
                    yield number, row
                else:
                    bad(number, row)


def read_fields(path: str | Path, fields: Sequence[str], bad: Bad) -> Iterator[tuple[int | np.ndarray, pa.Table]]:
    """Yield ``(line of the first row or of every row, table)``; columns are strings, int64 or float64.

    Raises:
        StarError: the file is absent, or a damaged gzip file.
    """
    schema: pa.Schema | None = None
    for start, block, count in blocks(path):
        if not block.strip():
            continue
        if schema is None:
            schema = _schema(block, fields)
        table = _fast(block, schema, count)
        if table is None:
            schema = _schema(block, fields)
            table = _fast(block, schema, count)
        if table is not None:
            yield start, table
        else:
            lines, slow = _slow(block, start, fields, bad)
            if len(lines):
                yield lines, slow


def _schema(block: bytes, fields: Sequence[str]) -> pa.Schema:
    """Types of the fields, told from the first lines; ids given as numbers stay exact, other numbers become float64."""
    kinds: dict[str, pa.DataType] = {}
    at = 0
    for _ in range(_PEEK):
        end = block.find(b"\n", at)
        row = _object(block[at : end if end >= 0 else len(block)])
        if isinstance(row, dict):
            for name in fields:
                value = row.get(name)
                if name not in kinds and value is not None:
                    number = isinstance(value, (int, float)) and not isinstance(value, bool)
                    exact = pa.int64() if name.endswith("_id") else pa.float64()
                    kinds[name] = exact if number else pa.string()
        if end < 0 or len(kinds) == len(fields):
            break
        at = end + 1
    return pa.schema([pa.field(name, kinds.get(name, pa.string())) for name in fields])


def _fast(block: bytes, schema: pa.Schema, lines: int) -> pa.Table | None:
    """The block through Arrow's reader; None where it refuses it or miscounts."""
    try:
        table = pj.read_json(
            pa.py_buffer(block),
            read_options=pj.ReadOptions(block_size=2 << 20),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)  # invalid UTF-8 passes the reader
    except pa.ArrowInvalid:
        return None
    return table if len(table) == lines else None


def _slow(block: bytes, start: int, fields: Sequence[str], bad: Bad) -> tuple[np.ndarray, pa.Table]:
    numbers: list[int] = []
    columns: dict[str, list[str | None]] = {name: [] for name in fields}
    for number, line in enumerate(block.split(b"\n"), start):
        if not line.strip():
            continue
        row = _object(line)
        if not isinstance(row, dict):
            bad(number, row)
            continue
        numbers.append(number)
        for name, column in columns.items():
            column.append(_text(row.get(name)))
    table = pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})
    return np.array(numbers, np.int64), table


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() else repr(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _object(line: bytes) -> dict[str, Any] | str:
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


def coalesce(table: pa.Table, names: Sequence[str], read: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """The first of several columns that ``read`` makes something of, row by row."""
    out: pa.Array | None = None
    for name in names:
        column = table[name].combine_chunks()
        if column.null_count == len(column):
            continue
        value = read(column)
        out = value if out is None else pc.coalesce(out, value)
        if not out.null_count:
            break
    return pa.nulls(len(table), pa.int64()) if out is None else out


def pick(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those entries of a row that hold something."""
    return {name: row[name] for name in names if row.get(name) not in (None, "", [], {})}
