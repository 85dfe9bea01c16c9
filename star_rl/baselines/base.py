"""The base class of the baselines that need no language model."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from star_rl.progress import Progress
from star_rl.records import Task

if TYPE_CHECKING:
    from star_rl.evaluation.methods import TaskContext


class Baseline(ABC):
    """Fit once on the visible interactions, then rank the candidates of any number of tasks.

    A baseline sees what the evidence store saw, the split's visible interactions, and the history of the task.
    """

    name = ""  #: as ``star-rl evaluate`` names it
    seed: int  #: decides ties, and all that a training draws

    @abstractmethod
    def fit(self, visible: pa.Table, progress: Progress | None = None) -> Self:
        """Learn from interactions (records.INTERACTIONS) and return the baseline itself.

        Args:
            progress: called after each epoch, by baselines that are trained.
        """

    @abstractmethod
    def scores(self, task: Task, history: Sequence[str]) -> np.ndarray:
        """Score the candidates, higher is better. Shape: (candidates,)."""

    def rank(self, context: TaskContext) -> list[str]:
        """Return the candidates, best first, ties by seed: their order must not decide."""
        task = context.task
        digest = hashlib.sha256(f"{self.seed}:{task.task_id}".encode()).digest()
        jitter = np.random.default_rng(int.from_bytes(digest[:8], "little")).random(len(task.candidates))
        order = np.lexsort((jitter, -self.scores(task, context.item_ids)))
        return [task.candidates[index] for index in order]


def codes_of(code: Mapping[str, int], ids: Iterable[str]) -> np.ndarray:
    """Look up item codes by id, -1 for an item that nobody visibly has. Shape: (n,) int64."""
    return np.array([code.get(name, -1) for name in ids], np.int64)
