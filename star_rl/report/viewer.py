"""Show one rollout: its trajectory, and the ranking with the ground truth marked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from star_rl.report.model import ExampleRollout, ExampleTask
from star_rl.trajectory import CRITICAL, answer_faults, answers_of, from_messages, neutral
from star_rl.trajectory.view import Cutter, Section, sections_of

#: Entries of a ranking and faults that the page shows: a model can write thousands.
ENTRIES, FAULTS = 40, 12
#: Characters of an id or a title.
WORDS = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """A position of the ranking; ``remark`` says what is wrong with it."""

    item: str
    title: str
    truth: bool
    remark: str = ""


@dataclass(slots=True)
class Panel:
    """What the page shows of one rollout; ``rollout`` is ``None`` if the task has no rollout."""

    heading: str
    rollout: ExampleRollout | None
    prompt: list[tuple[str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def _text(content: Any) -> str:
    """Return a message's content as text; providers also send lists of parts, or nothing beside a call."""
    if isinstance(content, str):
        return content
    return "" if content is None else json.dumps(content, ensure_ascii=False, default=str)


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
        elif role == "tool" or (role == "user" and messages):  # a tag that it spells is not the model's structure
            messages.append({"role": role, "content": neutral(content)})
        else:
            prompt.append((role, cut(content)))
    trajectory = from_messages(messages)
    broken = rollout.format is not None and rollout.format <= 0
    problems = answer_faults(answers_of(messages), CRITICAL if broken else ())
    ranking, shown = rollout.ranking or [], sections_of(trajectory, cut)
    left_out = {
        "phases": len(trajectory.phases) - len(shown),
        "entries": max(0, len(ranking) - ENTRIES),
        "faults": max(0, len(problems) - FAULTS),
    }
    named = [problem[:120] for problem in problems[:FAULTS]]
    return Panel(heading, rollout, prompt, shown, _entries(ranking, task), named, left_out)
