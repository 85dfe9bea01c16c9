"""The interface of everything that ranks: ``rank(context) -> ids, best first``.

A context never holds the ground truth, so no method can read the answer by mistake.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from star_rl.failure import Failure
from star_rl.records import Item, Task

if TYPE_CHECKING:
    from star_rl.prompts import Case, Memory, PromptOptions, Summary
    from star_rl.scenarios.histories import Event


@dataclass(slots=True)
class Ranking:
    """One answer and what it cost. ``None``: the method has no such thing, or it was not measured.

    Attributes:
        ids: best first, as the method wrote them; ``None`` is a failure and counts as a miss.
        failure: why there are no ids. Words alone become a :class:`Failure` of kind ``error``.
        well_formed: of methods that write trajectories: the trajectory has no fault.
        tool_calls: look-ups in the evidence store.
        calls: calls of a language model that wait for one another.
        tokens_in, tokens_out: read and written by the language model, over all calls.
        seconds: wall time; where the method does not measure itself, the runner does.
        tool_seconds: part of ``seconds`` spent in tools.
        confidence: of the model itself, higher = surer (mean log-probability of its tokens).
        trace: kept for reading, JSON (``messages``, ``model_text``).
    """

    ids: Sequence[str | None] | None
    failure: Failure | None = None
    well_formed: bool | None = None
    tool_calls: int | None = None
    calls: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float | None = None
    tool_seconds: float | None = None
    confidence: float | None = None
    trace: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.failure, Failure):
            self.failure = Failure("error", str(self.failure)) if self.failure else None


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a method sees of one task.

    Attributes:
        task: user, candidates and cutoff; its ground truth is removed.
        history: the user's interactions before the cutoff, oldest first: (item id, timestamp, rating).
        items: all items by id.
        sample: which sample of the task this is.
        user: attributes of the user.
        texts: the user's reviews, by item and time.
        summary: of the older part of the history, if there is one.
        memory: of the user, if there is one.
    """

    task: Task
    history: Sequence[Event] = ()
    items: Mapping[str, Item] = field(repr=False, default_factory=dict)
    sample: int = 0
    user: Mapping[str, Any] = field(repr=False, default_factory=dict)
    texts: Mapping[tuple[str, int], str] = field(repr=False, default_factory=dict)
    summary: Summary | None = field(repr=False, default=None)
    memory: Memory | None = field(repr=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", replace(self.task, ground_truth=""))

    @classmethod
    def of_ids(cls, task: Task, item_ids: Iterable[str]) -> TaskContext:
        """Return a context with a history of plain item ids, oldest first."""
        return cls(task, [(item_id, place, None) for place, item_id in enumerate(item_ids)])

    @property
    def item_ids(self) -> list[str]:
        """Item ids of the history, oldest first."""
        return [event[0] for event in self.history]

    def case(self, prompt: PromptOptions | None = None) -> Case:
        """Return the context as agents read it; in slots, if the student's prompt is."""
        from star_rl.prompts import Case

        case = Case.of(self.task, self.history, self.items, self.user, self.texts, self.summary, self.memory)
        return case.named(prompt.names, prompt.together) if prompt else case


class Method(ABC):
    """Anything that ranks. An asynchronous context manager: engines and connections live inside the block.

    Attributes:
        name: in the tables.
        varies: whether a further sample of a task may differ; if not, one sample is taken.
        in_flight: tasks worked on at once; times are measured only where it is 1.
        watch: called with a few words while the method gets ready, if set.
        origin: data and code that decide an answer beside ``describe``; set by who made the method.
    """

    name = "method"
    varies = False
    in_flight = 1
    watch: Callable[[str], None] | None = None
    origin: Mapping[str, Any] = MappingProxyType({})

    @property
    def describe(self) -> dict[str, Any]:
        """The method's own settings that decide an answer, as plain data."""
        return {}

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides an answer, as plain data."""
        return {**self.origin, **self.describe}

    async def __aenter__(self) -> Method:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    @abstractmethod
    async def rank(self, context: TaskContext) -> Ranking:
        """Return the method's answer to a task, or a plain list of ids."""


def as_ranking(found: Any) -> Ranking:
    """Return what a method handed back as a ranking. A list of ids is one, and all else is a failure.

    The official evaluator would look for the truth as a part of a string.
    """
    if isinstance(found, Ranking):
        if found.ids is None:
            return found
        own = as_ranking(found.ids)
        measured = {name: _measured(kind, getattr(found, name)) for name, kind in _KINDS.items()}
        return replace(own, trace=found.trace, failure=found.failure or own.failure, **measured)
    if isinstance(found, (list, tuple)):
        return Ranking([_id(entry) for entry in found])
    what = "nothing" if found is None else f"a {type(found).__name__} where a list of ids is asked for"
    return Ranking(None, Failure("error", f"returned {what}"))


#: Measurements beside an answer, and their types.
_KINDS: dict[str, Callable[[float], Any]] = {
    "well_formed": bool,
    **dict.fromkeys(("tool_calls", "calls", "tokens_in", "tokens_out"), int),
    **dict.fromkeys(("seconds", "tool_seconds", "confidence"), float),
}


def _measured(kind: Callable[[float], Any], value: Any) -> Any:
    """Return a number of a user's method as plain data; ``None`` if it is not a finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return kind(number) if math.isfinite(number) else None


def _id(entry: Any) -> str | None:
    """Return an id; an entry that is no string is ``None``, matches nothing and keeps its place."""
    if not isinstance(entry, str):
        return None
    return str(entry) if entry.isascii() else entry.encode("utf-8", "replace").decode("utf-8")
