"""The paper's reward: ``r = r_fmt + r_out``, from -1 to 2 (section 3.5).

``r_fmt`` is +1 or -1 (:mod:`star_rl.rewards.format`), ``r_out`` is 1, 2/3, 1/3 or 0 (:mod:`star_rl.rewards.outcome`).
A malformed response whose ranking can still be read keeps its outcome: it scores between -1 and 0, a well formed one
at least 1.
"""

from star_rl.rewards import format as formatting
from star_rl.rewards import outcome
from star_rl.rewards.keys import Reading, scored


def of(reading: Reading) -> float:
    return formatting.of(reading) + outcome.of(reading)


compute_score = scored(of)
