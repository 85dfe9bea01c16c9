"""``r_fmt``: +1 where the response is well formed, else -1 (paper, section 3.5).

Well formed: the critical phases are there (``<plan>``, ``<reflection>``, ``<recommend>``, or ``extra_info["required"]``
for an ablated student) and in their order, tags balance, every phase ends in JSON that parses (the last one in a
list), every tool call parses, and the model wrote no tool response itself.
"""

from star_rl.rewards.keys import Reading, scored


def of(reading: Reading) -> float:
    return 1.0 if reading.well_formed else -1.0


compute_score = scored(of)
