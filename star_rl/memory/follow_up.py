"""A reflection as a rollout: the model rewrites the notes, the environment asks for a ranking with them.

Such a rollout has a task of its own, the *reflection of* a ranking task: it asks to reflect on the last interaction
before that task, and then to rank that task's candidates. So the reward of the ranking is the reflection's too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from star_rl.memory.play import first_of
from star_rl.prompts.memory import NEW_NOTES, follow_up, notes_of, reflect_prompt
from star_rl.records import Task
from star_rl.run import Run
from star_rl.trajectory import parse
from star_rl.trajectory.grammar import REFLECTION

#: What the id of a reflection's task ends in, and the phase that its first answer has to hold.
SUFFIX, REQUIRED = "/reflect", (REFLECTION,)


def reflections(world: Run, tasks: Sequence[Task]) -> list[Task]:
    """Return the reflections of those tasks whose last interaction was played."""
    found = [task for task in tasks if _played(world, task)]
    return [replace(task, task_id=task.task_id + SUFFIX) for task in found]


def is_reflection(task: Task) -> bool:
    return task.task_id.endswith(SUFFIX)


def messages_of(world: Run, task: Task) -> list[dict[str, str]]:
    """Return the prompt of a task, be it a reflection or not."""
    if not is_reflection(task):
        return world.messages(task)
    played = _played(world, task)
    assert played is not None
    items = first_of(world, played)
    return reflect_prompt(world.case(task), played, items, world.prompt, world.length).messages


def follow_up_of(world: Run, task: Task) -> str | None:
    """Return what the environment says after a reflection; None for other tasks."""
    return follow_up(world.case(task), world.prompt, world.length) if is_reflection(task) else None


def _played(world: Run, task: Task) -> Any:
    return world.memories.played(task.user_id, world.history(task)) if world.memories else None


class FollowUp:
    """The environment: after a reflection it asks for the ranking, after a ranking it says nothing."""

    def __init__(self, data: Any) -> None:
        self._query: str | None = None

    def reset(self, task: Mapping[str, Any]) -> None:
        self._query = task.get("follow_up")

    def step(self, text: str) -> str | None:
        """Return the query with the notes that the model wrote; None where it wrote none, which no reward forgives."""
        query, self._query = self._query, None
        phases = parse(text).of(REFLECTION)
        value = phases[-1].result.value if query and phases and phases[-1].result else None
        notes = value.get("preferences") if isinstance(value, dict) else None
        return query.replace(NEW_NOTES, notes_of(notes), 1) if query and isinstance(notes, str) else None
