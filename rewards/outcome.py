"""``r_out``: 1 where the truth stands first, 2/3 at rank 2-3, 1/3 at rank 4-5, else 0 (paper, section 3.5).

These tiers are HR_avg of the single sample: the mean of HR@1, HR@3 and HR@5, which is what the evaluation reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from star_rl.rewards.keys import Reading, hits, read


def of(reading: Reading) -> float:
    return sum(hits(reading.rank)) / 3.0


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any] | None = None, **_: Any
) -> dict[str, float]:
    """``score`` in {0, 1/3, 2/3, 1}. Keys: :data:`star_rl.rewards.keys.KEYS`."""
    reading = read(solution_str, ground_truth, extra_info)
    return reading.scores(of(reading))
