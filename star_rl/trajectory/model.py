"""What a trajectory is made of: phases, and in a phase thinking, tool calls, tool responses and one JSON result."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NoReturn


@dataclass(frozen=True, slots=True)
class Thinking:
    """Free reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that parses: a tool's name and an object of arguments."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadCall:
    """What stood in a ``<tool_call>`` block that does not parse, and why."""

    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Response:
    """A tool's answer. Written by the environment; a policy that writes one itself breaks the format."""

    text: str


@dataclass(frozen=True, slots=True)
class Json:
    """The structured result of a phase, as it was written."""

    raw: str

    @property
    def value(self) -> Any:
        """The decoded value, or ``None`` where it does not parse (``null`` is no result either)."""
        return decode(self.raw)[0]

    @property
    def error(self) -> str:
        """Why it does not parse; empty when it does."""
        return decode(self.raw)[1]


@dataclass(frozen=True, slots=True)
class Text:
    """Anything between the blocks. Kept so that nothing is lost; carries no meaning."""

    text: str


Block = Thinking | ToolCall | BadCall | Response | Json | Text


@dataclass(slots=True)
class Phase:
    """One agent's part. ``tag`` is one of :data:`star_rl.trajectory.grammar.PHASES`, or empty for what stands outside."""

    tag: str
    blocks: list[Block] = field(default_factory=list)
    closed: bool = True

    @property
    def result(self) -> Json | None:
        """The last JSON block."""
        return next((block for block in reversed(self.blocks) if isinstance(block, Json)), None)

    @property
    def calls(self) -> list[ToolCall | BadCall]:
        return [block for block in self.blocks if isinstance(block, (ToolCall, BadCall))]


@dataclass(slots=True)
class Trajectory:
    """Phases in the order they were written, and the tags that were out of place (codes with offsets)."""

    phases: list[Phase] = field(default_factory=list)
    problems: list[tuple[str, int]] = field(default_factory=list)

    def of(self, tag: str) -> list[Phase]:
        return [phase for phase in self.phases if phase.tag == tag]

    @property
    def calls(self) -> list[ToolCall | BadCall]:
        return [call for phase in self.phases for call in phase.calls]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def decode(raw: str) -> tuple[Any, str]:
    """Decode JSON written by a model: ``(value, "")`` or ``(None, reason)``; never raises.

    ``NaN`` and ``Infinity`` are refused, since they are not JSON and would poison every mean.
    """
    try:
        return json.loads(raw, parse_constant=_refuse), ""
    except (ValueError, RecursionError) as error:
        return None, str(error) or "nested too deeply"


def call_of(raw: str) -> ToolCall | BadCall:
    """Decode the inside of a ``<tool_call>`` block: ``{"name": str, "arguments": {..}}`` (spec, section 9.4)."""
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
