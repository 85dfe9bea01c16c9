"""``r = r_fmt + 1 / rank``, with 0 in place of ``1 / rank`` where the truth is absent.

Every place gained counts, not only those that cross a tier.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from star_rl.rewards import format as formatting
from star_rl.rewards.keys import Reading, read


def of(reading: Reading) -> float:
    return formatting.of(reading) + (1.0 / reading.rank if reading.rank else 0.0)


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any] | None = None, **_: Any
) -> dict[str, float]:
    """``score`` in -1 .. 2. Keys: :data:`star_rl.rewards.keys.KEYS`."""
    reading = read(solution_str, ground_truth, extra_info)
    return reading.scores(of(reading))
