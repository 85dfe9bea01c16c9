"""The checks that interactions pass before they are sorted, without any state: any thread may run them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_rl.records import INTERACTIONS
from star_rl.sources.cleaning import clean_ids
from star_rl.sources.runs import ordered

#: Columns of interactions on their way, of which none is marked as never null.
ROWS = pa.schema([pa.field(field.name, field.type) for field in INTERACTIONS])


@dataclass(frozen=True)
class Prepared:
    """Interactions that are checked and sorted, and what was found on the way.

    Attributes:
        batch: the usable rows. read: rows before the checks.
        bad: reason, rows, and the row of the first one. ratings: how many were no number.
    """

    batch: pa.RecordBatch
    read: int
    bad: tuple[tuple[str, int, int], ...]
    ratings: int


def prepare(rows: tuple[pa.Array, ...], wrong_ratings: int, latest: int | None, sort: bool) -> Prepared:
    """Drop the rows that cannot be used, and say why.

    Args:
        rows: the columns of :data:`ROWS`, shape (n,) each; timestamps are null where there is none.
        latest: last timestamp that is not in the future, seconds; None where they are positions, which are not checked.
        sort: whether the rows are sorted, and so copied; else the batch may share the arguments' memory.
    """
    users, items, stamps, ratings, texts = rows
    count = len(users)
    users, user_ok = clean_ids(users)
    items, item_ok = clean_ids(items)
    value = pc.fill_null(stamps, -1).to_numpy(zero_copy_only=False)
    keep: np.ndarray | None = None
    checks = [("no usable user id", user_ok), ("no usable item id", item_ok)]
    if latest is not None:
        readable = pc.is_valid(stamps).to_numpy(zero_copy_only=False)
        checks += [
            ("no readable timestamp", readable),
            ("timestamp before 1970", value > 0),
            ("timestamp in the future", value <= latest),
        ]
    bad = []
    for reason, good in checks:
        if good.all():
            continue
        keep = np.ones(count, bool) if keep is None else keep
        wrong = np.flatnonzero(keep & ~good)
        if len(wrong):
            bad.append((reason, len(wrong), int(wrong[0])))
            keep &= good
    batch = pa.RecordBatch.from_arrays([users, items, stamps, ratings, texts], schema=ROWS)
    if keep is not None:
        batch = batch.filter(pa.array(keep))
    if sort:
        batch = batch.take(pa.array(ordered(batch)))
    return Prepared(batch, count, tuple(bad), wrong_ratings)
