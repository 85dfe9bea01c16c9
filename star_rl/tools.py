"""The two tools of the policy, answered from an evidence store by look-up alone (paper, section 3.3), and tools of
one's own beside them (:mod:`star_rl.own`).

A call never raises: what a model writes can be anything, so an unknown tool, wrong arguments or an unknown id are
answered with a sentence the model can read, and named by a reason that is counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol

from star_rl.errors import StarError
from star_rl.evidence import EvidenceStore, StoreAnswer
from star_rl.evidence.shard import on_local_disk
from star_rl.own import BadArguments, OwnTool
from star_rl.prompts.slots import HISTORY, Slots
from star_rl.trajectory import neutral
from star_rl.trajectory.model import all_strings

Reason = Literal["ok", "unknown_tool", "bad_arguments", "unknown_id"]
Lens = Literal["text", "candidates"]
LENSES: tuple[Lens, ...] = ("text", "candidates")
#: How the line of the lens ``candidates`` begins; a JSON list follows, written as a ranking is.
AMONG = "Among the candidates: "

#: Tool -> the only argument it takes.
ARGUMENT = {"UserCF": "user_id", "ItemCF": "item_ids"}
#: Items of one call of ItemCF.
MOST_ITEMS = 32


def _schema(name: str, description: str, argument: str, meaning: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {argument: meaning}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


#: OpenAI function schemas as the chat template renders them; the same list goes into SFT data, rollouts and serving.
TOOL_SCHEMAS: list[dict[str, Any]] = [
    _schema(
        "UserCF",
        "Summarise what users with a similar history like.",
        "user_id",
        {"type": "string", "description": "Id of the user."},
    ),
    _schema(
        "ItemCF",
        "Summarise the items most often chosen together with the given ones.",
        "item_ids",
        {"type": "array", "items": {"type": "string"}, "description": "Ids of one or more items."},
    ),
]


def schemas_of(own: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Return the schemas of the two tools and, of tools of one's own, those that are given as JSON."""
    return [*TOOL_SCHEMAS, *map(json.loads, own)]


_LONGEST_ECHO = 64  # characters of a model's own words that an answer repeats


class EvidenceReader(Protocol):
    """What a tool needs of an evidence store (``star_rl.evidence.EvidenceStore``)."""

    def answer(
        self, tool: str, keys: Sequence[str], named: Callable[[str], str | None] | None = None, /
    ) -> StoreAnswer | None:
        """Text and neighbours of one key, or of several as one list; None where no key is known."""


class Tools(Protocol):
    """The tools of one task: :class:`ToolBox`, or another that answers calls.

    A true attribute ``immediate`` says that no call waits for anything outside this process. Such calls are made in
    the event loop: a thread would not answer sooner, and would wait milliseconds for the interpreter. An attribute
    ``slots`` says what the names in the model's text stand for; the policy loop returns that text with ids.
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
            stored neighbours which are candidates of this task, best first, as a JSON list: a pure look-up still, for
            students too small to find 20 ids among 200 neighbours.
        lens_top: ids in that line at most.
        slots: names in the place of ids, in calls and answers alike; None for ids.
        own: tools of one's own by name. Of their answers, ids in double quotes are shown by their names.

    Attributes:
        immediate: a call only reads mapped memory of this machine, so it cannot be kept waiting and the policy loop
            makes it itself; any other store, and a box with tools of one's own, is asked in a thread, with a limit of
            time.

    Raises:
        StarError: the lens is unknown or ``lens_top`` is below 1.
    """

    def __init__(
        self,
        store: EvidenceReader,
        candidates: Sequence[str] = (),
        lens: Lens = "text",
        lens_top: int = 5,
        slots: Slots | None = None,
        own: Mapping[str, OwnTool] | None = None,
    ) -> None:
        if lens not in LENSES:
            raise StarError(f"unknown lens {lens!r}", f"choose one of {', '.join(LENSES)}")
        if lens_top < 1:
            raise StarError(f"lens_top is {lens_top}", "give a whole number from 1 upwards")
        self._store = store
        self._candidates = frozenset(candidates)
        self._lens = lens
        self._lens_top = lens_top
        self.slots = slots
        self._own = own or {}
        self.immediate = not self._own and isinstance(store, EvidenceStore) and on_local_disk(store.path)

    def call(self, name: str, arguments: Mapping[str, Any]) -> ToolAnswer:
        """Answer one call. Never raises for what the call holds; a store or tool that fails raises what it raises."""
        if name in self._own:
            return self._ask(self._own[name], arguments)
        argument = ARGUMENT.get(name)
        if argument is None:
            known = " and ".join([*ARGUMENT, *self._own])
            return _refusal(f"There is no tool {_echo(name)}. The tools are {known}.", "unknown_tool")
        asked = _keys(arguments.get(argument), many=argument == "item_ids")
        if not asked or set(arguments) != {argument}:
            form = f"a list of 1 to {MOST_ITEMS} strings" if argument == "item_ids" else "a string"
            return _refusal(f"{name} takes one argument, {argument}, {form}.", "bad_arguments")
        name_of = self.slots.name_of if self.slots else None
        keys = self.slots.ids_of(asked) if self.slots else asked
        found = self._store.answer(name, keys, name_of)
        lost = found.unknown if found else keys or asked
        unknown = ", ".join(_echo((name_of and name_of(key)) or key) for key in lost)
        kind = argument.removesuffix("s").removesuffix("_id")
        if found is None:
            return _refusal(f"There is no evidence for {kind} {unknown}.", "unknown_id")
        text = f"{found.text}\n(There is no evidence for {kind} {unknown}.)" if unknown else found.text
        return self._found(text, found.ids)

    def _ask(self, tool: OwnTool, arguments: Mapping[str, Any]) -> ToolAnswer:
        """Answer a call of a tool of one's own, which knows ids alone."""
        if self.slots:
            given = json.loads(self.slots.ids_in(json.dumps(arguments)))
            arguments = {key: self.slots.ids_of(value) if _names_all(value) else value for key, value in given.items()}
        try:
            text, ids = tool.answer(arguments)
        except BadArguments as error:
            return _refusal(neutral(str(error)), "bad_arguments")
        return self._found(self.slots.names_in(text) if self.slots else text, ids)

    def _found(self, text: str, ids: Iterable[str] | None) -> ToolAnswer:
        if self._lens == "candidates" and ids is not None:
            text = f"{text}\n{self._among_candidates(ids)}"
        return ToolAnswer(neutral(text), True, "ok")

    def _among_candidates(self, ids: Iterable[str]) -> str:
        kept = [*islice(filter(self._candidates.__contains__, ids), self._lens_top)]
        if self.slots:
            kept = [self.slots.name_of(item) or item for item in kept]
        return AMONG + json.dumps(kept, ensure_ascii=False)


def _keys(value: object, many: bool) -> list[str]:
    """Return the ids of a call; empty if one is invalid or they are more than :data:`MOST_ITEMS`. Numbers are ids."""
    values = value if isinstance(value, list) and many else [value]
    spelled = (str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in values)
    keys = [key for key in spelled if isinstance(key, str) and key]
    return keys if len(keys) == len(values) <= MOST_ITEMS else []


def _names_all(value: object) -> bool:
    return isinstance(value, list) and HISTORY in value and all_strings(value)


def _echo(value: object) -> str:
    text = str(value)
    return neutral(text if len(text) <= _LONGEST_ECHO else text[:_LONGEST_ECHO] + "..")


def _refusal(text: str, reason: Reason) -> ToolAnswer:
    return ToolAnswer(text, False, reason)
