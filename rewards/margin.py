"""Rank margin: ``r = r_fmt + (below - above) / (n - 1)``, the share of the other candidates that the truth beats, less
the share that beats it; from -2 to 2.

``above`` counts the distinct candidates that stand before the truth, ``below`` is the rest of the ``n - 1`` (unlisted
ones are beaten). So the margin falls evenly from +1 at rank 1 to -1 at the last rank, and is -1 where the truth is
absent. Foreign ids and duplicates are not beaten, but push the truth no further down either. Without candidates in
``extra_info``, n is the paper's 20 and every distinct string counts as a candidate.
"""

from star_rl.rewards import format as formatting
from star_rl.rewards.keys import Reading, scored

_CANDIDATES = 20


def of(reading: Reading) -> float:
    return formatting.of(reading) + margin(reading)


def margin(reading: Reading) -> float:
    """Return the margin, from -1 to 1."""
    if not reading.rank:
        return -1.0
    before = {entry for entry in reading.ranks[: reading.rank - 1] if entry is not None}
    others = _CANDIDATES - 1
    if reading.candidates is not None:
        known = set(reading.candidates) - {reading.ranks[reading.rank - 1]}
        before &= known
        others = len(known)
    above = min(len(before), others)
    return (others - 2 * above) / others if others else 1.0


compute_score = scored(of)
