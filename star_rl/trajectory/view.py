"""Put a trajectory into words for a reader: phases with titles, blocks with labels, both cut to a size."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass

from star_rl.trajectory import grammar
from star_rl.trajectory.model import BadCall, Block, Json, Response, Text, Thinking, ToolCall, Trajectory

#: Characters of one block, phases, and blocks of a phase that are shown: a model can write thousands.
LIMIT, PHASES, BLOCKS = 8_000, 40, 200
_TAGS = 100  # characters of the tags around a block

#: Phase -> heading.
TITLES = {tag: tag.replace("_", " ").capitalize() for tag in grammar.PHASES} | {"": "Outside every phase"}


@dataclass(frozen=True, slots=True)
class Part:
    """A block: ``kind`` is its class in a style sheet, ``label`` its heading."""

    kind: str
    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Section:
    """A phase: ``tag`` is one of the grammar's, or ``outside``; ``left_out`` blocks are not shown."""

    tag: str
    title: str
    closed: bool
    parts: list[Part]
    left_out: int = 0


class Cutter:
    """Cut what is shown of an answer, and say where the rest is.

    Args:
        room: characters of all blocks together, as a page holds them; None for no bound.
        where: what has everything.
    """

    def __init__(self, room: int | None = None, where: str = "report.json") -> None:
        self.left, self._where = math.inf if room is None else room, where

    @property
    def full(self) -> bool:
        """Return whether another block has no room."""
        return self.left <= 0

    def __call__(self, text: str) -> str:
        limit = int(min(LIMIT, max(0, self.left)))
        shown = text[:limit]
        self.left -= _TAGS + len(shown) + 4 * sum(shown.count(mark) for mark in "&<>\"'")  # as they are escaped
        return text if len(text) <= limit else f"{shown}\n[.. {len(text) - limit:,} more characters, see {self._where}]"


def part_of(block: Block, cut: Callable[[str], str]) -> Part:
    """Return what is shown of a block."""
    match block:
        case Thinking(text):
            return Part("thinking", "Thinking", cut(text.strip()))
        case ToolCall(name, arguments):
            return Part("call", "Tool call", cut(f"{name}({json.dumps(arguments, ensure_ascii=False)})"))
        case BadCall(text, reason):
            return Part("call bad", f"Tool call that does not parse: {reason}"[:200], cut(text.strip()))
        case Response(text):
            return Part("response", "Tool response", cut(text))
        case Json(raw):
            label = f"JSON that does not parse: {block.error}" if block.error else "JSON"
            return Part("json bad" if block.error else "json", label[:200], cut(raw.strip()))
        case Text(text):
            return Part("text", "Text between blocks", cut(text))


def sections_of(trajectory: Trajectory, cut: Cutter | None = None) -> list[Section]:
    """Return the phases as far as there is room; without a cutter all of them, whole."""
    found = []
    for phase in trajectory.phases[: PHASES if cut else None]:
        if cut and cut.full:
            break
        parts: list[Part] = []
        for block in phase.blocks[: BLOCKS if cut else None]:
            if cut and cut.full:
                break
            parts.append(part_of(block, cut or str))
        left_out = len(phase.blocks) - len(parts)
        found.append(Section(phase.tag or "outside", TITLES[phase.tag], phase.closed, parts, left_out))
    return found
