"""Counts of a source's read, dropped and repaired rows, and the limits at which it fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from star_rl.errors import StarError
from star_rl.sources import times
from star_rl.sources.cleaning import MISSING, Prepared

#: How many bad rows are reported one by one; all are counted.
REPORTED = 20
#: Reasons that say nothing about the quality of a file, and so do not count towards ``max_bad_share``.
HARMLESS = frozenset({"duplicate", "repeated user", "item not in the item table", "other domain"})
#: Seconds of the year 1990: no data of this field is older.
PLAUSIBLE = 631_152_000


class Counts:
    """Counts the rows of the tables of one source; the base of :class:`star_rl.sources.sink.Sink`."""

    def __init__(self, source: str, time: str, max_bad_share: float) -> None:
        if not 0 <= max_bad_share <= 1:
            raise StarError(f"max_bad_share={max_bad_share} is not a share", "give a number from 0 to 1")
        self.source, self.time, self.max_bad_share = source, time, max_bad_share
        #: Name of the raw column that holds the timestamps, for messages.
        self.time_column = "timestamp"
        self.rows: Counter[str] = Counter()
        self.dropped: dict[str, Counter[str]] = {name: Counter() for name in ("interactions", "items", "users")}
        self.repaired: Counter[str] = Counter()
        self._bad: dict[str, list[dict[str, Any]]] = {"items": [], "users": [], "interactions": []}
        #: Ratings that were read, and values that are no rating.
        self._ratings = 0
        self._odd_ratings: Counter[str] = Counter()
        #: An unreadable timestamp and an unknown item, for messages.
        self._unreadable = self._strange = ""

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

    def _report(self, rows: Prepared, file: str | Path, line: int | np.ndarray | None) -> None:
        self.rows["interactions"] += rows.read
        for reason, count, first in rows.bad:
            where = None if line is None else int(line[first]) if isinstance(line, np.ndarray) else line + first
            self.bad("interactions", file, where, reason, count)
        self.repaired["ratings that are no number"] += len(rows.odd)
        self._ratings += len(rows.batch) - rows.batch["rating"].null_count
        for value in rows.odd.to_pylist():
            if value not in MISSING:
                self._odd_ratings[value if len(self._odd_ratings) < REPORTED else "others"] += 1

    def _check(self) -> None:
        """Raise a StarError if no timestamp is readable or a table has too many bad rows."""
        unreadable = self.dropped["interactions"]["no readable timestamp"]
        if unreadable and unreadable == self.rows["interactions"]:
            raise StarError(
                f"column {self.time_column} of source {self.source}{self._unreadable} holds no readable timestamp",
                "name another column, or use source columns with time=position if the order of rows is that of time; "
                + times.FORMS,
            )
        odd = self._odd_ratings.total()
        if odd > self.max_bad_share * (odd + self._ratings):
            value = self._odd_ratings.most_common(1)[0][0]
            raise StarError(
                f"{odd:,} of {odd + self._ratings:,} ratings of source {self.source} are no number, such as {value!r}",
                "write them as 4, 4.0, .5, 4,0 or 4.0e+00, leave the column out, or raise max_bad_share to drop them",
            )
        for table, counts in self.dropped.items():
            bad = sum(count for reason, count in counts.items() if reason not in HARMLESS)
            read = self.rows[table]
            if bad > self.max_bad_share * read:
                raise StarError(
                    f"{bad:,} of {read:,} rows of {table} are unusable{self._why(table)}, "
                    f"more than max_bad_share={self.max_bad_share}",
                    "mend the file, or raise max_bad_share to drop them"
                    + (f"; {times.FORMS}" if table == "interactions" and self._unreadable else ""),
                )

    def _check_joined(self, kept: int, known: pa.Array | None) -> None:
        """Raise a StarError if most interactions name no item of the item table."""
        strange = self.dropped["interactions"]["item not in the item table"]
        if strange > kept and known is not None:
            raise StarError(
                f"{strange:,} of {self.rows['interactions']:,} interactions name an item that the item table lacks, "
                f"such as {self._strange!r}; the item table has {known[0].as_py()!r}",
                "name the columns that hold the same ids in both files",
            )

    def _doubts(self, span: list[int]) -> list[str]:
        """Return what is odd about the times that were kept."""
        if self.time == "position":
            return []
        first, last = (f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M}" for moment in (min(span), max(span)))
        place = f"the timestamps of column {self.time_column} lie between {first} and {last} UTC"
        if max(span) < PLAUSIBLE:
            return [f"{place}, before 1990: do they count from another day? {times.FORMS}"]
        return [f"{place}, within an hour: is the order lost?"] if max(span) - min(span) < 3600 else []

    def _why(self, table: str = "interactions") -> str:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in self.dropped[table].most_common(3))
        first = next((row for row in self._bad[table] if row["line"] is not None), None)
        place = f"; first at {first['file']}:{first['line']}" if first else ""
        return f" ({reasons}{place})" if reasons else ""
