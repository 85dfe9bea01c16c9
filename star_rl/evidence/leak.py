"""Guard against leaks: a store may serve tasks only if it was built from data without their targets.

Searching the texts proves nothing: similar users may well like the ground truth. The origin can be proved: the store's
fingerprint is that of the visible interactions, and these hold no (user, ground truth) pair.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_rl.errors import StarError
from star_rl.records import Task, count_of, interaction_batches, rows_of_users

#: (user id, item id) -> whether the visible interactions hold the pair.
Contains: TypeAlias = Callable[[str, str], bool]
#: Rows under one step of a fingerprint, and the columns it covers.
_ROWS, _NAMES = 1 << 16, ["user_id", "item_id", "timestamp"]


def visible_fingerprint(visible: pa.Table | str | Path) -> str:
    """Return the fingerprint of interactions: of their (user, item, timestamp) rows in order, for any chunking.

    Args:
        visible: a table, or its Parquet file or folder, which is read in batches.
    """
    if isinstance(visible, pa.Table):
        count, batches = visible.num_rows, visible.select(_NAMES).to_batches(_ROWS)
    else:
        count, batches = count_of(visible, "interactions"), interaction_batches(visible, _ROWS, _NAMES)
    digest = hashlib.sha256(str(count).encode())
    for rows in _blocks(batches):
        for name in _NAMES[:2]:
            column = rows[name].cast(pa.large_string()).combine_chunks()
            lengths = pc.binary_length(column).to_numpy(zero_copy_only=False).astype("<i8")
            digest.update(lengths.tobytes())
            if len(column):
                start = int(np.frombuffer(column.buffers()[1], np.int64, 1, 8 * column.offset)[0])
                digest.update(memoryview(column.buffers()[2])[start : start + int(lengths.sum())])
        digest.update(rows["timestamp"].to_numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield the same rows in tables of :data:`_ROWS`; the last may be shorter."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        while len(batch):
            held.append(batch.slice(0, _ROWS - count))
            count += len(held[-1])
            batch = batch.slice(len(held[-1]))
            if count == _ROWS:
                yield pa.Table.from_batches(held)
                held, count = [], 0
    if held:
        yield pa.Table.from_batches(held)


def contains_of(visible: pa.Table, tasks: Iterable[Task]) -> Contains:
    """Return a look-up of (user, item) pairs in a table of interactions, for the tasks' users only."""
    rows = rows_of_users(visible, {task.user_id for task in tasks}, _NAMES[:2])
    pairs = set(zip(rows["user_id"].to_pylist(), rows["item_id"].to_pylist(), strict=True))
    return lambda user, item: (user, item) in pairs


def targets_of(tasks: Iterable[Task], contains: Contains) -> dict[str, Any]:
    """Check that no task's target is visible.

    Returns:
        The proof in the manifest: ``{"tasks": number, "digest": hash of the (user, truth) pairs}``.

    Raises:
        StarError: a target is visible; the first task is named.
    """
    rows = list(tasks)
    for task in rows:
        if contains(task.user_id, task.ground_truth):
            raise StarError(
                f"task {task.task_id}: the visible data hold its target (user {task.user_id!r}, item "
                f"{task.ground_truth!r})",
                "build the evidence from the interactions that are visible in the scenario",
            )
    return {"tasks": len(rows), "digest": digest_of_targets(rows)}


def digest_of_targets(tasks: Iterable[Task]) -> str:
    """Return a hash of the (user, truth) pairs in any order."""
    digest = hashlib.sha256()
    for pair in sorted(f"{task.user_id}\0{task.ground_truth}\n" for task in tasks):
        digest.update(pair.encode())
    return digest.hexdigest()
