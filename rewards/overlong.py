"""``r = r_fmt + r_out - p``: DAPO's soft length penalty (arXiv 2503.14476, equation 13) on the paper's reward.

``p`` is 0 up to ``longest - buffer`` tokens, rises evenly to ``penalty`` at ``longest``, and stays there. The tokens
are the response's, tool answers included, as the policy loop counts them (``response_tokens``). Set ``longest``
(default 8192) to ``max_response_length``: a response never gets longer. Without the loop's counts ``p`` is 0.
"""

from star_rl.rewards import star
from star_rl.rewards.keys import Reading, scored


def of(reading: Reading, longest: int = 8192, buffer: int = 2048, penalty: float = 1.0) -> float:
    over = (reading.response_tokens - (longest - buffer)) / buffer
    return star.of(reading) - penalty * min(max(over, 0.0), 1.0)


compute_score = scored(of)
