"""``r = r_fmt + NDCG@k``; with one relevant item NDCG@k is ``1 / log2(1 + rank)`` for ``rank <= k``, else 0.

``k`` (default 10). Falls more gently than 1 / rank, so that ranks 2 to 5 still tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from star_rl.rewards import format as formatting
from star_rl.rewards.keys import Reading, read


def of(reading: Reading, k: int = 10) -> float:
    gain = 1.0 / math.log2(1 + reading.rank) if 1 <= reading.rank <= k else 0.0
    return formatting.of(reading) + gain


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    k: int = 10,
    **_: Any,
) -> dict[str, float]:
    """``score`` in -1 .. 2. Keys: :data:`star_rl.rewards.keys.KEYS`."""
    reading = read(solution_str, ground_truth, extra_info)
    return reading.scores(of(reading, k))
