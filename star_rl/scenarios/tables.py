"""The four tables together, and interactions as arrays of integers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_rl.errors import StarError
from star_rl.files import read_json
from star_rl.records import read_interactions, read_table

_ITEMS = 1 << 12  # items that are decoded at once


@dataclass(frozen=True)
class Tables:
    """The tables of one source; ``tasks`` where the source brings its own, ``manifest`` as its writer left it."""

    interactions: pa.Table
    items: pa.Table
    users: pa.Table
    tasks: pa.Table | None = None
    manifest: dict[str, Any] = field(default_factory=dict)

    def domains(self) -> list[str]:
        """Return the source of each item, which is the source of the tasks whose ground truth it is.

        Where the tables hold several domains (the manifest has an option ``domain``), an item's ``source`` attribute
        names its own; elsewhere it is the source of the tables.
        """
        whole = str(self.manifest.get("source", "data"))
        if "domain" not in (self.manifest.get("options") or {}) or "attributes" not in self.items.column_names:
            return [whole] * len(self.items)
        batches = self.items.select(["attributes"]).to_batches(_ITEMS)
        rows = (text for batch in batches for text in batch.column(0).to_pylist())
        return [str(json.loads(text or "{}").get("source") or whole) for text in rows]

    @classmethod
    def read(cls, folder: str | Path) -> Tables:
        """Read what a split needs: ids of items and users, items' attributes, and the interactions without their texts.

        Raises:
            StarError: a table is absent or damaged.
        """
        root = Path(folder)
        return cls(
            interactions=read_interactions(root),
            items=read_table(root, "items", ["item_id", "attributes"]),
            users=read_table(root, "users", ["user_id"]),
            tasks=read_table(root, "tasks") if (root / "tasks.parquet").exists() else None,
            manifest=read_json(root / "tables.json") if (root / "tables.json").exists() else {},
        )


@dataclass(frozen=True)
class Indexed:
    """Interactions sorted by (user, timestamp, arrival) with users and items as numbers; n rows, u users.

    Attributes:
        table: the sorted table.
        users: id of each user number, in the order of the rows, length u.
        start: first row of each user and the end, shape: (u + 1,).
        user, stamp: user number and timestamp of each row, shape: (n,).
        item: number of each row's item in ``item_ids``, shape: (n,).
        items: ids of the items.
        order: the given table's row of each row, shape: (n,); None where that stood in order.
        user_ids, item_ids: ``users`` and ``items`` as lists.
    """

    table: pa.Table
    users: pa.Array
    start: np.ndarray
    user: np.ndarray
    stamp: np.ndarray
    item: np.ndarray
    items: pa.Array
    order: np.ndarray | None = None

    @cached_property
    def user_ids(self) -> list[str]:
        return list(self.users.to_pylist())

    @cached_property
    def item_ids(self) -> list[str]:
        return list(self.items.to_pylist())

    @classmethod
    def of(cls, interactions: pa.Table, items: pa.Table | None = None) -> Indexed:
        """Index interactions, sorting them first where they are not.

        Raises:
            StarError: an interaction's item is not in ``items``.
        """
        table, order = interactions.combine_chunks(), ordering(interactions)
        if order is not None:
            table = table.take(pa.array(order))
        user, users = coded(table["user_id"])
        stamp = table["timestamp"].to_numpy()
        item, names = coded(table["item_id"])
        if items is not None:
            seen, names = names, _whole(items["item_id"])
            place = pc.fill_null(pc.index_in(seen, names), -1).to_numpy(zero_copy_only=False)
            if len(place) and place.min() < 0:
                lost = seen[int(place.argmin())].as_py()
                raise StarError(f"item {lost!r} has interactions but no row in items", "write the tables again")
            item = place[item].astype(np.int64)
        start = np.searchsorted(user, np.arange(len(users) + 1))
        return cls(table, users, start, user, stamp, item, names, order)

    def take(self, rows: np.ndarray) -> Indexed:
        """Return these rows, which ascend; users without a row are gone, items keep their numbers."""
        seen, user = np.unique(self.user[rows], return_inverse=True)
        return Indexed(
            table=self.table.take(pa.array(rows)),
            users=self.users.take(pa.array(seen)),
            start=np.searchsorted(user, np.arange(len(seen) + 1)),
            user=user,
            stamp=self.stamp[rows],
            item=self.item[rows],
            items=self.items,
            order=rows if self.order is None else self.order[rows],
        )


def coded(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Return codes of ids in order of first appearance, and the ids. Shapes: (n,) int64, (distinct,)."""
    whole = column.unify_dictionaries() if pa.types.is_dictionary(column.type) else column
    array = _whole(whole).dictionary_encode()
    codes, names = array.indices.to_numpy().astype(np.int64), array.dictionary
    highest = np.maximum.accumulate(codes) if len(codes) else codes
    if (np.diff(highest, prepend=-1) <= 1).all() and len(names) == (highest[-1] + 1 if len(codes) else 0):
        return codes, names
    # A part of a coded table: its dictionary holds more, or in another order.
    seen, first = np.unique(codes, return_index=True)
    order = np.argsort(first)
    number = np.empty(len(names), np.int64)
    number[seen[order]] = np.arange(len(seen))
    return number[codes], names.take(pa.array(seen[order]))


def ordering(interactions: pa.Table) -> np.ndarray | None:
    """The order of the rows by (user, timestamp), equal ones as they stand; None where they stand in order already."""
    if len(interactions) < 2:
        return None
    user, names = coded(interactions["user_id"])
    stamp = interactions["timestamp"].to_numpy()
    # Numbers are given in the order of first sight, so rows are grouped by user exactly where they never fall.
    step = np.diff(user)
    if (step >= 0).all() and (np.diff(stamp)[step == 0] >= 0).all():
        return None
    rank = np.empty(len(names), np.int64)
    rank[pc.sort_indices(names).to_numpy()] = np.arange(len(rank))
    return np.lexsort((stamp, rank[user]))


def _whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
