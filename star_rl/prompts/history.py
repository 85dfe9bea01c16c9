"""One interaction, as prompts and agents read it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

#: A timestamp below this (March 1973) is a position in the user's order, not seconds.
_FIRST_SECOND = 100_000_000

#: (item id, timestamp, rating or None), as ``star_rl.scenarios.Histories`` returns it.
Event = tuple[str, int, float | None]


class Behaviour(NamedTuple):
    """One interaction of a user. ``timestamp``: seconds, or a position if the source has order only."""

    item_id: str
    timestamp: int
    rating: float | None = None

    @property
    def day(self) -> str:
        """Return ``YYYY-MM-DD``; empty if the source has no clock."""
        return "" if self.timestamp < _FIRST_SECOND else _day(self.timestamp // 86400)


@lru_cache(maxsize=1 << 16)
def _day(number: int) -> str:
    try:
        return datetime.fromtimestamp(number * 86400, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):  # milliseconds, or an invalid value
        return ""


def before(history: Iterable[Event], cutoff: int) -> list[Behaviour]:
    """Return the events before a cutoff, in order; a NaN rating becomes None."""
    seen = []
    for item_id, timestamp, rating in history:
        if timestamp < cutoff:
            seen.append(Behaviour(item_id, timestamp, rating if rating == rating else None))
    return seen
