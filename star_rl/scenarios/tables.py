"""The four tables together, and interactions as arrays of integers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_rl.errors import StarError
from star_rl.files import read_json
from star_rl.records import read_table


@dataclass(frozen=True)
class Tables:
    """The tables of one source; ``tasks`` where the source brings its own, ``manifest`` as its writer left it."""

    interactions: pa.Table
    items: pa.Table
    users: pa.Table
    tasks: pa.Table | None = None
    manifest: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str | Path) -> Tables:
        """Read the tables that :func:`star_rl.sources.write_tables` wrote.

        Raises:
            StarError: a table is absent or damaged.
        """
        root = Path(folder)
        return cls(
            interactions=read_table(root, "interactions"),
            items=read_table(root, "items"),
            users=read_table(root, "users"),
            tasks=read_table(root, "tasks") if (root / "tasks.parquet").exists() else None,
            manifest=read_json(root / "tables.json") if (root / "tables.json").exists() else {},
        )


@dataclass(frozen=True)
class Indexed:
    """Interactions sorted by (user, timestamp, arrival) with users and items as numbers; n rows, u users.

    Attributes:
        table: the sorted table.
        user_ids: id of each user number, in the order of the rows, length u.
        start: first row of each user and the end, shape: (u + 1,).
        user, stamp: user number and timestamp of each row, shape: (n,).
        item: number of each row's item in ``item_ids``, shape: (n,).
        item_ids: ids of the items.
    """

    table: pa.Table
    user_ids: list[str]
    start: np.ndarray
    user: np.ndarray
    stamp: np.ndarray
    item: np.ndarray
    item_ids: list[str]

    @classmethod
    def of(cls, interactions: pa.Table, items: pa.Table | None = None) -> Indexed:
        """Index interactions, sorting them first where they are not.

        Raises:
            StarError: an interaction's item is not in ``items``.
        """
        table = in_order(interactions)
        users = _whole(table["user_id"]).dictionary_encode()
        user = users.indices.to_numpy().astype(np.int64)
        stamp = table["timestamp"].to_numpy()
        column = _whole(table["item_id"])
        if items is None:
            coded = column.dictionary_encode()
            names, item = coded.dictionary, coded.indices.to_numpy().astype(np.int64)
        else:
            names = _whole(items["item_id"])
            coded = column.dictionary_encode()
            place = pc.fill_null(pc.index_in(coded.dictionary, names), -1).to_numpy(zero_copy_only=False)
            if len(place) and place.min() < 0:
                lost = coded.dictionary[int(place.argmin())].as_py()
                raise StarError(f"item {lost!r} has interactions but no row in items", "write the tables again")
            item = place[coded.indices.to_numpy()].astype(np.int64)
        count = len(users.dictionary)
        start = np.searchsorted(user, np.arange(count + 1))
        return cls(table, users.dictionary.to_pylist(), start, user, stamp, item, names.to_pylist())


def in_order(interactions: pa.Table) -> pa.Table:
    """The interactions sorted by (user, timestamp), equal ones in the order they stand in; unchanged if they are."""
    table = interactions.combine_chunks()
    if len(table) < 2:
        return table
    coded = _whole(table["user_id"]).dictionary_encode()
    user, stamp = coded.indices.to_numpy().astype(np.int64), table["timestamp"].to_numpy()
    # Numbers are given in the order of first sight, so rows are grouped by user exactly where they never fall.
    step = np.diff(user)
    if (step >= 0).all() and (np.diff(stamp)[step == 0] >= 0).all():
        return table
    rank = np.empty(len(coded.dictionary), np.int64)
    rank[pc.sort_indices(coded.dictionary).to_numpy()] = np.arange(len(rank))
    return table.take(pa.array(np.lexsort((stamp, rank[user]))))


def _whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
