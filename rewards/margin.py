"""Rank margin: ``r = r_fmt + (below - above) / (n - 1)``, the share of the other candidates that the truth beats, less
the share that beats it.

``above`` counts the distinct candidates that stand before the truth, ``below`` is the rest of the ``n - 1`` (unlisted
ones are beaten). So the margin falls evenly from +1 at rank 1 to -1 at the last rank, and is -1 where the truth is
absent. Foreign ids and duplicates are not beaten, but push the truth no further down either. Without candidates in
``extra_info``, n is the paper's 20 and every distinct string counts as a candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from star_rl.rewards import format as formatting
from star_rl.rewards.keys import Reading, read, strings

_CANDIDATES = 20


def of(reading: Reading, candidates: Iterable[str] | None = None) -> float:
    return formatting.of(reading) + margin(reading, candidates)


def margin(reading: Reading, candidates: Iterable[str] | None = None) -> float:
    """From -1 to 1."""
    if not reading.rank:
        return -1.0
    before = {entry for entry in reading.ranks[: reading.rank - 1] if entry is not None}
    others = _CANDIDATES - 1
    if candidates is not None:
        known = set(candidates) - {reading.ranks[reading.rank - 1]}
        before &= known
        others = len(known)
    above = min(len(before), others)
    return (others - 2 * above) / others if others else 1.0


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any] | None = None, **_: Any
) -> dict[str, float]:
    """``score`` in -2 .. 2. Keys: :data:`star_rl.rewards.keys.KEYS`."""
    reading = read(solution_str, ground_truth, extra_info)
    candidates = (extra_info or {}).get("candidates")
    return reading.scores(of(reading, None if candidates is None else strings(candidates, ())))
