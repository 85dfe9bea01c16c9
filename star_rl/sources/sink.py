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
from star_rl.sources.cleaning import (
    ROWS,
    Prepared,
    clean_id,
    clean_ratings,
    clean_text,
    encode,
    present,
    usable,
    whole,
    without_missing,
)  # fmt: skip
from star_rl.sources.counts import REPORTED, Counts
from star_rl.sources.lookahead import ahead
from star_rl.sources.runs import PIECE, Runs, heads, second_copies, sorted_batch

#: Items or users that are gathered before they are sorted.
BATCH = 1 << 12
#: Title of an item that has none; the manifest counts them.
UNTITLED = "Untitled"
_TABLES = {"interactions": INTERACTIONS, "items": ITEMS, "users": USERS}
#: Rows before they are written; ``listed`` tells rows of the source from ids that only the interactions name.
_ROWS = {"interactions": ROWS} | {
    name: pa.schema([*(pa.field(field.name, field.type) for field in _TABLES[name]), pa.field("listed", pa.bool_())])
    for name in ("items", "users")
}


class Sink(Counts):
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
        super().__init__(source, time, max_bad_share)
        self.out_dir, self.memory = Path(out_dir), memory
        self.latest = times.latest() if latest is None else latest
        self.progress = progress
        self._spill = self.out_dir / f".spill.{os.getpid()}"
        self._runs = {
            name: Runs(schema, self._spill / f"{name}.arrow", memory if name == "interactions" else memory // 4)
            for name, schema in _ROWS.items()
        }
        self._gathered: dict[str, list[tuple[Any, ...]]] = {"items": [], "users": []}
        self._pending: list[pa.RecordBatch] = []
        self._bytes = 0
        self._known: pa.Array | None = None
        self._order = times.DayOrder()

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

    # ------------------------------------------------------------------ items and users

    def item(self, item_id: object, title: object, categories: list[str], attributes: Mapping[str, Any]) -> None:
        """Add one item. The first row of an id stays; an item without a title is kept as ``Untitled`` and counted."""
        names = list(dict.fromkeys(label for label in map(clean_text, categories) if label and present(label)))
        self._gather("items", item_id, clean_text(present(title)), names, encode(attributes))

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
        try:
            stamp = whole(stamps).cast(pa.int64()) if self.time == "position" else times.seconds(stamps, self._order)
            rating, odd = clean_ratings(pa.nulls(len(users)) if ratings is None else ratings)
            text = pa.nulls(len(users)) if texts is None else whole(texts)
            columns = [without_missing(users), without_missing(items), stamp, rating]
            rows = self._usable([*columns, without_missing(text.cast(pa.string()))], odd)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise StarError(
                f"interactions of source {self.source} have a column that cannot be read: {error}",
                "give ids and texts as strings, timestamps and ratings as numbers or strings",
            ) from error
        if not self._unreadable and any(reason == "no readable timestamp" for reason, _, _ in rows.bad):
            self._unreadable = f" ({stamps[pc.index(pc.is_null(stamp), True).as_py()].as_py()!r})"
        self._count_rows(rows, file, line)
        if len(rows.batch):
            self._pending.append(rows.batch)
            self._bytes += rows.batch.nbytes
            if self._bytes > min(PIECE, self.memory):
                self._sort_pending()

    def prepare(self, rows: list[pa.Array], odd: pa.Array) -> Prepared:
        """Check rows and sort the usable ones, for :meth:`add`. Changes nothing here: any thread may call it.

        Args:
            rows: users, items, timestamps (int64, null where missing), ratings (float32), texts; shape (n,) each.
            odd: the ratings that are no number, see :func:`star_rl.sources.cleaning.clean_ratings`.
        """
        found = self._usable(rows, odd)
        return dataclasses.replace(found, batch=sorted_batch(found.batch.columns, ROWS))

    def add(self, rows: Prepared, file: str | Path = "", line: int | np.ndarray | None = None) -> None:
        """Add what :meth:`prepare` made, in the order of arrival; ``file`` and ``line`` as in :meth:`interactions`."""
        self._count_rows(rows, file, line)
        self._sort_pending()
        self._runs["interactions"].add(rows.batch)

    def _usable(self, rows: list[pa.Array], odd: pa.Array) -> Prepared:
        return usable(rows, odd, self.latest if self.time == "seconds" else None)

    def _count_rows(self, rows: Prepared, file: str | Path, line: int | np.ndarray | None) -> None:
        self._report(rows, file, line)
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
            self._check_joined(kept["interactions"], self._known)
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
            "doubts": self._doubts(span),
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
                self._strange = codes.dictionary[int(item[~here][0])].as_py()
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
