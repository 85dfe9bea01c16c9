"""The teacher on one case: planner, experts, reflector, re-runs of faulted experts, ranker (paper, section 3.2).

Each part can be switched off for the ablations of tables 6 to 8.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from star_rl.errors import StarError
from star_rl.failure import Failure
from star_rl.mars.agents import (
    DIVERGENCE,
    EXPERT_AGENTS,
    PLANNER,
    RANKER,
    REFLECTOR,
    Agent,
    AgentFailure,
    Backend,
    Step,
    ToolsOf,
    View,
    faulted,
)
from star_rl.options import Size, options
from star_rl.prompts import Case
from star_rl.trajectory import EXPERTS, Trajectory

if TYPE_CHECKING:
    from star_rl.tools import Tools


@options
class TeamOptions:
    """Which parts of the teacher run.

    Affects results:
        planner: off = all four experts in fixed order, no plan in the trajectory.
        reflector: off = no check, no re-run.
        tools: off = no tool calls.
        rounds: most reflections; each sends the experts that it faults back to work.
        top: ids in the ranking.
        concurrent: experts run at once and do not see one another's results; Interest_Divergence_Reasoning waits
            for those before it in the plan.

    Raises:
        StarError: ``rounds`` or ``top`` below 1.
    """

    planner: bool = True
    reflector: bool = True
    tools: bool = True
    rounds: Size = 1
    top: Size = 20
    concurrent: bool = False


@dataclass(slots=True)
class Outcome:
    """What came of one case: the steps in the order of the trajectory, and either a ranking or a failure.

    ``waiting`` counts the model calls that wait for one another: of experts that ran at once, the one with the most.
    """

    steps: list[Step]
    ranking: list[str]
    failure: Failure | None = None
    seconds: float = 0.0
    waiting: int = 0

    @property
    def trajectory(self) -> Trajectory:
        return Trajectory([step.phase for step in self.steps])


class Team:
    """The teacher.

    Args:
        backend: plays the agents.
        tools_of: returns the tools of a case; None only with ``tools`` off.
        options: which parts run.
        planner: another backend for the planner (MARS-Planner; paper, section 4.3).

    Raises:
        StarError: ``tools`` is on without ``tools_of``.
    """

    def __init__(
        self,
        backend: Backend,
        tools_of: ToolsOf | None,
        options: TeamOptions | None = None,
        planner: Backend | None = None,
    ) -> None:
        self.options = options or TeamOptions()
        if self.options.tools and tools_of is None:
            raise StarError("the teacher has no evidence store", "give one, or set tools=off")
        self.backend, self.planner, self._tools_of = backend, planner or backend, tools_of

    @property
    def describe(self) -> dict[str, Any]:
        """Return everything that decides a result, as plain data."""
        parts: dict[str, Any] = {"team": asdict(self.options), "backend": self.backend.describe}
        if self.planner is not self.backend:
            parts["planner"] = self.planner.describe
        return parts

    async def run(self, case: Case, sample: int = 0) -> Outcome:
        """Rank one case. An agent that fails ends the run with its failure; nothing that a model writes raises."""
        tools = self._tools_of(case) if self._tools_of and self.options.tools else None
        return await _Case(self, case, sample, tools).run()


class _Case:
    """The state of one run."""

    def __init__(self, team: Team, case: Case, sample: int, tools: Tools | None) -> None:
        self.team, self.options = team, team.options
        self.case, self.sample, self.tools = case, sample, tools
        self.steps: list[Step] = []
        self.waiting = 0

    async def run(self) -> Outcome:
        began = time.perf_counter()
        try:
            await self._experts(await self._plan())
            if self.options.reflector:
                await self._reflect()
            ranking = (await self._act(RANKER, self.steps)).value
        except AgentFailure as error:
            return Outcome(self.steps, [], error.failure, time.perf_counter() - began, self.waiting)
        return Outcome(self.steps, list(ranking), None, time.perf_counter() - began, self.waiting)

    async def _plan(self) -> list[str]:
        if not self.options.planner:
            return list(EXPERTS)
        return list((await self._act(PLANNER, [], self.team.planner)).value)

    async def _experts(
        self, names: Sequence[str], suggestions: Mapping[str, str] | None = None, round: int = 0
    ) -> None:
        """Run experts in order, or group by group with ``concurrent``."""
        for group in _groups(names) if self.options.concurrent else [[name] for name in names]:
            before = list(self.steps)
            done = await asyncio.gather(
                *(
                    self._act(EXPERT_AGENTS[name], before, None, (suggestions or {}).get(name, ""), round, keep=False)
                    for name in group
                ),
                return_exceptions=True,
            )
            # Record all steps before raising: they are paid for.
            paid = [
                entry.step if isinstance(entry, AgentFailure) else entry
                for entry in done
                if isinstance(entry, (Step, AgentFailure))
            ]
            self.steps += paid
            self.waiting += max((step.model_calls for step in paid), default=0)
            for entry in done:
                if isinstance(entry, BaseException):
                    raise entry

    async def _reflect(self) -> None:
        for round in range(1, self.options.rounds + 1):
            verdict = await self._act(REFLECTOR, self.steps, round=round - 1)
            suggestions = faulted(verdict.value)
            if not suggestions:
                return
            order = [step.agent for step in self.steps if step.agent in suggestions]
            await self._experts(list(dict.fromkeys(order)), suggestions, round)

    def _keep(self, step: Step) -> None:
        self.steps.append(step)
        self.waiting += step.model_calls

    async def _act(
        self,
        agent: Agent,
        before: Sequence[Step],
        backend: Backend | None = None,
        suggestion: str = "",
        round: int = 0,
        keep: bool = True,
    ) -> Step:
        tools = self.tools if agent.tools else None
        view = View(self.case, tools, tuple(before), suggestion, self.sample, self.options.top, round)
        began = time.perf_counter()
        try:
            step = await (backend or self.team.backend).act(agent, view)
        except AgentFailure as failure:
            failure.step.seconds = time.perf_counter() - began
            if keep:
                self._keep(failure.step)
            raise
        step.seconds = time.perf_counter() - began
        if keep:
            self._keep(step)
        if fault := agent.check(step.value, view):  # a backend that missed it
            raise AgentFailure("malformed", fault, step)
        return step


def _groups(names: Sequence[str]) -> list[list[str]]:
    """Return groups of experts that may run at once; the divergence expert reads those before it and is alone."""
    groups: list[list[str]] = [[]]
    for name in names:
        if name == DIVERGENCE:
            groups += [[name], []]
        else:
            groups[-1].append(name)
    return [group for group in groups if group]
