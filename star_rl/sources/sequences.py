"""Files of sequences: RecBole's sequential files, and plain text in its usual forms.

``*.inter`` has a header and the columns ``user_id``, ``item_id_list`` (ids separated by spaces) and ``item_id`` (the
next one). ``*.txt`` is in one of the forms of the option ``form``; words are separated by white space, commas,
semicolons, colons or bars. The timestamp is the position, but for ``rows``.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_rl.errors import StarError
from star_rl.options import options, read_options
from star_rl.progress import Progress
from star_rl.sources import times
from star_rl.sources.cleaning import labels
from star_rl.sources.counts import PLAUSIBLE
from star_rl.sources.delimited import read_delimited
from star_rl.sources.lines import blocks
from star_rl.sources.movielens import atomic_columns
from star_rl.sources.options import Common
from star_rl.sources.sink import Sink

Bad = Callable[[int, str], None]

_CHUNK = 1 << 16
#: Lines by which the form of a plain file is detected.
_SAMPLE = 5_000
#: What separates words beside white space, brackets and quotes of written lists included.
_SEPARATORS = re.compile(r"""::|[,;|\[\](){}"']|:(?=\s)""")
_HEADER = re.compile(r"(?i)user|users|uid|user_?id|session|session_?id")


@options
class SequenceOptions(Common):
    #: File of the sequences within root; empty: the only ``*.test.inter`` (whole rows), ``*.inter`` or ``*.txt``.
    file: str = ""
    #: File of the items; empty: the only ``*.item``, or none.
    items: str = ""
    #: What a line of a plain file holds: ``lists`` (user item item ..), ``pairs`` (user item), ``rows`` (user item
    #: time, or user item rating time) or ``sessions`` (item item ..). ``auto``: detected, but for sessions.
    form: Literal["auto", "lists", "pairs", "rows", "sessions"] = "auto"
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
    atomic = file.name.removesuffix(".gz").endswith(".inter")
    form = "lists" if atomic else _form(file) if o.form == "auto" else o.form
    with o.sink(out_dir, "sequences", progress, time="seconds" if form == "rows" else "position") as sink:
        if items is not None:
            _items(sink, items, o.separator)
        if form == "rows":
            sink.time_column = "time, the last one,"
            _rows(sink, file)
        elif form == "pairs":
            _pairs(sink, file)
        else:
            rows = _atomic(sink, file) if atomic else _lists(sink, file, form)
            _pour(sink, file, rows, continues=o.form == "lists")
        read, again = sink.rows["interactions"], sink.dropped["interactions"]["repeated user"]
        if not atomic and again > 0.5 * read:
            raise StarError(
                f"{again:,} of {read:,} items in {file} follow a user that an earlier line named already",
                "set form: lists (later lines of a user continue its first), pairs, rows or sessions (items alone)",
            )
        return sink.close(
            items_from_interactions=items is None,
            options={"file": file.name, "items": items and items.name, "form": form},
        )


def _words(path: Path) -> Iterator[tuple[int, list[str] | None]]:
    """Yield ``(line number, words)`` of each line that is not blank; None for one that is not UTF-8."""
    for start, block in blocks(path):
        for line, raw in enumerate(block.split(b"\n"), start):
            try:
                words = _SEPARATORS.sub(" ", raw.decode()).split()
            except UnicodeDecodeError:
                yield line, None
                continue
            if words and not (line == 1 and _HEADER.fullmatch(words[0])):
                yield line, words


def _form(path: Path) -> str:
    """Detect the form of a plain file by its first lines."""
    sample = [words for _, words in itertools.islice(_words(path), _SAMPLE) if words]
    widths = {len(words) for words in sample}
    if widths == {2}:
        return "pairs"
    if widths in ({3}, {4}) and len({words[0] for words in sample}) < len(sample):
        stamps = times.seconds(pa.array([words[-1] for words in sample])).fill_null(0)
        if pc.all(pc.and_(pc.greater(stamps, PLAUSIBLE), pc.less(stamps, times.latest()))).as_py():
            return "rows"
    return "lists"


