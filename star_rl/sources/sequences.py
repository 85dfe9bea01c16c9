"""Files that hold each user's items in order and no times: RecBole's sequential files, and plain lists.

``*.inter`` with a header and the columns ``user_id``, ``item_id_list`` (ids separated by spaces) and ``item_id`` (the
next one); or ``*.txt`` without a header: a user's id and then its items, separated by white space. The timestamp is the
position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from star_rl.errors import StarError
from star_rl.options import options, read_options
from star_rl.progress import Progress
from star_rl.sources.delimited import read_delimited
from star_rl.sources.lines import blocks
from star_rl.sources.movielens import atomic_columns
from star_rl.sources.options import Common
from star_rl.sources.sink import Sink

_CHUNK = 1 << 16


@options
class SequenceOptions(Common):
    #: File of the sequences within root; empty: the only ``*.test.inter`` (whole rows), ``*.inter`` or ``*.txt``.
    file: str = ""
    #: File of the items; empty: the only ``*.item``, or none.
    items: str = ""
    #: What separates several categories of an item.
    separator: str = ";"


def write(root: Path | None, out_dir: Path, options: Mapping[str, Any], progress: Progress | None) -> dict[str, Any]:
    """Write the tables of a folder of sequences; without an item file an item's title is its id."""
    o = read_options(SequenceOptions, options, "source.options")
    assert root is not None
    file = root if root.is_file() else _choose(root, o.file, ("*.test.inter*", "*.inter*", "*.txt*"), "file")
    if file is None:
        raise StarError(f"no *.inter or *.txt in {root}", "set file to the file that holds the sequences")
    items = _choose(file.parent, o.items, ("*.item", "*.item.gz"), "items")
    with o.sink(out_dir, "sequences", progress, time="position") as sink:
        if items is not None:
            _items(sink, items, o.separator)
        names = file.name.removesuffix(".gz")
        _pour(sink, file, _atomic(sink, file) if names.endswith(".inter") else _plain(sink, file))
        return sink.close(
            items_from_interactions=items is None, options={"file": file.name, "items": items and items.name}
        )


def _choose(root: Path, name: str, patterns: tuple[str, ...], option: str) -> Path | None:
    if name:
        if not (root / name).is_file():
            raise StarError(f"there is no file {root / name}", f"set {option} to a file within {root}")
        return root / name
    for pattern in patterns:
        found = sorted(root.glob(pattern))
        if len(found) > 1:
            raise StarError(
                f"{root} holds {', '.join(path.name for path in found)}", f"choose one of them with the option {option}"
            )
        if found:
            return found[0]
    return None


def _items(sink: Sink, path: Path, separator: str) -> None:
    columns = atomic_columns(path)
    title = next((name for name in ("title", "name", "movie_title") if name in columns), "")
    if "item_id" not in columns or not title:
        raise StarError(f"{path} has the columns {', '.join(columns)}", "it needs item_id and title")
    label = next((name for name in ("categories", "category", "class", "genre") if name in columns), "")
    for _, table in read_delimited(path, columns, sink.reporter("items", path), delimiter="\t", header=True):
        for row in table.to_pylist():
            rest = {name: row[name] for name in columns if name not in ("item_id", title, label) and row[name]}
            sink.item(row["item_id"], row[title], row[label].split(separator) if label else [], rest)


def _atomic(sink: Sink, path: Path) -> Iterator[tuple[int, str, list[str]]]:
    columns = atomic_columns(path)
    missing = [name for name in ("user_id", "item_id_list", "item_id") if name not in columns]
    if missing:
        raise StarError(
            f"{path} has no column {', '.join(missing)}", "a sequence file has user_id, item_id_list, item_id"
        )
    take = ["user_id", "item_id_list", "item_id"]
    bad = sink.reporter("interactions", path)
    for lines, table in read_delimited(path, columns, bad, delimiter="\t", header=True, take=take):
        rows = (table[name].to_pylist() for name in take)
        for line, user, before, last in zip(lines.tolist(), *rows, strict=True):
            yield line, user, [*before.split(), *last.split()]


def _plain(sink: Sink, path: Path) -> Iterator[tuple[int, str, list[str]]]:
    bad = sink.reporter("interactions", path)
    for start, block in blocks(path):
        for line, raw in enumerate(block.split(b"\n"), start):
            try:
                words = raw.decode().split()
            except UnicodeDecodeError:
                bad(line, "invalid UTF-8")
                continue
            if len(words) == 1:
                bad(line, "a user without items")
            elif words:
                yield line, words[0], words[1:]


def _pour(sink: Sink, path: Path, rows: Iterator[tuple[int, str, list[str]]]) -> None:
    """Send sequences to the sink: of a user's rows that stand together and grow, the last (whole) one."""
    done: set[str] = set()
    batch: list[tuple[int, str, list[str]]] = []
    held: tuple[int, str, list[str]] | None = None
    size = 0

    def keep(row: tuple[int, str, list[str]]) -> None:
        nonlocal size
        if row[1] in done:
            sink.skip("interactions", "duplicate", len(row[2]))
        else:
            done.add(row[1])
            batch.append(row)
            size += len(row[2])

    for row in rows:
        if held is not None and not (row[1] == held[1] and row[2][: len(held[2])] == held[2]):
            keep(held)
            if size > _CHUNK:
                _send(sink, path, batch)
                batch, size = [], 0
        held = row
    if held is not None:
        keep(held)
    if batch:
        _send(sink, path, batch)


def _send(sink: Sink, path: Path, batch: list[tuple[int, str, list[str]]]) -> None:
    length = np.array([len(items) for _, _, items in batch])
    position = np.concatenate([np.arange(count) for count in length])
    users = pa.array([user for _, user, _ in batch], pa.string()).take(
        pa.array(np.repeat(np.arange(len(batch)), length))
    )
    items = pa.array([item for _, _, items in batch for item in items], pa.string())
    sink.interactions(
        users, items, pa.array(position), file=path, line=np.repeat(np.array([line for line, _, _ in batch]), length)
    )
