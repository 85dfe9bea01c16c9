"""``r = r_fmt + 1 / rank``, with 0 in place of ``1 / rank`` where the truth is absent; from -1 to 2.

Every place gained counts, not only those that cross a tier.
"""

from star_rl.rewards import format as formatting
from star_rl.rewards.keys import Reading, scored


def of(reading: Reading) -> float:
    return formatting.of(reading) + (1.0 / reading.rank if reading.rank else 0.0)


compute_score = scored(of)
