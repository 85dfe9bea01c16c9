"""STARec's tiers by the rank of the truth: +1 at rank 1, +0.5 at 2-5, 0 at 6-10, -0.5 at 11-20, else -1.

A malformed response and a list without the truth score -1 as well. So format is a condition here, as in ``gated``.
Where a reflection is followed by a ranking, that ranking is what is scored. (Tiers as public notes on arXiv 2508.18812
give them.)
"""

from star_rl.rewards.keys import Reading, scored

#: The last rank of a tier -> its reward.
TIERS = {1: 1.0, 5: 0.5, 10: 0.0, 20: -0.5}


def of(reading: Reading) -> float:
    rank = reading.rank if reading.well_formed else 0
    return next((reward for last, reward in TIERS.items() if 1 <= rank <= last), -1.0)


compute_score = scored(of)
