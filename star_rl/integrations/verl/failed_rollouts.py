"""Exclude failed rollouts from a GRPO batch, and stop the training when too many fail.

verl takes a group's mean and standard deviation over all of its scores (``compute_grpo_outcome_advantage``,
verl/trainer/ppo/core_algos.py:267), so even a masked rollout would move the advantages of its group. A failed rollout
(:data:`star_rl.policy.rollout_stats.FAILED`) therefore leaves the batch, and verl fills the batch up with padding
(verl/trainer/ppo/padding_utils.py). A rollout that is then alone in its group leaves too: verl gives a group of one the
baseline 0, so that its plain score would be its advantage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from star_rl.policy.rollout_stats import FAILED

#: Default of the largest share of failed rollouts in a step.
MAX_FAILED = 0.25
_NAMED = 3  # failures in a message

Row = Mapping[str, Any]


def failed(rows: Sequence[Row]) -> list[Row]:
    """Return the failed ones of ``rows`` (fields ``group``, ``sample``, ``stop``)."""
    return [row for row in rows if row["stop"] in FAILED]


def excluded(rows: Sequence[Row]) -> set[tuple[str, int]]:
    """Return (group, sample) of the rollouts not trained on: failed ones, and those then alone in their group."""
    bad = {(row["group"], row["sample"]) for row in failed(rows)}
    size = Counter(row["group"] for row in rows)
    sound = Counter(row["group"] for row in rows if (row["group"], row["sample"]) not in bad)
    return bad | {(row["group"], row["sample"]) for row in rows if sound[row["group"]] == 1 < size[row["group"]]}


def check(rows: Sequence[Row], max_failed: float = MAX_FAILED) -> float:
    """Return the share of failed rollouts.

    Raises:
        RuntimeError: it is above ``max_failed``, or nothing is left to train on; the message names the first failures.
    """
    bad = failed(rows)
    share = len(bad) / len(rows) if rows else 0.0
    if bad and (share > max_failed or len(excluded(rows)) == len(rows)):
        kinds = ", ".join(f"{count} {stop}" for stop, count in Counter(row["stop"] for row in bad).most_common())
        first = "; ".join(f"{row['task_id']}: {row['stop']} ({row.get('error') or 'unknown'})" for row in bad[:_NAMED])
        raise RuntimeError(
            f"{len(bad)} of {len(rows)} rollouts of this step failed ({100 * share:.0f} %, "
            f"at most {100 * max_failed:.0f} % may: sampler_kwargs.max_failed): {kinds}. The first: {first}"
        )
    return share
