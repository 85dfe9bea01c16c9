"""Conversations of the slow mode for an SFT set: reflect, then rank again with the new notes.

Each is a play of the memory stage (:mod:`star_rl.memory.play`) and the ranking of the next, as a rollout of GRPO is.
It is kept if the next ranking finds what the user chose in its first places, and no later than the ranking that was
reflected on. The first ranking of a user, without notes, is a conversation too: a student meets users without any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from star_rl.memory.follow_up import REQUIRED
from star_rl.memory.play import case_at, first_of
from star_rl.prompts import Event, Memory, StudentPrompt, student_prompt
from star_rl.prompts.memory import NEW_NOTES, follow_up, reflect_prompt
from star_rl.records import Task
from star_rl.run import Run
from star_rl.trajectory import AGAIN, faults, parse


class Conversation(NamedTuple):
    """A prompt and the turns after it; ``reason`` says why it is left out, empty where it is not."""

    task: Task
    id: str
    prompt: StudentPrompt
    turns: Sequence[Mapping[str, str]]
    reason: str = ""


def reflections(world: Run, within: int) -> Iterator[Conversation]:
    """Yield the conversations of the users with training tasks.

    Args:
        within: first places in which a ranking has to find the truth; 0 for no such place.
    """
    longest = {task.user_id: task for task in sorted(world.tasks("train"), key=lambda task: task.cutoff)}
    memories = world.memories
    assert memories is not None
    for task in longest.values():
        history = world.history(task)
        played = {n: found for n in range(2, len(history) + 1) if (found := memories.played(task.user_id, history[:n]))}
        for count, memory in played.items():
            if not memory.before:
                yield _first(world, task, history[: count - 1], memory, _place(memory, history[count - 1]), within)
            if follows := played.get(count + 1):
                yield _reflection(world, task, history[: count + 1], memory, follows, within)


def _place(memory: Memory, event: Event) -> int:
    """Return the place of what the user chose, counted from 1; behind the ranking if it does not hold it."""
    return memory.ranking.index(event[0]) + 1 if event[0] in memory.ranking else len(memory.ranking) + 1


def _fault(place: int, within: int) -> str:
    return "miss" if within and place > within else ""


def _first(world: Run, task: Task, history: Sequence[Event], memory: Memory, place: int, within: int) -> Conversation:
    case = case_at(world, task, history, memory.candidates, None)
    turns = [{"role": "assistant", "content": memory.fast}]
    reason = "malformed" if faults(parse(memory.fast), AGAIN) else _fault(place, within)
    return Conversation(task, case.task_id, student_prompt(case, world.prompt, world.length), turns, reason)


def _reflection(
    world: Run, task: Task, history: Sequence[Event], memory: Memory, follows: Memory, within: int
) -> Conversation:
    """Args: history: it ends with the interaction that the ranking after the reflection looks for."""
    prompt, length, before = world.prompt, world.length, history[:-1]
    case = case_at(world, task, before, follows.candidates, None)
    query = follow_up(case, prompt, length).replace(NEW_NOTES, memory.text, 1)
    turns = [
        {"role": "assistant", "content": memory.slow},
        {"role": "user", "content": query},
        {"role": "assistant", "content": follows.fast},
    ]
    place = _place(follows, history[-1])
    reason = _fault(place, within)
    if place > _place(memory, before[-1]):
        reason = "fell"
    if faults(parse(memory.slow), REQUIRED) or faults(parse(follows.fast), AGAIN):
        reason = "malformed"
    asked = reflect_prompt(case, memory, first_of(world, memory), prompt, length)
    return Conversation(task, f"{case.task_id}/reflect", asked, turns, reason)
