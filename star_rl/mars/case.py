"""What the agents see of a task: everything but the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from star_rl.prompts import Behaviour, Event, before, category_of
from star_rl.records import Item, Task

if TYPE_CHECKING:
    from star_rl.tools import Tools


#: Returns the tools of a case.
ToolsOf = Callable[["Case"], "Tools"]


@dataclass(frozen=True, slots=True)
class Case:
    """A task without its answer.

    Attributes:
        candidates: distinct ids in the task's order.
        history: interactions before the cutoff, oldest first.
        user: attributes of the user.
        texts: the user's reviews, by item and time.
    """

    task_id: str
    source: str
    scenario: str
    user_id: str
    candidates: tuple[str, ...]
    history: tuple[Behaviour, ...]
    items: Mapping[str, Item] = field(repr=False)
    user: Mapping[str, Any] = field(default_factory=dict, repr=False)
    texts: Mapping[tuple[str, int], str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        task: Task,
        history: Sequence[Event],
        items: Mapping[str, Item],
        user: Mapping[str, Any] | None = None,
        texts: Mapping[tuple[str, int], str] | None = None,
    ) -> Case:
        """Return the case of a task; interactions at or after the cutoff are dropped."""
        seen = tuple(before(history, task.cutoff))
        distinct = tuple(dict.fromkeys(task.candidates))
        about = (user or {}, texts or {})
        return cls(task.task_id, task.source, task.scenario, task.user_id, distinct, seen, items, *about)

    def category(self, item_id: str) -> str:
        """Return the first category of an item, as the student reads it."""
        return category_of(self.items.get(item_id))
