"""Guard against leaks: a store may serve tasks only if it was built from data without their targets.

Searching the texts proves nothing: similar users may well like the ground truth. The origin can be proved: the store's
fingerprint is that of the visible interactions, and these hold no (user, ground truth) pair.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from star_rl.errors import StarError
from star_rl.records import Task, interaction_batches, rows_of_users

#: (user id, item id) -> whether the visible interactions hold the pair.
Contains: TypeAlias = Callable[[str, str], bool]
_NAMES = ["user_id", "item_id", "timestamp"]


def visible_fingerprint(visible: pa.Table | str | Path) -> str:
    """Return the fingerprint of interactions: of their (user, item, timestamp) rows in order, for any chunking.

    Args:
        visible: a table, or its Parquet file or folder, which is read in batches.
    """
    if isinstance(visible, pa.Table):
        batches: Iterable[pa.RecordBatch] = visible.select(_NAMES).to_batches(1 << 16)
    else:
        batches = interaction_batches(visible, 1 << 16, _NAMES)
    # A digest for each column, and for the lengths of the ids: batches of any size add up.
    digests = [hashlib.sha256() for _ in range(5)]
    for batch in filter(len, batches):
        for name, lengths, ids in zip(_NAMES[:2], digests[:2], digests[2:4], strict=True):
            column = batch.column(name).cast(pa.large_string())
            offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset :][: len(column) + 1]
            lengths.update(np.diff(offsets).astype("<i8").tobytes())
            ids.update(memoryview(column.buffers()[2] or b"")[offsets[0] : offsets[-1]])
        digests[4].update(batch.column("timestamp").to_numpy(zero_copy_only=False).astype("<i8").tobytes())
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()[:16]


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
