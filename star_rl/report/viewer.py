"""Show one trajectory: phases, their blocks by kind, and the ranking with the ground truth marked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from star_rl.report.model import ExampleRollout, ExampleTask
from star_rl.trajectory import (
    CRITICAL,
    BadCall,
    Json,
    Response,
    Text,
    Thinking,
    ToolCall,
    Trajectory,
    faults,
    from_messages,
    model_text,
    neutral,
    parse,
)

#: Characters of one block that the page shows; report.json holds it whole.
LIMIT = 8_000
#: Entries of a ranking, faults, phases and blocks that the page shows: a model can write thousands.
ENTRIES, FAULTS, PHASES, BLOCKS = 40, 12, 40, 200
#: Characters of an id or a title, and of the tags around a block.
WORDS, _TAGS = 200, 100

TITLES = {
    "plan": "Plan",
    "user_profile": "User profile",
    "historical_analysis": "Historical interest",
    "recent_analysis": "Recent interest",
    "interest_divergence": "Interest divergence",
    "reflection": "Reflection",
    "recommend": "Recommend",
    "": "Outside every phase",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A block: ``kind`` is its class in the style sheet, ``label`` its heading."""

    kind: str
    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Section:
    """A phase: ``tag`` is one of the grammar's, or ``outside``."""

    tag: str
    title: str
    closed: bool
    parts: list[Part]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A position of the ranking; ``remark`` says what is wrong with it."""

    item: str
    title: str
    truth: bool
    remark: str = ""


@dataclass(slots=True)
class Panel:
    """What the page shows of one rollout; ``rollout`` is ``None`` where there is none."""

    heading: str
    rollout: ExampleRollout | None
    prompt: list[tuple[str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


class Cutter:
    """Cut what is shown of an answer, and say where the rest is.

    Args:
        room: characters of all blocks together, as the page holds them; None for no bound.
        where: the file that has everything.
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


def _part(block: Any, cut: Cutter) -> Part:
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
    raise TypeError(f"unknown block: {block!r}")


def _text(content: Any) -> str:
    """Return a message's content as text; providers also send lists of parts, or nothing beside a call."""
    if isinstance(content, str):
        return content
    return "" if content is None else json.dumps(content, ensure_ascii=False, default=str)


def _sections(trajectory: Trajectory, cut: Cutter) -> list[Section]:
    """Return the phases as far as there is room."""
    found = []
    for phase in trajectory.phases[:PHASES]:
        if cut.full:
            break
        parts: list[Part] = []
        for block in phase.blocks[:BLOCKS]:
            if cut.full:
                break
            parts.append(_part(block, cut))
        left_out = len(phase.blocks) - len(parts)
        found.append(Section(phase.tag or "outside", TITLES[phase.tag], phase.closed, parts, left_out))
    return found


def _entries(ranking: Sequence[str | None], task: ExampleTask) -> list[Entry]:
    """Return the ranking position by position, with a remark on an id that repeats or is not a candidate."""
    found, seen = [], set[str | None]()
    for item in ranking[:ENTRIES]:
        foreign = bool(task.candidates) and item not in task.candidates
        remark = "no string" if item is None else "repeated" if item in seen else "no candidate" if foreign else ""
        seen.add(item)
        title = task.titles.get(item or "", "")
        found.append(Entry((item or "")[:WORDS], title[:WORDS], item == task.ground_truth, remark))
    return found


def panel(heading: str, rollout: ExampleRollout | None, task: ExampleTask, cut: Cutter | None = None) -> Panel:
    """Return what the page shows of one rollout. It never raises, whatever the messages hold."""
    if rollout is None:
        return Panel(heading, None)
    cut = cut or Cutter()
    messages: list[Mapping[str, Any]] = []
    prompt = []
    for message in rollout.messages:
        role, content = str(message.get("role", "")), _text(message.get("content"))
        if role == "assistant":
            messages.append({"role": role, "content": content})
        elif role == "tool":  # a response that spells a tag must not look like the model's structure
            messages.append({"role": role, "content": neutral(content)})
        else:
            prompt.append((role, cut(content)))
    trajectory = from_messages(messages)
    broken = rollout.format is not None and rollout.format <= 0
    problems = faults(parse(model_text(messages)), required=CRITICAL if broken else ())
    ranking, shown = rollout.ranking or [], _sections(trajectory, cut)
    left_out = {
        "phases": len(trajectory.phases) - len(shown),
        "entries": max(0, len(ranking) - ENTRIES),
        "faults": max(0, len(problems) - FAULTS),
    }
    named = [problem[:120] for problem in problems[:FAULTS]]
    return Panel(heading, rollout, prompt, shown, _entries(ranking, task), named, left_out)
