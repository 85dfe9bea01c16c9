"""Buckets of difficulty, by how often a task is solved, and their composition 3:4:3 (paper, section 3.5)."""

from __future__ import annotations

from collections.abc import Mapping

RATIO = {"easy": 3, "medium": 4, "hard": 3}


def bounds_for(samples: int) -> dict[str, tuple[int, int]]:
    """Return the (fewest, most) successes of each bucket: 6-7, 3-5, 1-2 of 8; else the same shares, rounded up."""
    easy, medium = -(-6 * samples // 8), -(-3 * samples // 8)
    return {"easy": (easy, samples - 1), "medium": (medium, easy - 1), "hard": (1, medium - 1)}


def compose(total: int) -> dict[str, int]:
    """Split a total by :data:`RATIO`, each part rounded to the nearest and the total kept (largest remainders).

    >>> compose(486)
    {'easy': 146, 'medium': 194, 'hard': 146}
    """
    parts = sum(RATIO.values())
    counts = {name: total * share // parts for name, share in RATIO.items()}
    by_remainder = sorted(RATIO, key=lambda name: -(total * RATIO[name] % parts))  # stable: ties to the first named
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def largest_total(available: Mapping[str, int]) -> int:
    """Return the largest total whose composition every bucket can fill."""
    # rounding adds less than one to a bucket, so no total beyond this can fit
    total = min((available[name] + 1) * sum(RATIO.values()) // share for name, share in RATIO.items())
    while any(available[name] < count for name, count in compose(total).items()):
        total -= 1
    return total