def _rows(sink: Sink, path: Path) -> None:
    bad = sink.reporter("interactions", path)
    for batch in _batches(_checked(_words(path), bad, lambda words: len(words) in (3, 4), "not user, item, time")):
        lines, words = zip(*batch, strict=True)
        users, items, stamps = (pa.array([row[k] for row in words], pa.string()) for k in (0, 1, -1))
        ratings = pa.array([row[2] if len(row) == 4 else None for row in words], pa.string())
        sink.interactions(users, items, stamps, ratings, file=path, line=np.array(lines))


def _pairs(sink: Sink, path: Path) -> None:
    bad = sink.reporter("interactions", path)
    seen: Counter[str] = Counter()
    for batch in _batches(_checked(_words(path), bad, lambda words: len(words) == 2, "not a user and an item")):
        lines, words = zip(*batch, strict=True)
        position = []
        for user, _ in words:
            position.append(seen[user])
            seen[user] += 1
        users, items = (pa.array(column, pa.string()) for column in zip(*words, strict=True))
        sink.interactions(users, items, pa.array(position), file=path, line=np.array(lines))


def _checked(
    rows: Iterable[tuple[int, list[str] | None]], bad: Bad, fits: Callable[[list[str]], bool], reason: str
) -> Iterator[tuple[int, list[str]]]:
    for line, words in rows:
        if words is None:
            bad(line, "invalid UTF-8")
        elif fits(words):
            yield line, words
        else:
            bad(line, reason)


def _batches(rows: Iterator[Any]) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(rows, _CHUNK)):
        yield batch


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
            sink.item(row["item_id"], row[title], labels(row[label], separator) if label else [], rest)


def _atomic(sink: Sink, path: Path) -> Iterator[tuple[int, str, list[str]]]:
    columns = atomic_columns(path)
    missing = [name for name in ("user_id", "item_id_list", "item_id") if name not in columns]
    if missing:
        raise StarError(
            f"{path} has no column {', '.join(missing)}",
            "a sequence file has user_id, item_id_list, item_id; source columns reads one interaction a row",
        )
    take = ["user_id", "item_id_list", "item_id"]
    bad = sink.reporter("interactions", path)
    for lines, table in read_delimited(path, columns, bad, delimiter="\t", header=True, take=take):
        rows = (table[name].to_pylist() for name in take)
        for line, user, before, last in zip(lines.tolist(), *rows, strict=True):
            yield line, user, [*before.split(), *last.split()]


def _lists(sink: Sink, path: Path, form: str) -> Iterator[tuple[int, str, list[str]]]:
    bad = sink.reporter("interactions", path)
    alone = form == "sessions"
    for line, words in _checked(_words(path), bad, lambda words: alone or len(words) > 1, "a user without items"):
        yield (line, f"s{line}", words) if alone else (line, words[0], words[1:])


def _pour(sink: Sink, path: Path, rows: Iterator[tuple[int, str, list[str]]], continues: bool) -> None:
    """Send sequences to the sink: of a user's rows that stand together and grow, the last (whole) one.

    Args:
        continues: whether a user's later rows continue its first, else they are left out and counted.
    """
    done: dict[str, int] = {}
    batch: list[tuple[int, str, list[str], int]] = []
    held: tuple[int, str, list[str]] | None = None
    size = 0

    def keep(row: tuple[int, str, list[str]]) -> None:
        nonlocal size
        start = done.get(row[1], 0)
        if start and not continues:
            sink.skip("interactions", "repeated user", len(row[2]))
        else:
            done[row[1]] = start + len(row[2])
            batch.append((*row, start))
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


def _send(sink: Sink, path: Path, batch: list[tuple[int, str, list[str], int]]) -> None:
    lines, names, sequences, starts = zip(*batch, strict=True)
    length = np.array([len(items) for items in sequences])
    position = np.concatenate([start + np.arange(count) for start, count in zip(starts, length, strict=True)])
    users = pa.array(names, pa.string()).take(pa.array(np.repeat(np.arange(len(batch)), length)))
    items = pa.array([item for items in sequences for item in items], pa.string())
    sink.interactions(users, items, pa.array(position), file=path, line=np.repeat(np.array(lines), length))
