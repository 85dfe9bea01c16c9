"""``r_fmt``: +1 where the response is well formed, else -1 (paper, section 3.5).

Well formed: the critical phases are there (``<plan>``, ``<reflection>``, ``<recommend>``, or ``extra_info["required"]``
for an ablated student) and in their order, tags balance, every phase ends in JSON that parses (the last one in a
list), every tool call parses, and no tool response was written by the model itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from star_rl.rewards.keys import Reading, read


def of(reading: Reading) -> float:
    return 1.0 if reading.well_formed else -1.0


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any] | None = None, **_: Any
) -> dict[str, float]:
    """``score`` = +1 or -1. Keys: :data:`star_rl.rewards.keys.KEYS`."""
    reading = read(solution_str, ground_truth, extra_info)
    return reading.scores(of(reading))
