"""Histories of tasks, and the check that ``visible`` holds nothing that a task must not see."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_rl.errors import StarError
from star_rl.records import INTERACTIONS, Task, interaction_batches, rows_of_users
from star_rl.scenarios.tables import Indexed, coded

_REVIEW = ("user_id", "item_id", "timestamp", "text")
#: Rows of interactions that are read at once; with their texts they take some 100 MB.
_BATCH = 1 << 17

#: One interaction of a history: (item id, timestamp, rating or None).
Event = tuple[str, int, float | None]


class Histories:
    """Look up a user's interactions, by row ranges of the sorted table."""

    def __init__(self, interactions: pa.Table) -> None:
        data = Indexed.of(interactions)
        self._stamp = data.stamp
        self._item = data.table["item_id"].combine_chunks()
        self._rating = data.table["rating"].combine_chunks()
        self._start, self._users = data.start, data.users
        # Users of a table that is grouped by user but not sorted are looked up through their order.
        order = pc.sort_indices(data.users).to_numpy()
        self._order = None if (np.diff(order.astype(np.int64)) == 1).all() else order

    def _rows(self, user_id: str) -> tuple[int, int]:
        """Return the first row of a user and the end, by bisection: a dict of all users would outgrow their rows."""

        def name(place: int) -> str:
            return str(self._users[place if self._order is None else int(self._order[place])].as_py())

        place = bisect_left(range(len(self._users)), user_id, key=name)
        if place == len(self._users) or name(place) != user_id:
            return 0, 0
        number = place if self._order is None else int(self._order[place])
        return int(self._start[number]), int(self._start[number + 1])

    def history(self, task: Task) -> list[Event]:
        """Return the user's interactions strictly before the task's cutoff, oldest first.

        They also end before the user's first contact with the ground truth, should a task's cutoff be later than that
        (the protocol of the paper's evaluation data). Unknown users have no history.
        """
        events = self.of_user(task.user_id, task.cutoff)
        for event in events:
            if event[0] == task.ground_truth:
                return [earlier for earlier in events if earlier[1] < event[1]]
        return events

    def of_user(self, user_id: str, before: int | None = None) -> list[Event]:
        """Return all interactions of a user, or those before a timestamp, oldest first."""
        start, stop = self._rows(user_id)
        if before is not None:
            stop = start + int(np.searchsorted(self._stamp[start:stop], before, side="left"))
        count = stop - start
        items, ratings = (column.slice(start, count).to_pylist() for column in (self._item, self._rating))
        return list(zip(items, self._stamp[start:stop].tolist(), ratings, strict=True))


class Reviews:
    """What some users wrote; the texts stay in Arrow's memory.

    Args:
        rows: interactions with their texts, in any order.
    """

    def __init__(self, rows: pa.Table) -> None:
        written = rows.select(_REVIEW).filter(pc.is_valid(rows["text"]))
        user, users = coded(written["user_id"])
        self._rows = written.take(pa.array(np.argsort(user, kind="stable"))).combine_chunks()
        self._start = np.searchsorted(np.sort(user), np.arange(len(users) + 1))
        self._place = {name: place for place, name in enumerate(users.to_pylist())}

    @classmethod
    def read(cls, tables: Path, users: Collection[str]) -> Reviews:
        """Read the texts of these users alone, a batch of rows at a time.

        Raises:
            StarError: the table is absent or damaged.
        """
        batches = (pa.table(batch) for batch in interaction_batches(tables, _BATCH, _REVIEW))
        parts = [rows_of_users(rows.filter(pc.is_valid(rows["text"])), users, _REVIEW) for rows in batches]
        return cls(pa.concat_tables(parts) if parts else INTERACTIONS.empty_table())

    def of(self, user_id: str, history: Iterable[Event]) -> dict[tuple[str, int], str]:
        """Return the texts of these interactions by item and timestamp; those of any other are left out."""
        place = self._place.get(user_id)
        if place is None:
            return {}
        start, stop = (int(edge) for edge in self._start[place : place + 2])
        columns = (self._rows[name].slice(start, stop - start).to_pylist() for name in _REVIEW[1:])
        shown = {event[:2] for event in history}
        return {(item, stamp): text for item, stamp, text in zip(*columns, strict=True) if (item, stamp) in shown}


def first_contact(interactions: pa.Table, pairs: Sequence[tuple[str, str]]) -> list[int | None]:
    """Return the timestamp of each (user, item) pair's first interaction, None where the pair has no interaction."""
    wanted = set(pairs)
    rows = rows_of_users(interactions, {user for user, _ in wanted}, ["user_id", "item_id", "timestamp"])
    first: dict[tuple[str, str], int] = {}
    for user, item, stamp in zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True):
        if (user, item) in wanted and stamp < first.get((user, item), stamp + 1):
            first[user, item] = stamp
    return [first.get(pair) for pair in pairs]


def assert_no_leak(visible: pa.Table, tasks: Iterable[Task]) -> None:
    """Refuse visible interactions (in any order) that one of the tasks built from them must not see.

    Raises:
        StarError: some row is a (user, ground truth) pair of a task, or stands at or after a cutoff of its user; names
            the pair and the task.
    """
    cut: dict[str, tuple[int, Task]] = {}
    truth: dict[tuple[str, str], Task] = {}
    for task in tasks:
        truth[task.user_id, task.ground_truth] = task
        if task.user_id not in cut or task.cutoff < cut[task.user_id][0]:
            cut[task.user_id] = (task.cutoff, task)
    if not len(visible) or not cut:
        return
    (user, users), (item, items) = (coded(visible[name]) for name in ("user_id", "item_id"))
    names = users.to_pylist()
    known = np.array([name in cut for name in names])
    limit = np.array([cut[name][0] if name in cut else 0 for name in names], np.int64)
    rows = np.flatnonzero(known[user])
    late = rows[visible["timestamp"].to_numpy()[rows] >= limit[user[rows]]]
    if len(late):
        row = visible.slice(int(late[0]), 1).to_pylist()[0]
        _refuse(row["user_id"], row["item_id"], cut[row["user_id"]][1])
    place = {name: number for number, name in enumerate(names)}
    thing = {name: number for number, name in enumerate(items.to_pylist())}
    barred = [place[name] * len(thing) + thing[item] for name, item in truth if name in place and item in thing]
    pairs = user[rows] * len(thing) + item[rows]
    found = rows[np.isin(pairs, np.array(barred, np.int64))]
    if len(found):
        row = visible.slice(int(found[0]), 1).to_pylist()[0]
        _refuse(row["user_id"], row["item_id"], truth[row["user_id"], row["item_id"]])


def _refuse(user: str, item: str, task: Task) -> None:
    raise StarError(
        f"the visible interactions hold (user {user}, item {item}), which task {task.task_id} must not see",
        "split again from the tables, and build neighbours from the split's visible interactions only",
    )
