"""Tiers gated by format: ``r = r_out`` where the response is well formed, else 0.

Format is a condition here, not a term. Where a student already writes well formed responses nearly always, the paper's
+-1 only adds noise to the advantage; gating leaves the rank as the one thing to improve.

``valid_bonus`` (default 0) is added where the list is valid as well (``valid_list``: the candidates, each once).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from star_rl.rewards import outcome
from star_rl.rewards.keys import Reading, read


def of(reading: Reading, valid_bonus: float = 0.0) -> float:
    return outcome.of(reading) + valid_bonus * reading.valid_list if reading.well_formed else 0.0


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    valid_bonus: float = 0.0,
    **_: Any,
) -> dict[str, float]:
    """``score`` in 0 .. 1 + ``valid_bonus``. Keys: :data:`star_rl.rewards.keys.KEYS`."""
    reading = read(solution_str, ground_truth, extra_info)
    return reading.scores(of(reading, valid_bonus))
