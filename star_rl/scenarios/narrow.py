"""Narrow interactions before a split: the k-core over users and items, and the latest interactions of each user."""

from __future__ import annotations

import numpy as np


def core(user: np.ndarray, item: np.ndarray, least: int) -> np.ndarray:
    """Return the rows of the k-core: the most rows in which every user and every item has at least ``least``.

    Args:
        user, item: numbers of user and item of each row, shape: (n,).

    Returns:
        Row numbers, ascending; none where no such part exists.
    """
    rows = np.arange(len(user))
    while True:
        who, what = user[rows], item[rows]
        enough = (np.bincount(who)[who] >= least) & (np.bincount(what)[what] >= least)
        if enough.all():
            return rows
        rows = rows[enough]


def latest(start: np.ndarray, most: int) -> np.ndarray:
    """Return the last ``most`` rows of each user, ascending.

    Args:
        start: first row of each user and the end, as in :class:`star_rl.scenarios.tables.Indexed`, shape: (u + 1,).
    """
    end = np.repeat(start[1:], np.diff(start))
    return np.flatnonzero(end - np.arange(len(end)) <= most)
