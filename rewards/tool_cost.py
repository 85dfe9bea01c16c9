"""``r = r_fmt + r_out - cost * calls``, with ``calls`` no more than ``cap``: evidence has a price.

``cost`` (default 0.02) is per tool call, ``invalid_cost`` (default: ``cost``) per call that does not parse or that the
tools refuse. ``cap`` (default 16) bounds the number charged, so the charge never exceeds
``cap * max(cost, invalid_cost)``. With the defaults a call pays where it lifts HR_avg by 2 points.
"""

from star_rl.rewards import star
from star_rl.rewards.keys import Reading, scored


def of(reading: Reading, cost: float = 0.02, invalid_cost: float | None = None, cap: int = 16) -> float:
    calls = min(reading.tool_calls, cap)
    invalid = min(reading.invalid_calls, calls)
    return star.of(reading) - cost * (calls - invalid) - (cost if invalid_cost is None else invalid_cost) * invalid


compute_score = scored(of)
