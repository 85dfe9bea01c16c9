"""Tiny worlds in which the right answer is known."""

import numpy as np
import pyarrow as pa

from star_rl.records import INTERACTIONS, Task


def table(rows: list[tuple[str, str]]) -> pa.Table:
    """Interactions of (user, item) rows; the order is the time."""
    return pa.Table.from_pylist(
        [{"user_id": u, "item_id": i, "timestamp": n, "rating": None, "text": None} for n, (u, i) in enumerate(rows)],
        schema=INTERACTIONS,
    )


def blocks(users: int = 30, each: int = 7, items: int = 12) -> pa.Table:
    """Two groups of users; a group's users have items of their own group only, at random."""
    draw = np.random.default_rng(0)
    rows = []
    for user in range(users):
        group = "ab"[user % 2]
        rows += [(f"{group}{user}", f"{group}-{item}") for item in draw.permutation(items)[:each]]
    return table(rows)


def cycle(users: int = 40, each: int = 8, items: int = 10) -> pa.Table:
    """Everybody walks round the same circle of items: after item n comes item n + 1."""
    return table([(f"u{u}", f"i{(u + step) % items}") for u in range(users) for step in range(each)])


def task(user: str, *candidates: str) -> Task:
    return Task(f"t-{user}", "s", "classic", user, candidates, candidates[0], 10**9)
