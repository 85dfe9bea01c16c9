"""Tell the five scenarios of AgentRecBench from the data.

AgentRecBench publishes its tasks, not the rules that made them; these are ours, stated so that they can be argued with.
The first that holds counts, all of them scored at the task's cutoff:

1. ``user_cold_start``: the user has at most ``cold_user`` interactions before the cutoff.
2. ``item_cold_start``: at most ``cold_item`` interactions of anybody with the ground truth before the cutoff.
3. ``short_term``: at least ``active`` of the user's interactions in the last ``short_days`` before the cutoff.
4. ``long_term``: at least ``active`` of them in the last ``long_days``.
5. ``classic``: everything else.

With ``quantile`` each rule takes that share of the tasks of a part instead: the users and items with the fewest
interactions, then the most active users of each window, so that no scenario is empty on dense data.

Where a source knows the order only (time = position), positions of different users cannot be compared: rule 2 counts
all interactions of others with the ground truth, and rules 3 and 4 never hold.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from star_rl.errors import StarError
from star_rl.options import Count, Number, options
from star_rl.scenarios.tables import Indexed

_DAY = 86_400


@options
class Thresholds:
    cold_user: Count = 5
    cold_item: Count = 5
    #: Interactions within a window that show an interest in motion.
    active: Count = 5
    short_days: Number = 7.0
    long_days: Number = 90.0
    #: Share of the tasks that each of the first four rules takes, instead of its number: 0.2 makes five scenarios of
    #: equal size on any data. 0: the numbers decide.
    quantile: Annotated[float, Field(ge=0, le=0.25, strict=True)] = 0.0

    def __post_init__(self) -> None:
        if self.short_days > self.long_days:
            raise StarError(
                f"short_days={self.short_days} is above long_days={self.long_days}", "give a shorter window"
            )


def classify(
    data: Indexed, user: np.ndarray, truth: np.ndarray, cutoff: np.ndarray, rules: Thresholds, seconds: bool = True
) -> np.ndarray:
    """Return the scenario of each task. Shape: (t,), strings.

    Args:
        data: all interactions.
        user, truth: numbers of user and ground truth in ``data``, shape: (t,).
        cutoff: cutoffs, shape: (t,).
        seconds: whether timestamps are seconds; False for positions.
    """
    rows = data.start[user], data.start[user + 1]
    before = _earlier(data.stamp, *rows, cutoff)
    order = np.lexsort((data.stamp, data.item))
    edges = np.searchsorted(data.item[order], np.arange(len(data.item_ids) + 1))
    everybody = edges[truth], edges[truth + 1]
    if seconds:
        support = _earlier(data.stamp[order], *everybody, cutoff) - everybody[0]
        short, long = (
            before - _earlier(data.stamp, *rows, cutoff - int(days * _DAY))
            for days in (rules.short_days, rules.long_days)
        )
    else:
        pairs, count = np.unique(data.user * len(data.item_ids) + data.item, return_counts=True)
        asked = user * len(data.item_ids) + truth
        place = np.searchsorted(pairs, asked).clip(max=len(pairs) - 1)
        support = everybody[1] - everybody[0] - np.where(pairs[place] == asked, count[place], 0)
        short = long = np.zeros(len(user), np.int64)
    if rules.quantile:
        return _by_quantile(before - rows[0], support, short, long, rules.quantile, seconds)
    cases = [
        before - rows[0] <= rules.cold_user,
        support <= rules.cold_item,
        short >= rules.active,
        long >= rules.active,
    ]
    return np.select(cases, ["user_cold_start", "item_cold_start", "short_term", "long_term"], "classic")


def _by_quantile(
    own: np.ndarray, support: np.ndarray, short: np.ndarray, long: np.ndarray, share: float, seconds: bool
) -> np.ndarray:
    """Give each rule in turn its share of all tasks, the most extreme of those left; of equal ones the earlier."""
    names = np.full(len(own), "classic", "<U15")
    left = np.ones(len(own), bool)
    rules = {"user_cold_start": own, "item_cold_start": support, "short_term": -short, "long_term": -long}
    for name, value in list(rules.items())[: 4 if seconds else 2]:
        open_ = np.flatnonzero(left)
        taken = open_[np.argsort(value[open_], kind="stable")[: int(share * len(own))]]
        names[taken], left[taken] = name, False
    return names


def _earlier(stamp: np.ndarray, low: np.ndarray, high: np.ndarray, cutoff: np.ndarray) -> np.ndarray:
    """Return the first place in ``low .. high`` whose stamp is not before the cutoff; stamps ascend there.

    Shapes: stamp (n,), the others and the result (t,).
    """
    low, high = low.copy(), high.copy()
    while (open_ := np.flatnonzero(low < high)).size:
        middle = (low[open_] + high[open_]) // 2
        early = stamp[middle] < cutoff[open_]
        low[open_[early]] = middle[early] + 1
        high[open_[~early]] = middle[~early]
    return low
