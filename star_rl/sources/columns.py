"""CSV or Parquet of one's own: which column is what is said by options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from star_rl.errors import StarError
from star_rl.options import options, read_options
from star_rl.progress import Progress
from star_rl.sources.delimited import read_delimited
from star_rl.sources.lines import first_line, open_raw
from star_rl.sources.options import Common
from star_rl.sources.sink import Sink

Bad = Callable[[int, str], None]


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
    #: What separates fields; empty: a tab for .tsv, else a comma.
    delimiter: str = ""
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    #: ``seconds``, or ``position``: the rows stand in the order of time and no timestamp is read.
    time: Literal["seconds", "position"] = "seconds"


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
            labels = row[o.categories] if o.categories else None
            labels = labels.split(o.separator) if isinstance(labels, str) else labels
            sink.item(row[o.item_id], row[o.title], list(labels or []), _rest(row, wanted))


def _users(sink: Sink, path: Path, o: ColumnOptions) -> None:
    wanted = {"user_id": o.user_id}
    for _, table in _read(path, o, wanted, sink.reporter("users", path), {}, everything=True):
        for row in table.to_pylist():
            sink.user(row[o.user_id], _rest(row, wanted))


def _rest(row: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, Any]:
    used = set(wanted.values())
    return {name: value for name, value in row.items() if name not in used and value not in (None, "")}


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
    delimiter = o.delimiter or ("\t" if ".tsv" in path.suffixes else ",")
    if parquet:
        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise StarError(f"{path} is not a readable Parquet file ({error})", "write it again") from error
        names = file.schema_arrow.names
    else:
        names = [name.strip().strip('"') for name in first_line(path).split(delimiter)]
    _need(path, names, wanted, remedies)
    take = names if everything else list(dict.fromkeys(wanted.values()))
    if not parquet:
        form: dict[str, Any] = {"delimiter": delimiter, "header": True, "quoted": True, "encoding": o.encoding}
        yield from read_delimited(path, names, bad, take=take, **form)
        return
    try:
        for batch in file.iter_batches(batch_size=1 << 16, columns=take):
            yield None, pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, OSError) as error:
        raise StarError(f"{path} is damaged ({error})", "write it again") from error


def _need(path: Path, names: Sequence[str], wanted: Mapping[str, str], remedies: Mapping[str, str]) -> None:
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise StarError(f"{path} names the column {sorted(doubled)[0]!r} twice", "rename one of them")
    for option, name in wanted.items():
        if name not in names:
            remedy = remedies.get(option, f"it has {', '.join(names)}: name the column with {option}=NAME")
            raise StarError(f"{path} has no column {name!r} for {option}", remedy)
