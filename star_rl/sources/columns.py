"""CSV or Parquet of your own: options name the columns."""

from __future__ import annotations

import codecs
import contextlib
import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from star_rl.errors import StarError
from star_rl.options import options, read_options
from star_rl.progress import Progress
from star_rl.sources.cleaning import labels, present
from star_rl.sources.delimited import read_delimited
from star_rl.sources.lines import first_line, open_raw
from star_rl.sources.options import Common
from star_rl.sources.sink import Sink

Bad = Callable[[int, str], None]

#: RecBole's types behind the names of columns.
_TYPE = re.compile(r":(token|float)(_seq)?$")
_TEXT = "text, bytes or numbers"
#: By option: what a Parquet column may hold.
_HOLDS = {
    "user_id": "text, bytes or whole numbers",
    "item_id": "text, bytes or whole numbers",
    "timestamp": "dates, numbers or text",
    "rating": "numbers or text",
    "text": _TEXT,
    "title": _TEXT,
    "categories": "text, numbers or lists of them",
}


@options
class ColumnOptions(Common):
    #: Files within root: CSV, TSV (plain or gzip) or Parquet. ``items`` and ``users`` may be absent.
    interactions: str = "interactions.csv"
    items: str = ""
    users: str = ""
    #: Columns of the interactions; ``rating`` and ``text`` may be absent.
    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str = "timestamp"
    rating: str = ""
    text: str = ""
    #: Columns of the items; all others become attributes. ``item_id`` counts here too, and ``user_id`` in the users.
    title: str = "title"
    categories: str = ""
    #: What separates several categories.
    separator: str = "|"
    #: What separates fields; empty: a tab for .tsv, else the most frequent of comma, tab, semicolon and bar.
    delimiter: str = ""
    #: A codec, such as ``utf-8`` or ``cp1252``; empty: detected from the bytes of each file.
    encoding: str = ""
    #: ``seconds``, or ``position``: the rows stand in the order of time and no timestamp is read.
    time: Literal["seconds", "position"] = "seconds"

    def __post_init__(self) -> None:
        with contextlib.suppress(LookupError):
            codecs.lookup(self.encoding or "utf-8")
            return
        raise StarError(f"encoding={self.encoding} is not known", "name a codec of Python, or leave it out")


def write(root: Path | None, out_dir: Path, options: Mapping[str, Any], progress: Progress | None) -> dict[str, Any]:
    """Write the tables of files described by :class:`ColumnOptions`; without an item file an item's title is its id."""
    o = read_options(ColumnOptions, options, "source.options")
    assert root is not None
    with o.sink(out_dir, "columns", progress, time=o.time) as sink:
        sink.time_column = o.timestamp
        folder = root.parent if root.is_file() else root
        if o.items:
            _items(sink, folder / o.items, o)
        if o.users:
            _users(sink, folder / o.users, o)
        _interactions(sink, root if root.is_file() else folder / o.interactions, o)
        kept = {name: value for name, value in vars(o).items() if name != "memory_mb"}
        return sink.close(items_from_interactions=not o.items, options=kept)


def _interactions(sink: Sink, path: Path, o: ColumnOptions) -> None:
    wanted = {"user_id": o.user_id, "item_id": o.item_id}
    remedy = "set time=position if the order of rows is the order of time, or name the column with timestamp=NAME"
    if o.time == "seconds":
        wanted["timestamp"] = o.timestamp
    for name in ("rating", "text"):
        if getattr(o, name):
            wanted[name] = getattr(o, name)
    place = 0
    for lines, table in _read(path, o, wanted, sink.reporter("interactions", path), {"timestamp": remedy}):
        stamps = table[o.timestamp] if o.time == "seconds" else pa.array(np.arange(place, place + len(table)))
        place += len(table)
        ratings, texts = (table[name] if name else None for name in (o.rating, o.text))
        sink.interactions(table[o.user_id], table[o.item_id], stamps, ratings, texts, path, lines)


def _items(sink: Sink, path: Path, o: ColumnOptions) -> None:
    wanted = {"item_id": o.item_id, "title": o.title} | ({"categories": o.categories} if o.categories else {})
    for _, table in _read(path, o, wanted, sink.reporter("items", path), {}, everything=True):
        for row in table.to_pylist():
            names = labels(row[o.categories], o.separator) if o.categories else []
            sink.item(row[o.item_id], row[o.title], names, _rest(row, wanted))


