"""What the trained baselines share: coded interactions, a held-out item per user, early stopping, and scoring.

A model is trained twice. First without the last visible item of some users, to find the epoch at which it ranks those
items best; then on everything visible for as many epochs. No task is looked at.

Notation: U users, I items, n interactions, b users scored at once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import torch

from star_rl.baselines.base import Baseline, codes_of
from star_rl.evaluation.metrics import CUTS
from star_rl.options import Size, Whole, section
from star_rl.progress import Progress
from star_rl.records import CANDIDATES, Task
from star_rl.scenarios.tables import Indexed

#: Most users whose last item is held out, and most scored at once.
HELD_OUT = 2000
BLOCK = 500
#: Epochs where nobody has two items, so that nothing can be held out.
UNWATCHED = 20


@dataclass(frozen=True)
class Log:
    """Visible interactions by code, each user's in order of time."""

    item: np.ndarray  #: item codes. Shape: (n,) int64
    start: np.ndarray  #: first row of each user and the end. Shape: (U + 1,)
    users: dict[str, int]  #: user id -> code
    items: dict[str, int]

    @classmethod
    def of(cls, visible: pa.Table) -> Log:
        """Code a table of interactions by sorted ids, so that the order of its users tells nothing."""
        if not len(visible):
            return cls(np.zeros(0, np.int64), np.zeros(1, np.int64), {}, {})
        data = Indexed.of(visible.sort_by([("user_id", "ascending"), ("timestamp", "ascending")]))
        order = np.argsort(np.array(data.item_ids, object), kind="stable")
        code = np.empty(len(order), np.int64)
        code[order] = np.arange(len(order))
        users = {name: number for number, name in enumerate(data.user_ids)}
        return cls(code[data.item], data.start, users, {data.item_ids[k]: n for n, k in enumerate(order.tolist())})

    def has(self, user: int, items: np.ndarray) -> bool:
        """Return whether a user has all these items."""
        return bool(np.isin(items, self.of_user(user)).all())

    @property
    def n_users(self) -> int:
        return len(self.start) - 1

    @property
    def n_items(self) -> int:
        return len(self.items)

    def of_user(self, user: int) -> np.ndarray:
        """Return the item codes of a user, oldest first."""
        return self.item[self.start[user] : self.start[user + 1]]

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return distinct (user, item) pairs, sorted. Shapes: (p,), (p,)."""
        user = np.repeat(np.arange(self.n_users), np.diff(self.start))
        keys = np.unique(user * max(self.n_items, 1) + self.item)
        return keys // max(self.n_items, 1), keys % max(self.n_items, 1)

    def hold_out(self, rng: np.random.Generator) -> tuple[Log, np.ndarray, np.ndarray]:
        """The log without the last item of up to :data:`HELD_OUT` users, those users, and their items.

        An item that stands in the rest of its user's row as well is no held-out item.
        """
        long = np.flatnonzero(np.diff(self.start) >= 2)
        last = self.start[1:][long] - 1
        fresh = [self.item[row] not in self.item[self.start[u] : row] for u, row in zip(long, last, strict=True)]
        long, last = long[fresh], last[fresh]
        if len(long) > HELD_OUT:
            chosen = np.sort(rng.choice(len(long), HELD_OUT, replace=False))
            long, last = long[chosen], last[chosen]
        taken = np.zeros(self.n_users, np.int64)
        taken[long] = 1
        kept = np.ones(len(self.item), bool)
        kept[last] = False
        start = self.start - np.concatenate([[0], np.cumsum(taken)])
        return Log(self.item[kept], start, self.users, self.items), long, self.item[last]


class Model(Protocol):
    """The interface of a model that :func:`train` trains."""

    def epoch(self) -> None:
        """Pass once over the training data."""

    def scores(self, users: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
        """Score all items for users of the log and their histories. Shape: (b, I)."""


def train(
    make: Callable[[Log], Any], log: Log, epochs: int, patience: int, seed: int, progress: Progress | None = None
) -> tuple[Any, list[float]]:
    """Train a model twice, as the module says.

    Args:
        make: a new :class:`Model` for a log; the same log gives the same model.
        epochs: at most this many.
        patience: epochs without a better ranking after which the first training ends.
        progress: called with (epochs done, epochs at most) of both trainings.

    Returns:
        the model, and the expected HR_avg of the held-out items after each epoch of the first training.
    """
    kept, users, truths = log.hold_out(np.random.default_rng(seed))
    best, curve = min(epochs, UNWATCHED), list[float]()
    if len(users):
        model: Model = make(kept)
        histories = [kept.of_user(user) for user in users]
        best = 0
        while len(curve) < min(epochs, best + patience):
            model.epoch()
            curve.append(_held_out_hits(model, users, histories, truths))
            if curve[-1] > curve[best - 1] or best == 0:
                best = len(curve)
            if progress:
                progress(len(curve), 2 * epochs)
    model = make(log)
    for done in range(best):
        model.epoch()
        if progress:
            progress(len(curve) + done + 1, len(curve) + best)
    return model, curve


def _held_out_hits(model: Model, users: np.ndarray, histories: list[np.ndarray], truths: np.ndarray) -> float:
    shares = []
    for at in range(0, len(users), BLOCK):
        block = slice(at, at + BLOCK)
        scores = model.scores(users[block], histories[block])
        own = scores[np.arange(len(scores)), truths[block]]
        above = (scores > own[:, None]).sum(1) + ((scores == own[:, None]).sum(1) - 1) / 2
        free = np.full(len(scores), scores.shape[1] - 1)
        for row, history in enumerate(histories[block]):  # a negative is never an item of the history
            seen = scores[row, np.unique(history)]
            above[row] -= (seen > own[row]).sum() + (seen == own[row]).sum() / 2
            free[row] -= len(seen)
        shares.append(above / np.maximum(free, 1))
    return float(expected_hits(np.concatenate(shares)).mean())


def expected_hits(share: np.ndarray) -> np.ndarray:
    """HR_avg to expect against 19 uniform negatives of which this share ranks above the truth. Shape: as ``share``.

    The number above the truth is binomial, so one ranking of all items tells what no draw of negatives tells as well.
    """
    from scipy.stats import binom

    return sum(binom.cdf(k - 1, CANDIDATES - 1, np.clip(share, 0, 1)) for k in CUTS) / len(CUTS)


@section
class Trained(Baseline):
    """A baseline that is trained by ``fit``. Subclasses set ``name``, ``model_of`` and ``score_items``.

    A candidate that nobody visibly has stands after those that somebody has, ties by seed.

    Args:
        seed: of initial values, batches, negatives and ties.
        epochs, patience: see :func:`train`.
        threads: of torch.
    """

    seed: Whole = 0
    epochs: Size = 200
    patience: Size = 8
    threads: Size = 1

    def fit(self, visible: pa.Table, progress: Progress | None = None) -> Self:
        """Train on the visible interactions; ``curve`` holds the held-out HR_avg after each epoch."""
        self.log, self.curve = Log.of(visible), list[float]()
        if self.log.n_items:
            with isolated(self.seed, self.threads):
                self.model, self.curve = train(self.model_of, self.log, self.epochs, self.patience, self.seed, progress)
            self._prepare()
        return self

    def scores(self, task: Task, history: Sequence[str]) -> np.ndarray:
        asked, seen = codes_of(self.log.items, task.candidates), codes_of(self.log.items, history)
        scores, known = np.full(len(asked), -np.inf), asked >= 0
        if known.any():
            with isolated(self.seed, self.threads):
                scores[known] = self.score_items(self.log.users.get(task.user_id), seen[seen >= 0], asked[known])
        return scores

    def _prepare(self) -> None:
        """Keep what scoring reads of the trained model."""

    @abstractmethod
    def model_of(self, log: Log) -> Any:
        """Return an untrained :class:`Model` of the log's users and items."""

    @abstractmethod
    def score_items(self, user: int | None, history: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Score items by code; ``user`` is None where the log does not hold it. Shape: as ``asked``."""


@contextmanager
def isolated(seed: int, threads: int) -> Iterator[None]:
    """Run torch with its own random state and this many threads; restore both afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)
