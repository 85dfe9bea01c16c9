"""A task as a model sees it: user, record with reviews, items and candidates; everything but the answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from star_rl.errors import StarError
from star_rl.prompts.slots import ME, Names, Slots
from star_rl.prompts.words import one_line
from star_rl.records import Item, Task

#: A timestamp below this (March 1973) is a position in the user's order, not seconds.
_FIRST_SECOND = 100_000_000

#: (item id, timestamp, rating or None), as ``star_rl.scenarios.Histories`` returns it.
Event = tuple[str, int, float | None]


class Behaviour(NamedTuple):
    """One interaction of a user. ``timestamp``: seconds, or a position if the source has order only."""

    item_id: str
    timestamp: int
    rating: float | None = None
    text: str = ""

    @property
    def day(self) -> str:
        """Return ``YYYY-MM-DD``; empty if the source has no clock."""
        return day_of(self.timestamp)

    @property
    def hour(self) -> str:
        """Return ``YYYY-MM-DD HHh`` (UTC); empty if the source has no clock."""
        return f"{self.day} {self.timestamp // 3600 % 24:02}h" if self.day else ""


def day_of(timestamp: int) -> str:
    """Return the day of a timestamp, ``YYYY-MM-DD``; empty if it is a position or invalid."""
    return "" if timestamp < _FIRST_SECOND else _day(timestamp // 86400)


@lru_cache(maxsize=1 << 16)
def _day(number: int) -> str:
    try:
        return datetime.fromtimestamp(number * 86400, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):  # milliseconds, or an invalid value
        return ""


def before(history: Iterable[Event], cutoff: int) -> list[Event]:
    """Return the events before a cutoff, in order."""
    return [event for event in history if event[1] < cutoff]


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary of the oldest ``count`` interactions of a history, from timestamp ``first`` to ``last``."""

    text: str
    count: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What a user's agent noted: the preferences, and the play that rewrote them (docs/starec.md).

    Attributes:
        text: the preferences, after the play.
        before: the preferences before it.
        candidates: ids that were ranked, of which one is the interaction that was then revealed.
        ranking: ids, best first.
        fast, slow: the ranking and the reflection as they were written, in the grammar.
        last: timestamp of the revealed interaction; nothing after it is known to the text.
    """

    text: str
    before: str = ""
    candidates: tuple[str, ...] = ()
    ranking: tuple[str, ...] = ()
    fast: str = ""
    slow: str = ""
    last: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """A task without its answer.

    Attributes:
        candidates: distinct ids in the task's order.
        history: interactions before the cutoff with their review texts, oldest first.
        user: attributes of the user.
        summary: of the older part of the history, if there is one.
        memory: of the user, if there is one.
        slots: where the case speaks in slots, what they stand for.
    """

    task_id: str
    source: str
    scenario: str
    user_id: str
    candidates: tuple[str, ...]
    history: tuple[Behaviour, ...]
    items: Mapping[str, Item] = field(repr=False)
    user: Mapping[str, Any] = field(default_factory=dict, repr=False)
    summary: Summary | None = None
    memory: Memory | None = None
    slots: Slots | None = None

    @classmethod
    def of(
        cls,
        task: Task,
        history: Sequence[Event],
        items: Mapping[str, Item],
        user: Mapping[str, Any] | None = None,
        texts: Mapping[tuple[str, int], str] | None = None,
        summary: Summary | None = None,
        memory: Memory | None = None,
    ) -> Case:
        """Return the case of a task; interactions at or after the cutoff are dropped, so that no caller can leak them.

        Args:
            texts: the user's reviews, by item and timestamp; those of dropped interactions are not read.

        Raises:
            StarError: the summary or the memory covers interactions at or after the cutoff.
        """
        for name, stage, text in (("summary", "summaries", summary), ("memory", "memory", memory)):
            if text is not None and text.last >= task.cutoff:
                raise StarError(
                    f"task {task.task_id}: the {name} of user {task.user_id} reaches {text.last}, the cutoff is "
                    f"{task.cutoff}",
                    f"run the stage {stage} again",
                )
        seen = tuple(
            Behaviour(item, stamp, rating if rating == rating else None, (texts or {}).get((item, stamp), ""))
            for item, stamp, rating in before(history, task.cutoff)
        )
        distinct = tuple(dict.fromkeys(task.candidates))
        who = (task.task_id, task.source, task.scenario, task.user_id)
        return cls(*who, distinct, seen, items, user or {}, summary, memory)

    def named(self, names: Names, together: int) -> Case:
        """Return the case in ids or in slots; one that speaks in slots stays as it is.

        Args:
            together: interactions that the slot ``history`` stands for.
        """
        if names == "ids" or self.slots:
            return self
        record = [entry.item_id for entry in reversed(self.history)]
        slots = Slots(self.user_id, self.candidates, record, together)
        shown = tuple(f"c{place}" for place in range(1, len(self.candidates) + 1))
        history = tuple(entry._replace(item_id=f"h{len(record) - n}") for n, entry in enumerate(self.history))
        wanted = (*shown, *(entry.item_id for entry in history))
        items = {name: self.items[item] for name in wanted if (item := slots.id_of(name)) in self.items}
        return replace(self, user_id=ME, candidates=shown, history=history, items=items, slots=slots)

    @property
    def recent(self) -> tuple[Behaviour, ...]:
        """Return the interactions that the summary does not cover."""
        return self.history[self.summary.count :] if self.summary else self.history

    def category(self, item_id: str) -> str:
        """Return the first category of an item, as the compact prompt shows it; ``unknown`` if it has none."""
        item = self.items.get(item_id)
        return (one_line(item.categories[0], 40) if item and item.categories else "") or "unknown"
