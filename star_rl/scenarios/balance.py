"""Draw tasks evenly over their types: sources x scenarios (paper, section 4.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from star_rl.records import Task


def task_type(task: Task) -> str:
    """Return ``source/scenario``."""
    return f"{task.source}/{task.scenario}"


def even(names: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Draw at most ``most`` rows evenly over their names, as far as each has enough. Shapes: (n,), (drawn,)."""
    pools = {name: rng.permutation(np.flatnonzero(names == name)).tolist() for name in np.unique(names)}
    most = min(most, len(names))
    picked: list[int] = []
    while len(picked) < most:
        share = max(1, (most - len(picked)) // sum(1 for pool in pools.values() if pool))
        for pool in pools.values():
            take = min(share, most - len(picked), len(pool))
            picked += pool[:take]
            del pool[:take]
    return np.sort(np.array(picked, np.int64))


def balanced(tasks: Sequence[Task], most: int | None, seed: int = 0) -> list[Task]:
    """Return at most ``most`` tasks, drawn evenly over their types; they keep their order. None returns all."""
    if most is None or len(tasks) <= most:
        return list(tasks)
    rows = even(np.array([task_type(task) for task in tasks]), most, np.random.default_rng(seed))
    return [tasks[row] for row in rows]


def shortfall(taken: Sequence[Task], others: Iterable[Task] = ()) -> dict[str, int]:
    """Return by type how many tasks are missing for an even share.

    Args:
        others: tasks (of the test) whose types should be among those taken too.
    """
    have = Counter(map(task_type, taken))
    types = sorted({*have, *map(task_type, others)})
    share = len(taken) // max(1, len(types))
    return {name: share - have[name] for name in types if have[name] < share}


def shortfall_words(missing: dict[str, int]) -> str:
    """Return a shortfall as words for a stage's summary; empty if nothing is missing."""
    listed = ", ".join(f"{name} {count:,}" for name, count in missing.items())
    return f"; missing for an even share: {listed}" if listed else ""