def _users(sink: Sink, path: Path, o: ColumnOptions) -> None:
    wanted = {"user_id": o.user_id}
    for _, table in _read(path, o, wanted, sink.reporter("users", path), {}, everything=True):
        for row in table.to_pylist():
            sink.user(row[o.user_id], _rest(row, wanted))


def _rest(row: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, Any]:
    used = set(wanted.values())
    return {name: value for name, value in row.items() if name not in used and present(value) not in (None, "")}


def _read(
    path: Path,
    o: ColumnOptions,
    wanted: Mapping[str, str],
    bad: Bad,
    remedies: Mapping[str, str],
    everything: bool = False,
) -> Iterator[tuple[np.ndarray | None, pa.Table]]:
    """Yield ``(line numbers, None for Parquet; table)`` with the wanted columns, or all of them."""
    with open_raw(path) as handle:
        parquet = handle.read(4) == b"PAR1"
    if not parquet:
        header = first_line(path, o.encoding)
        delimiter = o.delimiter or ("\t" if ".tsv" in path.suffixes else max(",\t;|", key=header.count))
        simple = len(delimiter) == 1
        found = next(csv.reader([header], delimiter=delimiter), []) if simple else header.split(delimiter)
        names = [name.strip() for name in found]
        # RecBole writes user_id:token; the option may name it with or without the type.
        names = [name if name in wanted.values() else _TYPE.sub("", name) for name in names]
        _need(path, names, wanted, remedies)
        form: dict[str, Any] = {"delimiter": delimiter, "header": True, "quoted": True, "encoding": o.encoding}
        take = names if everything else list(dict.fromkeys(wanted.values()))
        yield from read_delimited(path, names, bad, take=take, **form)
        return
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise StarError(f"{path} is not a readable Parquet file ({error})", "write it again") from error
    schema = file.schema_arrow
    _need(path, schema.names, wanted, remedies)
    for option, name in wanted.items():
        if not _holds(option, schema.field(name).type):
            raise StarError(
                f"column {name!r} of {path} has the type {schema.field(name).type}, which {option} cannot be read from",
                f"write it as {_HOLDS[option]}, or name another column with {option}=NAME",
            )
    take = schema.names if everything else list(dict.fromkeys(wanted.values()))
    try:
        for batch in file.iter_batches(batch_size=1 << 16, columns=take):
            yield None, pa.table({name: _plain(batch.column(name)) for name in take})
    except (pa.ArrowException, OSError) as error:
        raise StarError(f"{path} is damaged ({error})", "write it again") from error


def _holds(option: str, kind: pa.DataType) -> bool:
    """Return whether a column of this type can be read for an option."""
    is_ = pa.types
    if is_.is_dictionary(kind):
        return _holds(option, kind.value_type)
    text = any(test(kind) for test in (is_.is_string, is_.is_large_string, is_.is_string_view, is_.is_null)) or _binary(
        kind
    )
    number = is_.is_integer(kind) or is_.is_floating(kind) or is_.is_decimal(kind)
    if option == "timestamp":
        return text or number or is_.is_timestamp(kind) or is_.is_date(kind)
    if option == "categories":
        return not is_.is_temporal(kind)
    return text or number or (option != "user_id" and option != "item_id" and is_.is_boolean(kind))


def _binary(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_fixed_size_binary,
            pa.types.is_binary_view,
        )
    )


def _plain(column: pa.Array) -> pa.Array:
    """Return a Parquet column as plain text, numbers, dates or lists: without codes, bytes and rare widths."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if _binary(kind):
        return pa.array([v if v is None else v.decode("utf-8", "replace") for v in column.to_pylist()], pa.string())
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_decimal(kind) or pa.types.is_float16(kind):
        column = column.cast(pa.float64())
    if pa.types.is_floating(column.type):
        # Ids that pandas widened to floats because one is missing: 7.0 is the id 7.
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        with contextlib.suppress(pa.ArrowInvalid):
            return column.cast(pa.int64())
    return column


def _need(path: Path, names: Sequence[str], wanted: Mapping[str, str], remedies: Mapping[str, str]) -> None:
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise StarError(f"{path} names the column {sorted(doubled)[0]!r} twice", "rename one of them")
    for option, name in wanted.items():
        if name not in names:
            remedy = remedies.get(option, f"it has {', '.join(names)}: name the column with {option}=NAME")
            raise StarError(f"{path} has no column {name!r} for {option}", remedy)
