"""The five scenarios of AgentRecBench told from data.

AgentRecBench publishes its tasks, not the rules that made them; these are ours, stated so that they can be argued with.
The first that holds counts, all of them judged at the task's cutoff:

1. ``user_cold_start``: the user has at most ``cold_user`` interactions before the cutoff.
2. ``item_cold_start``: at most ``cold_item`` interactions of anybody with the ground truth before the cutoff.
3. ``short_term``: at least ``active`` of the user's interactions in the last ``short_days`` before the cutoff.
4. ``long_term``: at least ``active`` of them in the last ``long_days``.
5. ``classic``: everything else.

Where a source knows the order only (time = position), positions of different users cannot be compared: rule 2 counts
all interactions of others with the ground truth, and rules 3 and 4 never hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from star_rl.errors import StarError
from star_rl.records import SCENARIOS
from star_rl.scenarios.tables import Indexed


@dataclass(frozen=True)
class Thresholds:
    cold_user: int = 5
    cold_item: int = 5
    #: Interactions within a window that show an interest in motion.
    active: int = 5
    short_days: float = 7.0
    long_days: float = 90.0

    def check(self) -> None:
        for name in ("cold_user", "cold_item", "active", "short_days", "long_days"):
            if getattr(self, name) < 0:
                raise StarError(f"{name}={getattr(self, name)} is negative", "give 0 or more")
        if self.short_days > self.long_days:
            raise StarError(
                f"short_days={self.short_days} is above long_days={self.long_days}", "give a shorter window"
            )


def classify(
    data: Indexed, user: np.ndarray, truth: np.ndarray, cutoff: np.ndarray, rules: Thresholds, seconds: bool = True
) -> list[str]:
    """Scenario of each task.

    Args:
        data: all interactions.
        user, truth: numbers of user and ground truth in ``data``, shape: (t,).
        cutoff: cutoffs, shape: (t,).
        seconds: whether timestamps are seconds; False for positions.
    """
    rules.check()
    order = np.lexsort((data.stamp, data.item))
    stamps, edges = data.stamp[order], np.searchsorted(data.item[order], np.arange(len(data.item_ids) + 1))
    names = []
    day = 86_400
    for u, i, cut in zip(user.tolist(), truth.tolist(), cutoff.tolist(), strict=True):
        mine = data.stamp[data.start[u] : data.start[u + 1]]
        before = int(np.searchsorted(mine, cut))
        own = int((data.item[data.start[u] : data.start[u + 1]] == i).sum())
        everybody = stamps[edges[i] : edges[i + 1]]
        support = int(np.searchsorted(everybody, cut)) if seconds else len(everybody) - own
        recent = [before - int(np.searchsorted(mine, cut - days * day)) for days in (rules.short_days, rules.long_days)]
        if before <= rules.cold_user:
            names.append("user_cold_start")
        elif support <= rules.cold_item:
            names.append("item_cold_start")
        elif seconds and recent[0] >= rules.active:
            names.append("short_term")
        elif seconds and recent[1] >= rules.active:
            names.append("long_term")
        else:
            names.append("classic")
    assert set(names) <= set(SCENARIOS)
    return names
