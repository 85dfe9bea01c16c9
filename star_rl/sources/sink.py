"""Where every source pours its rows: checks them, counts what it drops, sorts in bounded memory, writes the tables.

DuckDB 2.0.1 in the place of scanner, sort and dedupe lost: 10^6 reviews (701 MiB, two cores) took 13.5 to 16.8 CPU
seconds and 0.8 to 1.4 GiB, these modules 5.4 to 6.0 and 0.3 GiB, pandas 21.7 to 25.4 (benchmarks/tables.py).

Each table is sorted by :class:`star_rl.sources.runs.Runs`, which spills to disk. What stays in memory are the ids of
the items, to know the interactions that name one.
"""

from __future__ import annotations

import contextlib
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
from star_rl.sources.checks import ROWS, Prepared, prepare
from star_rl.sources.cleaning import clean_id, clean_ratings, clean_text, encode, plain_ids, whole
from star_rl.sources.entities import BATCH, ITEM_ROWS, USER_ROWS, flush, listed_users, seen_items, seen_users
from star_rl.sources.lookahead import ahead
from star_rl.sources.runs import PIECE, Runs, heads, second_copies, sorted_batch

#: How many bad rows are reported one by one; all are counted.
REPORTED = 20
#: Reasons that say nothing about the quality of a file, and so do not count towards ``max_bad_share``.
HARMLESS = frozenset({"duplicate", "item not in the item table", "other domain"})
#: Title of an item that has none; the manifest counts them.
UNTITLED = "Untitled"


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
        self.dropped: dict[str, Counter[str]] = {"interactions": Counter(), "items": Counter(), "users": Counter()}
        self.repaired: Counter[str] = Counter()
        self._bad: dict[str, list[dict[str, Any]]] = {"items": [], "users": [], "interactions": []}
        self._spill = self.out_dir / f".spill.{os.getpid()}"
        self._interactions = Runs(ROWS, self._spill / "interactions.arrow", memory)
        self._items = Runs(ITEM_ROWS, self._spill / "items.arrow", memory // 4)
        self._users = Runs(USER_ROWS, self._spill / "users.arrow", memory // 4)
        self._pending: list[pa.RecordBatch] = []
        self._bytes = 0
        self._item_rows: list[tuple[str, str, list[str], str]] = []
        self._user_rows: list[tuple[str, str]] = []
        self._known: pa.Array | None = None

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        for runs in (self._interactions, self._items, self._users):
            runs.close()
        shutil.rmtree(self._spill, ignore_errors=True)

    @property
    def spilled(self) -> int:
        """Sorted runs of interactions written to disk so far."""
        return self._interactions.spilled

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
        if count:
            self.rows[table] += count
            self.dropped[table][reason] += count

    def known_items(self, ids: Iterable[str]) -> set[str]:
        """Which of these are ids of the item table; after :meth:`close` has written it (in its ``finish``)."""
        asked = pa.array(list(dict.fromkeys(ids)), pa.string())
        return set(asked.to_pylist() if self._known is None else asked.filter(pc.is_in(asked, self._known)).to_pylist())

    def item(self, item_id: object, title: object, categories: list[str], attributes: Mapping[str, Any]) -> None:
        """Add one item. The first row of an id stays; an item without a title is kept as ``Untitled`` and counted."""
        self.rows["items"] += 1
        key = clean_id(item_id)
        if key is None:
            self.dropped["items"]["unusable id"] += 1
            return
        labels = list(dict.fromkeys(label for label in map(clean_text, categories) if label))
        self._item_rows.append((key, clean_text(title), labels, encode(attributes)))
        if len(self._item_rows) >= BATCH:
            flush(self._item_rows, self._items)

    def user(self, user_id: object, attributes: Mapping[str, Any]) -> None:
        """Add one user; users that only interact are added by :meth:`close`."""
        self.rows["users"] += 1
        key = clean_id(user_id)
        if key is None:
            self.dropped["users"]["unusable id"] += 1
            return
        self._user_rows.append((key, encode(attributes)))
        if len(self._user_rows) >= BATCH:
            flush(self._user_rows, self._users)

    def prepare_users(self, ids: pa.Array, attributes: pa.Array) -> tuple[pa.RecordBatch, int]:
        """Check users whose attributes are encoded, shape (n,) both, and sort them; any thread may call it.

        Returns:
            the usable ones for :meth:`add_users`, and how many there were.
        """
        read = len(ids)
        if not plain_ids(ids):
            ids = pa.array([clean_id(value) for value in ids.to_pylist()], pa.string())
            usable = pc.is_valid(ids)
            ids, attributes = ids.filter(usable), attributes.filter(usable)
        return listed_users(ids, attributes), read

    def add_users(self, batch: pa.RecordBatch, read: int) -> None:
        """Add what :meth:`prepare_users` made, after the users so far."""
        flush(self._user_rows, self._users)
        self.rows["users"] += read
        self._count("users", "unusable id", read - len(batch))
        self._users.add(batch)

    def _count(self, table: str, reason: str, count: int) -> None:
        if count:
            self.dropped[table][reason] += count

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
        stamp = whole(stamps).cast(pa.int64()) if self.time == "position" else times.seconds(stamps)
        rating, wrong = clean_ratings(pa.nulls(len(users)) if ratings is None else ratings)
        text = None if texts is None else whole(texts).cast(pa.string())
        rows = self.prepare(users, items, stamp, rating, text, wrong.true_count, sort=False)
        self.add(rows, file, line, in_order=False)

    def prepare(
        self,
        users: pa.Array,
        items: pa.Array,
        stamps: pa.Array,
        ratings: pa.Array,
        texts: pa.Array | None,
        wrong_ratings: int = 0,
        sort: bool = True,
    ) -> Prepared:
        """Check rows and sort the usable ones, for :meth:`add`. Changes nothing here: any thread may call it.

        Args:
            stamps: int64, null where there is none. ratings: float32. The other arguments as in :meth:`interactions`.
            sort: whether the rows are sorted, and so copied; else the batch may share the arguments' memory.
        """
        rows = (users, items, stamps, ratings, pa.nulls(len(users), pa.string()) if texts is None else texts)
        return prepare(rows, wrong_ratings, self.latest if self.time == "seconds" else None, sort)

    def add(
        self, rows: Prepared, file: str | Path = "", line: int | np.ndarray | None = None, in_order: bool = True
    ) -> None:
        """Add what :meth:`prepare` made, in the order of arrival.

        Args:
            line: as in :meth:`interactions`. in_order: whether the rows were sorted.
        """
        self.rows["interactions"] += rows.read
        for reason, count, first in rows.bad:
            where = None if line is None else int(line[first]) if isinstance(line, np.ndarray) else line + first
            self.bad("interactions", file, where, reason, count)
        if rows.ratings:
            self.repaired["ratings that are no number"] += rows.ratings
        if in_order:
            self._sort_pending()
            self._interactions.add(rows.batch)
        elif len(rows.batch):
            self._pending.append(rows.batch)
            self._bytes += rows.batch.nbytes
            if self._bytes > min(PIECE, self.memory):
                self._sort_pending()
        if self.progress:
            self.progress(self.rows["interactions"], None, "interactions")

    def _sort_pending(self) -> None:
        if self._pending:
            batches, self._pending, self._bytes = self._pending, [], 0
            self._interactions.add(sorted_batch(pa.Table.from_batches(batches).columns, ROWS))

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
        flush(self._item_rows, self._items)
        flush(self._user_rows, self._users)
        self._sort_pending()
        self._judge()
        pa.default_memory_pool().release_unused()
        kept: dict[str, int] = {}
        span: list[int | None] = [None, None]
        with contextlib.ExitStack() as stack:
            if not items_from_interactions:
                kept["items"] = self._write_items(stack)
            writer = _writer(stack, self.out_dir / "interactions.parquet", INTERACTIONS)
            kept["interactions"] = 0
            # Sorting the next piece overlaps with compressing this one.
            for table, users in ahead(map(self._filtered, self._interactions.pieces())):
                if not len(table):
                    continue
                if items_from_interactions:
                    self._items.add(seen_items(pc.unique(table["item_id"])))
                self._users.add(seen_users(users))
                ends = pc.min_max(table["timestamp"]).as_py()
                span = [
                    ends["min"] if span[0] is None else min(span[0], ends["min"]),
                    ends["max"] if span[1] is None else max(span[1], ends["max"]),
                ]
                kept["interactions"] += len(table)
                writer.write_table(table.cast(INTERACTIONS))
                if self.progress:
                    self.progress(kept["interactions"], None, "sorted interactions")
            if not kept["interactions"]:
                raise StarError(
                    f"no interaction of source {self.source} is usable{self._why()}", "check the files and options"
                )
            if items_from_interactions:
                kept["items"] = self._write_items(stack)
            kept["users"] = self._write(stack, "users", USERS, self._users, lambda table: table)
        files = {name: sha256(self.out_dir / f"{name}.parquet") for name in ("interactions", "items", "users")}
        manifest = {
            "source": self.source,
            "time": self.time,
            "time_range": span,
            "read": dict(self.rows),
            "kept": {name: kept[name] for name in ("interactions", "items", "users")},
            "dropped": {name: dict(counts) for name, counts in self.dropped.items() if counts},
            "repaired": {name: count for name, count in self.repaired.items() if count},
            "bad_rows": [row for rows in self._bad.values() for row in rows][:REPORTED],
            "fingerprint": fingerprint(files),
            **notes,
            **(finish() if finish else {}),
        }
        write_json(self.out_dir / "tables.json", manifest)
        return manifest

    def _write_items(self, stack: contextlib.ExitStack) -> int:
        known: list[pa.Array] = []

        def entitled(table: pa.Table) -> pa.Table:
            known.append(whole(table["item_id"]))
            nameless = pc.equal(table["title"], "")
            self.repaired["items without a title"] += int(pc.sum(nameless).as_py() or 0)
            return table.set_column(1, "title", pc.if_else(nameless, UNTITLED, table["title"]))

        count = self._write(stack, "items", ITEMS, self._items, entitled)
        self._known = pa.concat_arrays([pa.array([], pa.string()), *known])
        return count

    def _write(
        self,
        stack: contextlib.ExitStack,
        name: str,
        schema: pa.Schema,
        runs: Runs,
        change: Callable[[pa.Table], pa.Table],
    ) -> int:
        """Write the first row of each id, each piece of them changed; returns how many."""
        count = 0
        writer = _writer(stack, self.out_dir / f"{name}.parquet", schema)
        for table in runs.pieces():
            first = pa.array(heads(table[0]))
            listed = int(pc.sum(table["listed"]).as_py() or 0)
            table = table.filter(first)
            self._count(name, "duplicate", listed - int(pc.sum(table["listed"]).as_py() or 0))
            count += len(table)
            writer.write_table(change(table.select(schema.names)).cast(schema))
        return count

    def _filtered(self, table: pa.Table) -> tuple[pa.Table, pa.Array]:
        """Rows of known items, without second copies of one (user, item, timestamp); and their users, each once."""
        codes = whole(table["item_id"]).dictionary_encode()
        item = codes.indices.to_numpy()
        if self._known is not None:
            here = pc.is_in(codes.dictionary, self._known).to_numpy(zero_copy_only=False)[item]
            if not here.all():
                self._count("interactions", "item not in the item table", int((~here).sum()))
                table, item = table.filter(pa.array(here)), item[here]
        users = whole(table["user_id"])
        first = heads(users)
        user, stamp = np.cumsum(first), table["timestamp"].to_numpy()
        again = second_copies(user, item, stamp)
        if len(again):
            self._count("interactions", "duplicate", len(again))
            keep = np.ones(len(table), bool)
            keep[again] = False
            table = table.filter(pa.array(keep))
        return table, users.filter(pa.array(first))

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
        first = next((row for row in self._bad[table] if row["line"] is not None), None)
        place = f"; first at {first['file']}:{first['line']}" if first else ""
        return f" ({reasons}{place})" if reasons else ""


def _writer(stack: contextlib.ExitStack, path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of ``path``, which appears when ``stack`` is left without an error."""
    columns = [name for name in schema.names if name.endswith("_id")]
    # Bounds of ids and times let readers pass over row groups; those of texts would only cost.
    bounds = [*columns, *(name for name in ("timestamp", "rating") if name in schema.names)]
    # Texts take most of the time to write and are read by every stage that follows: a fast codec, a third more bytes.
    codecs = {name: "snappy" if name == "text" else "zstd" for name in schema.names}
    how: dict[str, Any] = {"compression": codecs, "use_dictionary": columns, "write_statistics": bounds}
    return stack.enter_context(pq.ParquetWriter(stack.enter_context(atomic_path(path)), schema, **how))
