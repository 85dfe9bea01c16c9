"""One interaction as prompts and agents read it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

#: Timestamps below this (March 1973) are positions in a user's order, not seconds: no source is that old.
_FIRST_SECOND = 100_000_000

#: (item id, timestamp, rating or None): what ``star_rl.scenarios.Histories`` hands out.
Event = tuple[str, int, float | None]


class Behaviour(NamedTuple):
    """One interaction of a user. ``timestamp`` in seconds, or a position where the source has order only."""

    item_id: str
    timestamp: int
    rating: float | None = None

    @property
    def day(self) -> str:
        """``YYYY-MM-DD``, or empty where the source has no clock."""
        return "" if self.timestamp < _FIRST_SECOND else _day(self.timestamp // 86400)


@lru_cache(maxsize=1 << 16)
def _day(number: int) -> str:
    try:
        return datetime.fromtimestamp(number * 86400, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):  # milliseconds taken for seconds, or nonsense in the source
        return ""


def before(history: Iterable[Event], cutoff: int) -> list[Behaviour]:
    """Events before a cutoff, as they come; NaN, which some sources hold, is no rating."""
    seen = []
    for item_id, timestamp, rating in history:
        if timestamp < cutoff:
            seen.append(Behaviour(item_id, timestamp, rating if rating == rating else None))
    return seen
