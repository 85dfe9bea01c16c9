"""``r = r_fmt + NDCG@k``; with one relevant item NDCG@k is ``1 / log2(1 + rank)`` for ``rank <= k``, else 0.

``k`` (default 10). Falls more gently than 1 / rank, so ranks 2 to 5 still differ; from -1 to 2.
"""

import math

from star_rl.rewards import format as formatting
from star_rl.rewards.keys import Reading, scored


def of(reading: Reading, k: int = 10) -> float:
    gain = 1.0 / math.log2(1 + reading.rank) if 1 <= reading.rank <= k else 0.0
    return formatting.of(reading) + gain


compute_score = scored(of)
