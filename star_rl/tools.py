"""The two tools of the policy, answered from an evidence store by look-up alone (paper, section 3.3).

A call never raises: what a model writes can be anything, so an unknown tool, wrong arguments or an unknown id are
answered with a sentence the model can read, and named by a reason that is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol

from star_rl.errors import StarError
from star_rl.evidence import EvidenceStore
from star_rl.evidence.shard import on_local_disk
from star_rl.trajectory import neutral

Reason = Literal["ok", "unknown_tool", "bad_arguments", "unknown_id"]
Lens = Literal["text", "candidates"]
LENSES: tuple[Lens, ...] = ("text", "candidates")

#: Tool -> the only argument it takes.
ARGUMENT = {"UserCF": "user_id", "ItemCF": "item_id"}


def _schema(name: str, description: str, argument: str, meaning: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {argument: {"type": "string", "description": meaning}},
        "required": [argument],
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


#: OpenAI function schemas as the chat template renders them; the same list goes into SFT data, rollouts and serving.
TOOL_SCHEMAS: list[dict[str, Any]] = [
    _schema("UserCF", "Summarise what users with a similar history like.", "user_id", "Id of the user."),
    _schema("ItemCF", "Summarise the items most often chosen together with an item.", "item_id", "Id of the item."),
]

_LONGEST_ECHO = 64  # characters of a model's own words that an answer repeats


class EvidenceReader(Protocol):
    """What a tool needs of an evidence store (``star_rl.evidence.EvidenceStore``)."""

    def get(self, tool: str, key: str, /) -> str | None:
        """The stored text for an id, or None where the id is unknown."""

    def neighbours(self, tool: str, key: str, /) -> Sequence[tuple[str, float]]:
        """(item id, weight), best first. A store may have ``neighbour_ids`` too, which leaves the weights out."""


class Tools(Protocol):
    """The two tools of one task: :class:`ToolBox`, or another that answers calls.

    A true attribute ``immediate`` says that no call waits for anything outside this process. Such calls are made in
    the event loop: a thread would not answer sooner, and would wait milliseconds for the interpreter.
    """

    def call(self, name: str, arguments: Mapping[str, Any], /) -> ToolAnswer:
        """Answer one call; never raises for its content."""


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """The text the environment returns, and what became of the call."""

    text: str
    ok: bool
    reason: Reason


class ToolBox:
    """The tools of one task.

    Args:
        store: where answers are looked up.
        candidates: the item ids of the task; only the lens ``candidates`` reads them.
        lens: ``text`` returns the stored text as it is, the paper's form. ``candidates`` adds one line that names the
            stored neighbours of the key which are candidates of this task, best first: a pure look-up still, for
            students too small to find 20 ids among 200 neighbours.
        lens_top: ids in that line at most.

    Attributes:
        immediate: a call only reads mapped memory of this machine, so it cannot be kept waiting and the policy loop
            makes it itself; any other store is asked in a thread, with a limit of time.

    Raises:
        StarError: the lens is unknown or ``lens_top`` is below 1.
    """

    def __init__(
        self, store: EvidenceReader, candidates: Sequence[str] = (), lens: Lens = "text", lens_top: int = 5
    ) -> None:
        if lens not in LENSES:
            raise StarError(f"unknown lens {lens!r}", f"choose one of {', '.join(LENSES)}")
        if lens_top < 1:
            raise StarError(f"lens_top is {lens_top}", "give a whole number from 1 upwards")
        self._store = store
        self._ids: Callable[[str, str], Iterable[str]] = getattr(store, "neighbour_ids", self._ids_of_neighbours)
        self._candidates = frozenset(candidates)
        self._lens = lens
        self._lens_top = lens_top
        self.immediate = isinstance(store, EvidenceStore) and on_local_disk(store.path)

    def call(self, name: str, arguments: Mapping[str, Any]) -> ToolAnswer:
        """Answer one call. Never raises for what the call holds; an unreadable store raises what it raises."""
        argument = ARGUMENT.get(name)
        if argument is None:
            return _refusal(f"There is no tool {_echo(name)}. The tools are {' and '.join(ARGUMENT)}.", "unknown_tool")
        key = arguments.get(argument)
        if isinstance(key, int) and not isinstance(key, bool):
            key = str(key)  # ids are strings throughout; a number in their place leaves no doubt which id is meant
        if not isinstance(key, str) or not key or set(arguments) != {argument}:
            return _refusal(f"{name} takes one argument, {argument}, a string.", "bad_arguments")
        text = self._store.get(name, key)
        if text is None:
            kind = argument.removesuffix("_id")
            return _refusal(f"There is no evidence for {kind} {_echo(key)}.", "unknown_id")
        if self._lens == "candidates":
            text = f"{text}\n{self._among_candidates(name, key)}"
        return ToolAnswer(neutral(text), True, "ok")

    def _among_candidates(self, name: str, key: str) -> str:
        kept = [*islice(filter(self._candidates.__contains__, self._ids(name, key)), self._lens_top)]
        return f"Among the candidates: {', '.join(kept) or 'none'}"

    def _ids_of_neighbours(self, name: str, key: str) -> Iterable[str]:
        return (item for item, _ in self._store.neighbours(name, key))


def _echo(value: object) -> str:
    text = str(value)
    return neutral(text if len(text) <= _LONGEST_ECHO else text[:_LONGEST_ECHO] + "..")


def _refusal(text: str, reason: Reason) -> ToolAnswer:
    return ToolAnswer(text, False, reason)
