"""Items and users on their way to their tables: rows of the source beside those that only the interactions name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from star_rl.records import ITEMS, USERS
from star_rl.sources.runs import Runs, sorted_batch

#: Rows that are gathered before they are sorted.
BATCH = 1 << 12

#: ``listed`` tells rows of the source from those that only the interactions name.
_LISTED = pa.field("listed", pa.bool_())
ITEM_ROWS = pa.schema([*(pa.field(field.name, field.type) for field in ITEMS), _LISTED])
USER_ROWS = pa.schema([*(pa.field(field.name, field.type) for field in USERS), _LISTED])


def flush(rows: list[Any], runs: Runs) -> None:
    """Sort the items or users that were gathered, add them to their runs and empty the list."""
    if rows:
        columns = [*map(list, zip(*rows, strict=True)), [True] * len(rows)]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, runs.schema, strict=True)]
        rows.clear()
        runs.add(sorted_batch(arrays, runs.schema))


def listed_users(ids: pa.Array, attributes: pa.Array) -> pa.RecordBatch:
    """Users of the source, sorted. Shapes: (n,) both, attributes encoded."""
    return sorted_batch([ids, attributes, pa.repeat(True, len(ids))], USER_ROWS)


def seen_items(ids: pa.Array) -> pa.RecordBatch:
    """Items of which no more is known than their id, which becomes their title; sorted. Shape: (n,)."""
    none = pa.array([[]], ITEMS.field("categories").type).take(pa.array(np.zeros(len(ids), np.int64)))
    return sorted_batch([ids, ids, none, pa.repeat("{}", len(ids)), pa.repeat(False, len(ids))], ITEM_ROWS)


def seen_users(ids: pa.Array) -> pa.RecordBatch:
    """Users of whom no more is known than their id; ``ids`` are sorted already. Shape: (n,)."""
    return pa.RecordBatch.from_arrays([ids, pa.repeat("{}", len(ids)), pa.repeat(False, len(ids))], schema=USER_ROWS)
