"""A student that keeps its own notes in evaluation: the plays before a task, by the loop that answers the task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from star_rl.mars.agents import Agent, AgentFailure, Step, View
from star_rl.prompts import Case, PromptOptions, student_prompt
from star_rl.prompts.memory import reflect_prompt
from star_rl.trajectory import parse

#: (case, messages) -> what the model wrote, with the names of the case.
Write = Callable[[Case, Sequence[Mapping[str, str]]], Awaitable[str]]


class NotesByStudent:
    """Both modes played by a student, see :class:`star_rl.mars.agents.Backend`."""

    def __init__(self, write: Write, prompt: PromptOptions, length: Callable[[str], int]) -> None:
        self._write, self._prompt, self._length = write, prompt, length

    @property
    def describe(self) -> dict[str, Any]:
        return {"backend": "student"}

    async def ready(self, tools: bool = False) -> None:
        """The engine is open."""

    async def act(self, agent: Agent, view: View) -> Step:
        if view.played is None:
            asked = student_prompt(view.case, self._prompt, self._length)
        else:
            asked = reflect_prompt(view.case, view.played, view.predicted, self._prompt, self._length)
        phases = parse(await self._write(view.case, asked.messages)).of(agent.tag)
        step = Step(agent.name, agent.tag, view.round, list(phases[-1].blocks) if phases else [])
        step.value = phases[-1].result.value if phases and phases[-1].result else None
        if fault := agent.check(step.value, view):
            raise AgentFailure("malformed", fault, step)
        return step
