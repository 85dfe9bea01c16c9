"""What the agents may see of a task. The answer is not part of it, so no agent can read it by mistake."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from star_rl.prompts import Behaviour, Event, before, category_of
from star_rl.records import Item, Task


class Answer(Protocol):
    """What a tool returns; ``star_rl.tools.ToolAnswer``."""

    @property
    def text(self) -> str: ...
    @property
    def ok(self) -> bool: ...


class Tools(Protocol):
    """The two tools of one task; ``star_rl.tools.ToolBox``."""

    def call(self, name: str, arguments: Mapping[str, Any], /) -> Answer:
        """Answer one call; never raises for what the call holds."""


#: Makes the tools of a case.
ToolsOf = Callable[["Case"], Tools]


@dataclass(frozen=True, slots=True)
class Case:
    """A task without its answer.

    Attributes:
        candidates: distinct ids in the task's order (a task may name one twice).
        history: what the user did before the cutoff, oldest first.
        user: attributes of the user.
        texts: what the user wrote, by item and time; of a contact outside of ``history`` nothing reads it.
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
        """The case of a task; interactions at or after the cutoff are left out whatever the caller passes."""
        seen = tuple(before(history, task.cutoff))
        distinct = tuple(dict.fromkeys(task.candidates))
        about = (user or {}, texts or {})
        return cls(task.task_id, task.source, task.scenario, task.user_id, distinct, seen, items, *about)

    def category(self, item_id: str) -> str:
        """The first category of an item, as the student reads it."""
        return category_of(self.items.get(item_id))
