"""Tiers gated by format: ``r = r_out`` where the response is well formed, else 0; from 0 to 1 + ``valid_bonus``.

Format is a condition here, not a term. Where a student already writes well formed responses nearly always, the paper's
+-1 only adds noise to the advantage; gating leaves the rank as the one thing to improve.

``valid_bonus`` (default 0) is added where the list is valid as well (``valid_list``: the candidates, each once).
"""

from star_rl.rewards import outcome
from star_rl.rewards.keys import Reading, scored


def of(reading: Reading, valid_bonus: float = 0.0) -> float:
    return outcome.of(reading) + valid_bonus * reading.valid_list if reading.well_formed else 0.0


compute_score = scored(of)
