"""Rollouts that the machinery spoiled: how many a step may have, and what they must not shift.

A faulted rollout (:data:`star_rl.policy.counts.FAULTS`) is masked, but verl takes a group's mean and standard deviation
over all of its scores (``compute_grpo_outcome_advantage``, verl/trainer/ppo/core_algos.py:267), so its score would move
the advantages of its healthy neighbours. It is left out of the batch instead, as verl leaves out sessions that came to
nothing, and verl fills the batch up with padding (verl/trainer/ppo/padding_utils.py). A rollout left alone by that goes
too: verl takes a group of one for its own baseline of 0, so that its plain score would be its advantage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from star_rl.policy.counts import FAULTS

#: Share of a step's rollouts that may be faulted: above it, the machinery is what has to be mended.
MOST = 0.25
_NAMED = 3  # faults spelt out in a message

Row = Mapping[str, Any]


def spoiled(rows: Sequence[Row]) -> list[Row]:
    """The faulted ones of ``rows`` (fields ``group``, ``sample``, ``stop``)."""
    return [row for row in rows if row["stop"] in FAULTS]


def left_out(rows: Sequence[Row]) -> set[tuple[str, int]]:
    """(group, sample) of the rollouts that are not trained on: the faulted ones, and what they leave without another
    of its group."""
    bad = {(row["group"], row["sample"]) for row in spoiled(rows)}
    whole = Counter(row["group"] for row in rows)
    sound = Counter(row["group"] for row in rows if (row["group"], row["sample"]) not in bad)
    alone = {(row["group"], row["sample"]) for row in rows if sound[row["group"]] == 1 < whole[row["group"]]}
    return bad | alone


def check(rows: Sequence[Row], most: float = MOST) -> float:
    """The share of faulted rollouts.

    Raises:
        RuntimeError: it is above ``most``, or nothing is left to train on; the message names the first faults.
    """
    bad = spoiled(rows)
    share = len(bad) / len(rows) if rows else 0.0
    if bad and (share > most or len(left_out(rows)) == len(rows)):
        kinds = ", ".join(f"{count} {stop}" for stop, count in Counter(row["stop"] for row in bad).most_common())
        first = "; ".join(f"{row['task_id']}: {row['stop']} ({row.get('error') or 'unknown'})" for row in bad[:_NAMED])
        raise RuntimeError(
            f"{len(bad)} of {len(rows)} rollouts of this step are faulted ({100 * share:.0f} %, "
            f"at most {100 * most:.0f} % may be: sampler_kwargs.max_faults): {kinds}. The first: {first}"
        )
    return share
