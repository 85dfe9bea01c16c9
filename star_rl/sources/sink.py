"""Where every source pours its rows: checks them, counts what it drops, sorts in bounded memory, writes the tables.

Interactions are buffered to ``memory`` bytes, sorted and spilled as runs; at the end the runs are merged one range of
users at a time. Distinct ids of items and users are held in memory, interactions and review texts are not.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from star_rl.errors import StarError
from star_rl.files import atomic_path, fingerprint, sha256, write_json, writing_error
from star_rl.records import INTERACTIONS, ITEMS, USERS
from star_rl.sources import times
from star_rl.sources.cleaning import clean_id, clean_ids, clean_ratings, clean_text, encode, whole
from star_rl.sources.lookahead import ahead

#: ``progress(what, rows so far)``.
Progress = Callable[[str, int], None]

#: How many bad rows are reported one by one; all are counted.
REPORTED = 20
#: Reasons that say nothing about the quality of a file, and so do not count towards ``max_bad_share``.
HARMLESS = frozenset({"duplicate", "item not in the item table", "other domain"})
#: Title of an item that has none; the manifest counts them.
UNTITLED = "Untitled"


class Sink:
    """Collects the rows of one source.

    Args:
        out_dir: folder of the tables; nothing appears in it before :meth:`close`.
        source: name of the source, for the manifest.
        time: ``seconds`` or ``position``.
        max_bad_share: largest share of bad rows in a table, 0 to 1; more is a :class:`StarError` at :meth:`close`.
        memory: bytes of buffered interactions before they are spilled.
        latest: last timestamp that is not in the future, seconds; by default now and a day.
    """

    def __init__(
        self,
        out_dir: str | Path,
        source: str,
        *,
        time: str = "seconds",
        max_bad_share: float = 0.01,
        memory: int = 256 << 20,
        latest: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        if not 0 <= max_bad_share <= 1:
            raise StarError(f"max_bad_share={max_bad_share} is not a share", "give a number from 0 to 1")
        self.out_dir, self.source, self.time = Path(out_dir), source, time
        self.max_bad_share, self.memory = max_bad_share, memory
        self.latest = times.latest() if latest is None else latest
        self.progress = progress
        #: Name of the raw column that holds the timestamps, for messages.
        self.time_column = "timestamp"
        self.rows: Counter[str] = Counter()
        self.dropped: dict[str, Counter[str]] = {"interactions": Counter(), "items": Counter(), "users": Counter()}
        self.repaired: Counter[str] = Counter()
        self.bad_rows: list[dict[str, Any]] = []
        self._items: dict[str, tuple[str, list[str], str]] = {}
        self._users: dict[str, str] = {}
        self._buffer: list[pa.RecordBatch] = []
        self._bytes = 0
        self._runs: list[Path] = []
        self._spill = self.out_dir / f".spill.{os.getpid()}"

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._spill, ignore_errors=True)

    def bad(self, table: str, file: str | Path, line: int | None, reason: str, count: int = 1) -> None:
        """Count rows that cannot be used and report the first ones with their place. The caller counts them as read."""
        self.dropped[table][reason] += count
        if len(self.bad_rows) < REPORTED:
            self.bad_rows.append({"table": table, "file": str(file), "line": line, "reason": reason})

    def drop(self, table: str, reason: str, count: int) -> None:
        """Count rows that are left out. The caller counts them as read."""
        self.dropped[table][reason] += count

    def item_ids(self) -> Collection[str]:
        """Ids of the items added so far."""
        return self._items.keys()

    def item(self, item_id: object, title: object, categories: list[str], attributes: Mapping[str, Any]) -> None:
        """Add one item. The first row of an id stays; an item without a title is kept as ``Untitled`` and counted."""
        self.rows["items"] += 1
        key = clean_id(item_id)
        if key is None:
            self.dropped["items"]["unusable id"] += 1
        elif key in self._items:
            self.dropped["items"]["duplicate"] += 1
        else:
            name = clean_text(title)
            if not name:
                self.repaired["items without a title"] += 1
            labels = list(dict.fromkeys(label for label in map(clean_text, categories) if label))
            self._items[key] = (name or UNTITLED, labels, encode(attributes))

    def user(self, user_id: object, attributes: Mapping[str, Any]) -> None:
        """Add one user; users that only interact are added by :meth:`close`."""
        self.rows["users"] += 1
        key = clean_id(user_id)
        if key is None:
            self.dropped["users"]["unusable id"] += 1
        elif key in self._users:
            self.dropped["users"]["duplicate"] += 1
        else:
            self._users[key] = encode(attributes)

    def interactions(
        self,
        users: pa.Array,
        items: pa.Array,
        stamps: pa.Array,
        ratings: pa.Array | None = None,
        texts: pa.Array | None = None,
        file: str | Path = "",
        line: int | np.ndarray | None = None,
    ) -> None:
        """Add rows in the order of arrival, each argument an array of shape (n,), nulls where a value is absent.

        Args:
            users, items: strings.
            stamps: any kind that :func:`times.seconds` reads, or int64 positions.
            ratings: numbers, or strings that hold numbers; what is no finite number becomes null and is counted.
            line: number of the first row's line (rows stand one a line), or every row's line number, shape (n,).
        """
        count = len(users)
        self.rows["interactions"] += count
        users, user_ok = clean_ids(users)
        items, item_ok = clean_ids(items)
        stamp = whole(stamps).cast(pa.int64()) if self.time == "position" else times.seconds(stamps)
        value = pc.fill_null(stamp, -1).to_numpy(zero_copy_only=False)
        keep = np.ones(count, bool)
        checks = [("no usable user id", user_ok), ("no usable item id", item_ok)]
        if self.time == "seconds":
            readable = pc.is_valid(stamp).to_numpy(zero_copy_only=False)
            checks += [
                ("no readable timestamp", readable),
                ("timestamp before 1970", value > 0),
                ("timestamp in the future", value <= self.latest),
            ]
        for reason, good in checks:
            wrong = np.flatnonzero(keep & ~good)
            if len(wrong):
                where = (
                    None if line is None else int(line[wrong[0]] if isinstance(line, np.ndarray) else line + wrong[0])
                )
                self.bad("interactions", file, where, reason, len(wrong))
                keep &= good
        rating, wrong_ratings = clean_ratings(ratings, count)
        if wrong_ratings:
            self.repaired["ratings that are no number"] += wrong_ratings
        batch = pa.RecordBatch.from_arrays([users, items, stamp, rating, _texts(texts, count)], schema=_BUFFER)
        if not keep.all():
            batch = batch.filter(pa.array(keep))
        if len(batch):
            self._buffer.append(batch)
            self._bytes += batch.nbytes
        if self._bytes > self.memory:
            self._write_run()
        if self.progress:
            self.progress("interactions", self.rows["interactions"])

    # ------------------------------------------------------------------ sorting in bounded memory

    def _write_run(self) -> None:
        table = pa.Table.from_batches(self._buffer, _BUFFER)
        self._buffer, self._bytes = [], 0
        path = self._spill / f"{len(self._runs)}.arrow"
        try:
            self._spill.mkdir(parents=True, exist_ok=True)
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _BUFFER) as writer:
                for piece in _sorted(table):
                    writer.write_table(piece)
        except OSError as error:
            raise writing_error(path, error) from error
        self._runs.append(path)

    def _ranges(self) -> Iterator[pa.Table]:
        """Yield the interactions sorted by (user, timestamp, arrival), each user whole within one table."""
        if not self._runs:
            table = pa.Table.from_batches(self._buffer, _BUFFER)
            self._buffer = []
            yield from _sorted(table)
            return
        if self._buffer:
            self._write_run()
        runs = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in self._runs]
        step = 1 << 12
        sample = pa.concat_arrays(
            [run["user_id"].take(pa.array(range(0, len(run), step))).combine_chunks() for run in runs]
        )
        sample = sample.take(pc.sort_indices(sample))
        parts = max(1, -(-sum(run.nbytes for run in runs) // max(1, self.memory // 2)))
        cuts = sorted({sample[len(sample) * k // parts].as_py() for k in range(1, parts)}) if parts > 1 else []
        edges = [[0, *(_bisect(run["user_id"], cut) for cut in cuts), len(run)] for run in runs]
        for part in range(len(cuts) + 1):
            pieces = [run.slice(e[part], e[part + 1] - e[part]) for run, e in zip(runs, edges, strict=True)]
            yield from _sorted(pa.concat_tables([piece for piece in pieces if len(piece)] or [_BUFFER.empty_table()]))

    # ------------------------------------------------------------------ the tables

    def close(
        self,
        items_from_interactions: bool = False,
        finish: Callable[[], dict[str, Any]] | None = None,
        **notes: Any,
    ) -> dict[str, Any]:
        """Write the tables and ``tables.json``, and return the manifest that it holds.

        Args:
            items_from_interactions: the source has no item table; every item seen becomes one, its id as its title.
            finish: called when the three tables stand; writes what else there is and returns entries of the manifest.
            notes: further entries of the manifest.

        Raises:
            StarError: no interaction is left, or too many rows were bad; nothing is written then.
        """
        self._judge()
        target = self.out_dir / "interactions.parquet"
        known = None if items_from_interactions else pa.array(list(self._items), pa.string())
        seen: dict[str, None] = {}
        kept, low, high = 0, None, None
        with atomic_path(target) as temporary:
            with pq.ParquetWriter(
                temporary, INTERACTIONS, compression="zstd", use_dictionary=["user_id", "item_id"]
            ) as writer:
                # Sorting the next piece overlaps with compressing this one.
                for table in ahead(self._filtered(table, known) for table in self._ranges()):
                    if not len(table):
                        continue
                    if items_from_interactions:
                        seen.update(dict.fromkeys(table["item_id"].unique().to_pylist()))
                    for user in table["user_id"].unique().to_pylist():
                        self._users.setdefault(user, "{}")
                    span = pc.min_max(table["timestamp"]).as_py()
                    low = span["min"] if low is None else min(low, span["min"])
                    high = span["max"] if high is None else max(high, span["max"])
                    kept += len(table)
                    writer.write_table(table.cast(INTERACTIONS), row_group_size=1 << 18)
                    if self.progress:
                        self.progress("sorted interactions", kept)
            if not kept:
                raise StarError(
                    f"no interaction of source {self.source} is usable{self._why()}", "check the files and options"
                )
        for item in seen:
            self._items.setdefault(item, (item, [], "{}"))
        self._write("items", ITEMS, [list(self._items), *map(list, zip(*self._items.values(), strict=True))])
        self._write("users", USERS, [list(self._users), list(self._users.values())])
        files = {name: sha256(self.out_dir / f"{name}.parquet") for name in ("interactions", "items", "users")}
        manifest = {
            "source": self.source,
            "time": self.time,
            "time_range": [low, high],
            "read": dict(self.rows),
            "kept": {"interactions": kept, "items": len(self._items), "users": len(self._users)},
            "dropped": {name: dict(counts) for name, counts in self.dropped.items() if counts},
            "repaired": {name: count for name, count in self.repaired.items() if count},
            "bad_rows": self.bad_rows,
            "fingerprint": fingerprint(files),
            **notes,
            **(finish() if finish else {}),
        }
        write_json(self.out_dir / "tables.json", manifest)
        return manifest

    def _filtered(self, table: pa.Table, known: pa.Array | None) -> pa.Table:
        """Rows of known items, without second copies of one (user, item, timestamp)."""
        if known is not None:
            codes = table["item_id"].combine_chunks().dictionary_encode()
            here = pc.is_in(codes.dictionary, known).to_numpy(zero_copy_only=False)[codes.indices.to_numpy()]
            if not here.all():
                self.dropped["interactions"]["item not in the item table"] += int((~here).sum())
                table = table.filter(pa.array(here))
        user, item = _codes(table["user_id"]), _codes(table["item_id"])
        stamp = table["timestamp"].to_numpy()
        tie = np.zeros(len(table), bool)
        tie[1:] = (user[1:] == user[:-1]) & (stamp[1:] == stamp[:-1])
        if tie.any():
            tie[:-1] |= tie[1:]
            rows = np.flatnonzero(tie)
            order = rows[np.lexsort((rows, item[rows], stamp[rows], user[rows]))]
            a, b = order[1:], order[:-1]
            again = a[(user[a] == user[b]) & (stamp[a] == stamp[b]) & (item[a] == item[b])]
            if len(again):
                self.dropped["interactions"]["duplicate"] += len(again)
                keep = np.ones(len(table), bool)
                keep[again] = False
                table = table.filter(pa.array(keep))
        return table

    def _judge(self) -> None:
        unreadable = self.dropped["interactions"]["no readable timestamp"]
        if unreadable and unreadable == self.rows["interactions"]:
            raise StarError(
                f"column {self.time_column} of source {self.source} holds no readable timestamp",
                "name another column, or use source columns with time=position if the order of rows is that of time",
            )
        for table, counts in self.dropped.items():
            bad = sum(count for reason, count in counts.items() if reason not in HARMLESS)
            read = self.rows[table]
            if bad > self.max_bad_share * read:
                raise StarError(
                    f"{bad:,} of {read:,} rows of {table} are unusable{self._why(table)}, "
                    f"more than max_bad_share={self.max_bad_share}",
                    "mend the file, or raise max_bad_share to drop them",
                )

    def _why(self, table: str = "interactions") -> str:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in self.dropped[table].most_common(3))
        first = next((row for row in self.bad_rows if row["table"] == table and row["line"] is not None), None)
        place = f"; first at {first['file']}:{first['line']}" if first else ""
        return f" ({reasons}{place})" if reasons else ""

    def _write(self, name: str, schema: pa.Schema, columns: list[list[Any]]) -> None:
        columns = columns if len(columns) == len(schema) else [[] for _ in schema]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        table = pa.Table.from_arrays(arrays, schema=schema).sort_by(schema.names[0])
        with atomic_path(self.out_dir / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")


#: Bytes of rows that are gathered and written at a time.
_PIECE = 32 << 20
_BUFFER = pa.schema([pa.field(field.name, field.type) for field in INTERACTIONS])


def _texts(texts: pa.Array | None, count: int) -> pa.Array:
    return pa.nulls(count, pa.string()) if texts is None else whole(texts).cast(pa.string())


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(whole(column).dictionary_encode().indices.to_numpy())


def _sorted(table: pa.Table) -> Iterator[pa.Table]:
    """Yield the rows by (user, timestamp), equal ones in the order they stand in, in pieces of whole users."""
    count = len(table)
    if not count:
        return
    size = table.nbytes
    table = table.combine_chunks()
    codes = whole(table["user_id"]).dictionary_encode()
    rank = np.empty(len(codes.dictionary), np.int64)
    rank[pc.sort_indices(codes.dictionary).to_numpy()] = np.arange(len(rank))
    user, stamp = rank[codes.indices.to_numpy()], table["timestamp"].to_numpy()
    low, span = int(stamp.min()), int(stamp.max()) - int(stamp.min()) + 1
    if len(rank) * span < 2**62:
        order = np.argsort(user * span + (stamp - low), kind="stable")
    else:
        order = np.lexsort((stamp, user))
    user = user[order]
    parts = max(1, -(-size // _PIECE))
    edges = sorted({int(np.searchsorted(user, user[count * k // parts])) for k in range(parts)} | {count})
    for start, stop in pairwise(edges):
        yield table.take(pa.array(order[start:stop]))


def _bisect(column: pa.ChunkedArray, value: str) -> int:
    """First row whose string is not below ``value`` in byte order, the order of :func:`_sorted`."""
    key, low, high = value.encode(), 0, len(column)
    while low < high:
        middle = (low + high) // 2
        if column[middle].as_py().encode() < key:
            low = middle + 1
        else:
            high = middle
    return low
