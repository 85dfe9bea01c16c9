"""Negatives: items of a task's domain that its user never touches, drawn uniformly for all tasks at once."""

from __future__ import annotations

import numpy as np

#: Rows that are drawn at once: bounds the memory, and is part of what a seed means.
_ROWS = 1 << 16


class Untouched:
    """The items that each user never touches, by rank: rank 0 is the first of them.

    Args:
        pairs: distinct ``user * n_items + item``, ascending, shape: (p,).
        n_users, n_items: how many there are.

    Attributes:
        count: untouched items of each user, shape: (n_users,).
    """

    def __init__(self, pairs: np.ndarray, n_users: int, n_items: int) -> None:
        user, item = np.divmod(pairs, n_items)
        self._start = np.searchsorted(user, np.arange(n_users + 1))
        # Below touched item number j of a user lie item - j untouched ones; in one ascending array over all users.
        below = item - (np.arange(len(pairs)) - self._start[user])
        self._width = n_items + 1
        self._below = user * self._width + below
        self.count = n_items - np.diff(self._start)

    def items(self, users: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """Return the untouched items of these ranks. Shapes: users (n,), ranks and result (n, width)."""
        rows = users[:, None]
        touched_before = np.searchsorted(self._below, rows * self._width + ranks, side="right") - self._start[rows]
        return ranks + touched_before

    def draw(self, users: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
        """``wanted`` distinct items for each user (who has as many), in random order. Shape: (n, wanted) int64."""
        out = np.empty((len(users), wanted), np.int64)
        for low in range(0, len(users), _ROWS):
            some = users[low : low + _ROWS]
            out[low : low + _ROWS] = self.items(some, _distinct(self.count[some], wanted, rng))
        return out


class UntouchedOfDomain:
    """The items of a task's own domain that its user never touches; arguments as of :class:`Untouched`.

    Args:
        domain: number of each item's domain, -1 for one that is never drawn, shape: (n_items,).
    """

    def __init__(self, pairs: np.ndarray, n_users: int, domain: np.ndarray) -> None:
        n_items, self._domain = len(domain), domain
        user, item = np.divmod(pairs, n_items)
        place = np.empty(n_items, np.int64)
        self._pools: list[tuple[np.ndarray, Untouched]] = []
        for number in range(int(domain.max(initial=-1)) + 1):
            members = np.flatnonzero(domain == number)
            place[members] = np.arange(len(members))
            own = domain[item] == number
            self._pools.append((members, Untouched(user[own] * len(members) + place[item[own]], n_users, len(members))))

    def count(self, users: np.ndarray, truths: np.ndarray) -> np.ndarray:
        """Return how many such items each task has. Shapes: (n,)."""
        out = np.zeros(len(users), np.int64)
        for number, (_, pool) in enumerate(self._pools):
            rows = self._domain[truths] == number
            out[rows] = pool.count[users[rows]]
        return out

    def draw(self, users: np.ndarray, truths: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
        """Return ``wanted`` distinct items for each task (which has as many), in random order. Shape: (n, wanted)."""
        out = np.empty((len(users), wanted), np.int64)
        for number, (members, pool) in enumerate(self._pools):
            rows = np.flatnonzero(self._domain[truths] == number)
            out[rows] = members[pool.draw(users[rows], wanted, rng)]
        return out


def _distinct(counts: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Draw distinct numbers of ``range(count)`` uniformly, for each count >= wanted. Shape: (n, wanted) int64."""
    out = np.empty((len(counts), wanted), np.int64)
    few = counts < 4 * wanted
    if few.any():  # drawing until they differ would take long: the order of random lots decides instead
        lots = rng.random((int(few.sum()), 4 * wanted))
        lots[np.arange(4 * wanted) >= counts[few, None]] = 2.0
        out[few] = np.argsort(lots, axis=1)[:, :wanted]
    left = np.flatnonzero(~few)
    out[left] = rng.integers(0, counts[left, None], (len(left), wanted))
    while len(left):  # whatever repeats an earlier number of its row is drawn again
        ordered = np.sort(out[left], axis=1)
        left = left[(ordered[:, 1:] == ordered[:, :-1]).any(axis=1)]
        order = np.argsort(out[left], axis=1, kind="stable")
        ordered = np.take_along_axis(out[left], order, axis=1)
        row, place = np.nonzero(ordered[:, 1:] == ordered[:, :-1])
        out[left[row], order[row, place + 1]] = rng.integers(0, counts[left[row]])
    return out
