"""``r_out``: 1 where the truth stands first, 2/3 at rank 2-3, 1/3 at rank 4-5, else 0 (paper, section 3.5).

These tiers are HR_avg of the single sample: the mean of HR@1, HR@3 and HR@5, which is what the evaluation reports.
"""

from star_rl.rewards.keys import Reading, hits, scored


def of(reading: Reading) -> float:
    return sum(hits(reading.rank)) / 3.0


compute_score = scored(of)
