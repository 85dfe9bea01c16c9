"""The guard against leaks: a store may answer for tasks only if it was built from data without their targets.

A text cannot be searched for a leak: that similar users like the truth is what the tool is for. What can be proved is
where it came from: the store's fingerprint is that of the visible interactions, and these hold no (user, truth) pair.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from star_rl.errors import StarError
from star_rl.evidence.store import EvidenceStore
from star_rl.records import Task

#: Whether the visible interactions hold a (user id, item id) pair.
Contains: TypeAlias = Callable[[str, str], bool]


def visible_fingerprint(visible: pa.Table) -> str:
    """Fingerprint of a table of interactions: its (user, item, timestamp) rows in order, however it is chunked."""
    digest = hashlib.sha256(str(visible.num_rows).encode())
    for start in range(0, visible.num_rows, 1 << 16):
        rows = visible.slice(start, 1 << 16)
        for name in ("user_id", "item_id"):
            column = rows[name].cast(pa.large_string()).combine_chunks()
            digest.update(pc.binary_length(column).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
            digest.update("".join(column.to_pylist()).encode())
        digest.update(rows["timestamp"].to_numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def contains_of(visible: pa.Table, tasks: Iterable[Task]) -> Contains:
    """A look-up of (user, item) pairs in a table of interactions; holds the pairs of the tasks' users only."""
    users = pa.array(sorted({task.user_id for task in tasks}), pa.string())
    rows = visible.select(["user_id", "item_id"]).filter(pc.is_in(visible["user_id"], value_set=users))
    pairs = set(zip(rows["user_id"].to_pylist(), rows["item_id"].to_pylist(), strict=True))
    return lambda user, item: (user, item) in pairs


def targets_of(tasks: Iterable[Task], contains: Contains) -> dict[str, Any]:
    """Check that no task's target is visible; what the manifest keeps as proof.

    Returns:
        ``{"tasks": number, "digest": hash of the (user, truth) pairs}``.

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
    return {"tasks": len(rows), "digest": _digest(rows)}


def assert_no_targets(
    store: EvidenceStore,
    tasks: Iterable[Task],
    fingerprint: str | None = None,
    contains: Contains | None = None,
) -> None:
    """Refuse a store that may have seen the targets of ``tasks``.

    Args:
        store: the store that is to answer for them.
        tasks: what is asked of it.
        fingerprint: of the visible interactions at hand; the store must have been built from these.
        contains: looks a (user, item) pair up in those interactions. Without it the store must have been sealed with
            the proof for just these tasks (``targets`` in its manifest).

    Raises:
        StarError: other data, a visible target, or no proof.
    """
    rows = list(tasks)
    if fingerprint is not None and store.fingerprint != fingerprint:
        raise StarError(
            f"the evidence store {store.path} was built from data {store.fingerprint}, the visible data are "
            f"{fingerprint}",
            "build the store again from the visible interactions of these tasks",
        )
    if contains is not None:
        if fingerprint is None:
            raise StarError(
                "the pairs that are looked up must be those the store was built from",
                "pass the fingerprint of the visible interactions as well",
            )
        targets_of(rows, contains)
        return
    proof = store.manifest.get("targets") or {}
    if proof.get("digest") != _digest(rows):
        raise StarError(
            f"the evidence store {store.path} holds no proof that it saw no target of these {len(rows)} tasks",
            "build it with these tasks, or look the pairs up in the visible interactions",
        )


def _digest(tasks: Iterable[Task]) -> str:
    digest = hashlib.sha256()
    for pair in sorted(f"{task.user_id}\0{task.ground_truth}\n" for task in tasks):
        digest.update(pair.encode())
    return digest.hexdigest()
