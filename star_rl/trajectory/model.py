"""The classes of a trajectory: phases, and in a phase thinking, tool calls, tool responses and one JSON result.

Blocks are not meant to be changed. They are not frozen all the same: a reward makes some twenty of them in 100 us, and
a frozen dataclass takes twice as long to make.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import orjson


@dataclass(slots=True)
class Thinking:
    """Free reasoning."""

    text: str


@dataclass(slots=True)
class ToolCall:
    """A call that parses: a tool's name and an object of arguments."""

    name: str
    arguments: dict[str, Any]


@dataclass(slots=True)
class BadCall:
    """What stood in a ``<tool_call>`` block that does not parse, and why; not ``closed`` where the text ended in it."""

    text: str
    reason: str
    closed: bool = True


@dataclass(slots=True)
class Response:
    """A tool's answer. Written by the environment; a policy that writes one itself breaks the format."""

    text: str


@dataclass(slots=True)
class Json:
    """The structured result of a phase, as it was written. Decoded once, when first asked for."""

    raw: str
    _decoded: tuple[Any, str] | None = field(default=None, init=False, repr=False, compare=False)

    def decoded(self) -> tuple[Any, str]:
        if self._decoded is None:
            self._decoded = decode(self.raw)
        return self._decoded

    @property
    def value(self) -> Any:
        """The decoded value, or ``None`` where it does not parse (``null`` is no result either)."""
        return self.decoded()[0]

    @property
    def error(self) -> str:
        """Why it does not parse; empty when it does."""
        return self.decoded()[1]


@dataclass(slots=True)
class Text:
    """Anything between the blocks. Kept so that nothing is lost; carries no meaning."""

    text: str


Block = Thinking | ToolCall | BadCall | Response | Json | Text


@dataclass(slots=True)
class Phase:
    """One agent's part. ``tag`` is one of :data:`star_rl.trajectory.PHASES`, or empty for what stands outside."""

    tag: str
    blocks: list[Block] = field(default_factory=list)
    closed: bool = True

    @property
    def result(self) -> Json | None:
        """The last JSON block."""
        for block in reversed(self.blocks):
            if isinstance(block, Json):
                return block
        return None

    @property
    def calls(self) -> list[ToolCall | BadCall]:
        return [block for block in self.blocks if isinstance(block, (ToolCall, BadCall))]


@dataclass(slots=True)
class Trajectory:
    """Phases in the order they were written, and the tags that were out of place (see :func:`parse`)."""

    phases: list[Phase] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def tags(self) -> list[str]:
        """Tags of the phases in order, without text outside any phase."""
        return [phase.tag for phase in self.phases if phase.tag]

    def of(self, tag: str) -> list[Phase]:
        return [phase for phase in self.phases if phase.tag == tag]

    @property
    def calls(self) -> list[ToolCall | BadCall]:
        return [call for phase in self.phases for call in phase.calls]


#: Levels of nesting that count as JSON here. No result of an agent needs more than three; what lies deeper would
#: overrun the stack of whoever compares, copies or writes it.
DEPTH = 32
#: Digits of an integer. Reading one takes time quadratic in its length.
DIGITS = 400


def _constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _float(digits: str) -> float:
    if math.isfinite(value := float(digits)):
        return value
    raise ValueError("a number is too large")


def _integer(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError("a number is too long")
    return int(digits)


_decoder: Any = json.JSONDecoder(parse_constant=_constant, parse_float=_float, parse_int=_integer)
#: ``(text, index) -> (value, end)``; what ``JSONDecoder.decode`` does beside it is to skip blanks.
_scan: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once
_BLANKS = " \t\n\r"


def all_strings(values: Iterable[Any]) -> bool:
    """Return whether all values are strings, at C's speed: nothing else can be joined."""
    try:
        "".join(values)
    except TypeError:
        return False
    return True


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH):
        level = [
            entry
            for outer in level
            for entry in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(entry, (dict, list))
        ]
        if not level:
            return False
    return True


def decode(raw: str) -> tuple[Any, str]:
    """Decode JSON written by a model: ``(value, "")`` or ``(None, reason)``; never raises, linear in the text.

    ``NaN``, infinities and numbers that overflow to one are refused, since they would poison every mean; so are more
    than :data:`DEPTH` levels of nesting and integers of more than :data:`DIGITS` digits.
    """
    # Nearly all results are a list or an object of strings. Of these orjson reads what the scanner does, in a fraction
    # of the time. What it refuses is left to the scanner, for the reason; so are numbers, which it reads otherwise.
    try:
        value = orjson.loads(raw)
        "".join(value.values() if isinstance(value, dict) else value)  # nothing but strings can be joined
        return value, ""
    except (ValueError, TypeError):
        pass
    text = raw.strip(_BLANKS)
    try:
        value, end = _scan(text, 0)
    except StopIteration as error:
        return None, f"a value is expected at character {error.value}"
    except json.JSONDecodeError as error:
        return None, f"{error.msg.removesuffix(' at')} at character {error.pos}"  # some messages end in "at"
    except ValueError as error:
        return None, str(error)
    except RecursionError:
        return None, "nested too deeply"
    if end != len(text):
        return None, f"more after the value, at character {end}"
    if raw.count("[") + raw.count("{") > DEPTH and isinstance(value, (dict, list)) and _too_deep(value):
        return None, "nested too deeply"
    return value, ""


def call_of(raw: str) -> ToolCall | BadCall:
    """Decode the inside of a ``<tool_call>`` block: ``{"name": str, "arguments": {..}}``."""
    # As in `decode`: nearly all calls are a name and strings.
    try:
        value = orjson.loads(raw)
        name, arguments = value["name"], value["arguments"]
        if type(name) is str and name and type(arguments) is dict and len(value) == 2:
            "".join(arguments.values())
            return ToolCall(name, arguments)
    except (ValueError, TypeError, KeyError):
        pass
    raw = raw.strip()
    value, error = decode(raw)
    if error:
        return BadCall(raw, f"not JSON: {error}")
    if not isinstance(value, dict):
        return BadCall(raw, "not an object")
    name, arguments = value.get("name"), value.get("arguments")
    if not isinstance(name, str) or not name:
        return BadCall(raw, "no name")
    if not isinstance(arguments, dict):
        return BadCall(raw, "arguments are not an object")
    return ToolCall(name, arguments)
