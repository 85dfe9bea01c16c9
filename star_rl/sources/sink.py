"""Where every source pours its rows: checks them, counts what it drops, sorts in bounded memory, writes the tables.

DuckDB 2.0.1 in the place of scanner, sort and dedupe lost: 10^6 reviews (701 MiB, two cores) took 13.5 to 16.8 CPU
seconds and 0.8 to 1.4 GiB, these modules 5.4 to 6.0 and 0.3 GiB, pandas 21.7 to 25.4 (benchmarks/tables.py).

Each table is sorted by :class:`star_rl.sources.runs.Runs`, which spills to disk. Only the ids of the items stay in
memory, to recognise interactions with unknown items.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from star_rl.errors import StarError
from star_rl.files import atomic_path, fingerprint, sha256, write_json
from star_rl.progress import Progress
from star_rl.records import INTERACTIONS, ITEMS, USERS
from star_rl.sources import times
from star_rl.sources.cleaning import ROWS, Prepared, clean_id, clean_ratings, clean_text, encode, usable, whole
from star_rl.sources.lookahead import ahead
from star_rl.sources.runs import PIECE, Runs, heads, second_copies, sorted_batch

#: How many bad rows are reported one by one; all are counted.
REPORTED = 20
#: Items or users that are gathered before they are sorted.
BATCH = 1 << 12
#: Reasons that say nothing about the quality of a file, and so do not count towards ``max_bad_share``.
HARMLESS = frozenset({"duplicate", "item not in the item table", "other domain"})
#: Title of an item that has none; the manifest counts them.
UNTITLED = "Untitled"
_TABLES = {"interactions": INTERACTIONS, "items": ITEMS, "users": USERS}
#: Rows before they are written; ``listed`` tells rows of the source from ids that only the interactions name.
_ROWS = {"interactions": ROWS} | {
    name: pa.schema([*(pa.field(field.name, field.type) for field in _TABLES[name]), pa.field("listed", pa.bool_())])
    for name in ("items", "users")
}


class Sink:
    """Collects the rows of one source. Items, users and interactions may be added by a thread each.

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
        memory: int = 64 << 20,
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
        self.dropped: dict[str, Counter[str]] = {name: Counter() for name in _TABLES}
        self.repaired: Counter[str] = Counter()
        self._bad: dict[str, list[dict[str, Any]]] = {"items": [], "users": [], "interactions": []}
        self._spill = self.out_dir / f".spill.{os.getpid()}"
        self._runs = {
            name: Runs(schema, self._spill / f"{name}.arrow", memory if name == "interactions" else memory // 4)
            for name, schema in _ROWS.items()
        }
        self._gathered: dict[str, list[tuple[Any, ...]]] = {"items": [], "users": []}
        self._pending: list[pa.RecordBatch] = []
        self._bytes = 0
        self._known: pa.Array | None = None

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        for runs in self._runs.values():
            runs.close()
        shutil.rmtree(self._spill, ignore_errors=True)

    @property
    def spilled(self) -> int:
        """Sorted runs of interactions written to disk so far."""
        return self._runs["interactions"].spilled

    def bad(self, table: str, file: str | Path, line: int | None, reason: str, count: int = 1) -> None:
        """Count rows that cannot be used and report the first ones with their place. The caller counts them as read."""
        self.dropped[table][reason] += count
        if len(self._bad[table]) < REPORTED:
            self._bad[table].append({"table": table, "file": str(file), "line": line, "reason": reason})

    def reporter(self, table: str, file: str | Path) -> Callable[[int, str], None]:
        """Return ``bad(line, reason)``, which counts one row of a file as read and as bad."""

        def bad(line: int, reason: str) -> None:
            self.rows[table] += 1
            self.bad(table, file, line, reason)

        return bad

    def skip(self, table: str, reason: str, count: int = 1) -> None:
        """Count rows as read and as left out."""
        self.rows[table] += count
        self._count(table, reason, count)

    def _count(self, table: str, reason: str, count: int) -> None:
        if count:
            self.dropped[table][reason] += count

    # ------------------------------------------------------------------ items and users

    def item(self, item_id: object, title: object, categories: list[str], attributes: Mapping[str, Any]) -> None:
        """Add one item. The first row of an id stays; an item without a title is kept as ``Untitled`` and counted."""
        labels = list(dict.fromkeys(label for label in map(clean_text, categories) if label))
        self._gather("items", item_id, clean_text(title), labels, encode(attributes))

    def user(self, user_id: object, attributes: Mapping[str, Any]) -> None:
        """Add one user; users that only interact are added by :meth:`close`."""
        self._gather("users", user_id, encode(attributes))

    def _gather(self, table: str, row_id: object, *columns: Any) -> None:
        self.rows[table] += 1
        key = clean_id(row_id)
        if key is None:
            self.dropped[table]["unusable id"] += 1
            return
        self._gathered[table].append((key, *columns, True))
        if len(self._gathered[table]) >= BATCH:
            self._flush(table)

    def _flush(self, table: str) -> None:
        if rows := self._gathered[table]:
            schema = _ROWS[table]
            columns = zip(zip(*rows, strict=True), schema, strict=True)
            self._runs[table].add(sorted_batch([pa.array(column, field.type) for column, field in columns], schema))
            rows.clear()

    def _add_seen(self, table: str, ids: pa.Array) -> None:
        """Add items or users of which only the id is known; an item's id becomes its title."""
        none = pa.array([[]], ITEMS.field("categories").type).take(pa.array(np.zeros(len(ids), np.int64)))
        blank = {"title": ids, "categories": none, "attributes": pa.repeat("{}", len(ids))}
        columns = [blank.get(name, ids) for name in _ROWS[table].names[:-1]]
        self._runs[table].add(sorted_batch([*columns, pa.repeat(False, len(ids))], _ROWS[table]))

    def known_items(self, ids: Iterable[str]) -> set[str]:
        """Return those ids that the item table holds; for use in the ``finish`` of :meth:`close`."""
        asked = pa.array(list(set(ids)), pa.string())
        return set(asked.filter(pc.is_in(asked, self._known)).to_pylist())

    # ------------------------------------------------------------------ interactions

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
        """Add rows in the order of arrival, each argument an array of shape (n,), nulls where a value is missing.

        Args:
            users: ids, strings.
            items: ids, strings.
            stamps: any kind that :func:`times.seconds` reads, or int64 positions.
            ratings: numbers, or strings that hold numbers; what is no finite number becomes null and is counted.
            texts: strings.
            file: where the rows come from, for messages.
            line: number of the first row's line (rows stand one a line), or every row's line number, shape (n,).
        """
        stamp = whole(stamps).cast(pa.int64()) if self.time == "position" else times.seconds(stamps)
        rating, wrong = clean_ratings(pa.nulls(len(users)) if ratings is None else ratings)
        text = pa.nulls(len(users), pa.string()) if texts is None else whole(texts).cast(pa.string())
        rows = self._usable([users, items, stamp, rating, text], wrong.true_count)
        self._report(rows, file, line)
        if len(rows.batch):
            self._pending.append(rows.batch)
            self._bytes += rows.batch.nbytes
            if self._bytes > min(PIECE, self.memory):
                self._sort_pending()

    def prepare(self, rows: list[pa.Array], wrong_ratings: int = 0) -> Prepared:
        """Check rows and sort the usable ones, for :meth:`add`. Changes nothing here: any thread may call it.

        Args:
            rows: users, items, timestamps (int64, null where missing), ratings (float32), texts; shape (n,) each.
            wrong_ratings: ratings that were no number.
        """
        found = self._usable(rows, wrong_ratings)
        return dataclasses.replace(found, batch=sorted_batch(found.batch.columns, ROWS))

    def add(self, rows: Prepared, file: str | Path = "", line: int | np.ndarray | None = None) -> None:
        """Add what :meth:`prepare` made, in the order of arrival; ``file`` and ``line`` as in :meth:`interactions`."""
        self._report(rows, file, line)
        self._sort_pending()
        self._runs["interactions"].add(rows.batch)

    def _usable(self, rows: list[pa.Array], wrong_ratings: int) -> Prepared:
        return usable(rows, wrong_ratings, self.latest if self.time == "seconds" else None)

    def _report(self, rows: Prepared, file: str | Path, line: int | np.ndarray | None) -> None:
        self.rows["interactions"] += rows.read
        for reason, count, first in rows.bad:
            where = None if line is None else int(line[first]) if isinstance(line, np.ndarray) else line + first
            self.bad("interactions", file, where, reason, count)
        self.repaired["ratings that are no number"] += rows.wrong_ratings
        if self.progress:
            self.progress(self.rows["interactions"], None, "interactions")

    def _sort_pending(self) -> None:
        if self._pending:
            batches, self._pending, self._bytes = self._pending, [], 0
            self._runs["interactions"].add(sorted_batch(pa.Table.from_batches(batches).columns, ROWS))

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
            finish: called after the three tables are written; writes other files and returns entries of the manifest.
            notes: further entries of the manifest.

        Raises:
            StarError: no interaction is left, or too many rows were bad; nothing is written then.
        """
        self._flush("items")
        self._flush("users")
        self._sort_pending()
        self._check()
        pa.default_memory_pool().release_unused()
        kept = {"interactions": 0}
        span: list[int] = []
        with contextlib.ExitStack() as stack:
            if not items_from_interactions:
                kept["items"] = self._write(stack, "items")
            writer = self._writer(stack, "interactions")
            # Sorting the next piece overlaps with compressing this one.
            for table, users in ahead(map(self._filtered, self._runs["interactions"].pieces())):
                if not len(table):
                    continue
                if items_from_interactions:
                    self._add_seen("items", pc.unique(whole(table["item_id"])))
                self._add_seen("users", users)
                span += pc.min_max(table["timestamp"]).as_py().values()
                kept["interactions"] += len(table)
                writer.write_table(table.cast(INTERACTIONS))
                if self.progress:
                    self.progress(kept["interactions"], None, "sorted interactions")
            if not kept["interactions"]:
                raise StarError(
                    f"no interaction of source {self.source} is usable{self._why()}", "check the files and options"
                )
            if items_from_interactions:
                kept["items"] = self._write(stack, "items")
            kept["users"] = self._write(stack, "users")
        manifest = {
            "source": self.source,
            "time": self.time,
            "time_range": [min(span), max(span)],
            "read": dict(self.rows),
            "kept": {name: kept[name] for name in _TABLES},
            "dropped": {name: dict(counts) for name, counts in self.dropped.items() if counts},
            "repaired": {name: count for name, count in self.repaired.items() if count},
            "bad_rows": [row for rows in self._bad.values() for row in rows][:REPORTED],
            "fingerprint": fingerprint({name: sha256(self.out_dir / f"{name}.parquet") for name in _TABLES}),
            **notes,
            **(finish() if finish else {}),
        }
        write_json(self.out_dir / "tables.json", manifest)
        return manifest

    def _write(self, stack: contextlib.ExitStack, name: str) -> int:
        """Write the first row of each id of the items or users, and return how many there are."""
        count, known = 0, [pa.array([], pa.string())]
        writer = self._writer(stack, name)
        for table in self._runs[name].pieces():
            listed = pc.sum(table["listed"]).as_py() or 0
            table = table.filter(pa.array(heads(table[0])))
            self._count(name, "duplicate", listed - (pc.sum(table["listed"]).as_py() or 0))
            if name == "items":
                known.append(whole(table["item_id"]))
                nameless = pc.equal(table["title"], "")
                self.repaired["items without a title"] += pc.sum(nameless).as_py() or 0
                table = table.set_column(1, "title", pc.if_else(nameless, UNTITLED, table["title"]))
            count += len(table)
            writer.write_table(table.select(_TABLES[name].names).cast(_TABLES[name]))
        if name == "items":
            self._known = pa.concat_arrays(known)
        return count

    def _writer(self, stack: contextlib.ExitStack, name: str) -> pq.ParquetWriter:
        """Return a writer of one table, whose file appears when ``stack`` is left without an error."""
        schema = _TABLES[name]
        columns = [column for column in schema.names if column.endswith("_id")]
        # Bounds of ids and times let readers skip row groups; those of texts would only cost.
        bounds = [*columns, *(column for column in ("timestamp", "rating") if column in schema.names)]
        # Texts take most of the time to write and are read by every later stage: a fast codec, a third more bytes.
        codecs = {column: "snappy" if column == "text" else "zstd" for column in schema.names}
        how: dict[str, Any] = {"compression": codecs, "use_dictionary": columns, "write_statistics": bounds}
        path = stack.enter_context(atomic_path(self.out_dir / f"{name}.parquet"))
        return stack.enter_context(pq.ParquetWriter(path, schema, **how))

    def _filtered(self, table: pa.Table) -> tuple[pa.Table, pa.Array]:
        """Return the rows of known items, without second copies of a (user, item, timestamp); and their users, once."""
        codes = whole(table["item_id"]).dictionary_encode()
        item = codes.indices.to_numpy()
        if self._known is not None:
            here = pc.is_in(codes.dictionary, self._known).to_numpy(zero_copy_only=False)[item]
            if not here.all():
                self._count("interactions", "item not in the item table", int((~here).sum()))
                table, item = table.filter(pa.array(here)), item[here]
        users = whole(table["user_id"])
        first = heads(users)
        again = second_copies(np.cumsum(first), item, table["timestamp"].to_numpy())
        if len(again):
            self._count("interactions", "duplicate", len(again))
            keep = np.ones(len(table), bool)
            keep[again] = False
            table = table.filter(pa.array(keep))
        return table, users.filter(pa.array(first))

    def _check(self) -> None:
        """Raise a StarError if no timestamp is readable or a table has too many bad rows."""
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
        first = next((row for row in self._bad[table] if row["line"] is not None), None)
        place = f"; first at {first['file']}:{first['line']}" if first else ""
        return f" ({reasons}{place})" if reasons else ""
