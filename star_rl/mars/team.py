"""The teacher on one case: planner, experts, reflector, re-runs of faulted experts, ranker (paper, section 3.2).

Each part can be switched off for the ablations of tables 6 to 8.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

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
from star_rl.options import Count, Size, options
from star_rl.prompts import Case, Slots
from star_rl.trajectory import EXPERTS, Trajectory

#: What a ranker that missed is asked for. The truth is named so that the new reason is one for it.
_RETHINK = (
    "Look again at the notes and the record: what speaks for it that you passed over? Write the phase anew, as if "
    "you had not been told, and mention neither this message nor your first ranking."
)


@options
class TeamOptions:
    """Which parts of the teacher run. All affect results.

    Attributes:
        planner: off = all four experts in fixed order, no plan in the trajectory.
        reflector: off = no check, no re-run.
        tools: off = no tool calls.
        experts: off = no experts; a plan is then of no use.
        rounds: most reflections; each sends the experts that it faults back to work.
        top: ids in the ranking.
        rethink: a ranker alone whose ranking misses the truth in its first so many places is told so, and asked once
            more; 0 for never. For a served model: rules answer the same again.
        concurrent: experts run at once and do not see one another's results; Interest_Divergence_Reasoning waits
            for those before it in the plan.

    Raises:
        StarError: ``rounds`` or ``top`` below 1.
    """

    planner: bool = True
    reflector: bool = True
    tools: bool = True
    experts: bool = True
    rounds: Size = 1
    top: Size = 20
    concurrent: bool = False
    rethink: Count = 0


@dataclass(slots=True)
class Outcome:
    """The steps of one case in the order of the trajectory, and either a ranking of ids or a failure.

    ``waiting`` counts the model calls that wait for one another: of experts that ran at once, the one with the most.
    ``slots``: what the names in the steps stand for, None where they are ids.
    """

    steps: list[Step]
    ranking: list[str]
    failure: Failure | None = None
    seconds: float = 0.0
    waiting: int = 0
    slots: Slots | None = None

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
        self.backend, self.planner, self.tools_of = backend, planner or backend, tools_of

    @property
    def describe(self) -> dict[str, Any]:
        """Return everything that decides a result, as plain data."""
        parts: dict[str, Any] = {"team": asdict(self.options), "backend": self.backend.describe}
        if self.planner is not self.backend:
            parts["planner"] = self.planner.describe
        return parts

    async def run(self, case: Case, sample: int = 0, truth: str = "") -> Outcome:
        """Rank one case. An agent that fails ends the run with its failure; nothing that a model writes raises.

        Args:
            truth: for ``rethink`` alone, while a teacher writes examples; never where it is measured.
        """
        run, began, ranking, failure = _CaseRun(self, case, sample), time.perf_counter(), [], None
        try:
            ranking = await run.rank()
            if truth and self.options.rethink and truth not in ranking[: self.options.rethink]:
                ranking = await run.rethink(truth)
        except AgentFailure as error:
            failure = error.failure
        return Outcome(run.steps, ranking, failure, time.perf_counter() - began, run.waiting, case.slots)


class _CaseRun:
    """The state of one run."""

    def __init__(self, team: Team, case: Case, sample: int) -> None:
        self.team, self.options, self.case, self.sample = team, team.options, case, sample
        self.tools = team.tools_of(case) if team.tools_of and team.options.tools else None
        self.steps: list[Step] = []
        self.waiting = 0

    async def rank(self, suggestion: str = "") -> list[str]:
        plan = list(EXPERTS)
        if self.options.planner:
            plan = (await self._play([PLANNER], backend=self.team.planner))[0].value
        if self.options.experts:
            await self._experts(plan)
        for round in range(1, self.options.rounds + 1 if self.options.reflector else 0):
            (verdict,) = await self._play([REFLECTOR], round=round - 1)
            suggestions = faulted(verdict.value)
            if not suggestions:
                break
            await self._experts(
                list(dict.fromkeys(step.agent for step in self.steps if step.agent in suggestions)), suggestions, round
            )
        (ranking,) = await self._play([RANKER], {RANKER.name: suggestion})
        slots = self.case.slots
        return [slots.id_of(name) for name in ranking.value] if slots else list(ranking.value)

    async def rethink(self, truth: str) -> list[str]:
        """Tell the ranker what the user chose, and rank again; the first try is left out of the trajectory."""
        name = self.case.slots.name_of(truth) if self.case.slots else truth
        said = f"The user turned to {name}, which you did not place first. {_RETHINK}"
        (first,) = self.steps[-1:]
        ranking = await self.rank(said)
        again = self.steps[-1]
        for cost in ("model_calls", "cached_calls", "prompt_tokens", "completion_tokens", "seconds"):
            setattr(again, cost, getattr(again, cost) + getattr(first, cost))
        self.steps = [again]
        return ranking

    async def _experts(
        self, names: Sequence[str], suggestions: Mapping[str, str] | None = None, round: int = 0
    ) -> None:
        """Run experts in order, or group by group with ``concurrent``."""
        for group in _groups(names) if self.options.concurrent else [[name] for name in names]:
            await self._play([EXPERT_AGENTS[name] for name in group], suggestions, round)

    async def _play(
        self,
        agents: Sequence[Agent],
        suggestions: Mapping[str, str] | None = None,
        round: int = 0,
        backend: Backend | None = None,
    ) -> list[Step]:
        """Play agents at once. Keep all their steps before a failure is raised: they are paid for."""
        backend = backend or self.team.backend
        ended = await asyncio.gather(
            *(self._act(backend, agent, (suggestions or {}).get(agent.name, ""), round) for agent in agents),
            return_exceptions=True,
        )
        steps = [entry.step if isinstance(entry, AgentFailure) else entry for entry in ended]
        paid = [step for step in steps if isinstance(step, Step)]
        self.steps += paid
        self.waiting += max((step.model_calls for step in paid), default=0)
        for entry in ended:
            if isinstance(entry, BaseException):
                raise entry
        return paid

    async def _act(self, backend: Backend, agent: Agent, suggestion: str, round: int) -> Step:
        tools = self.tools if agent.tools else None
        view = View(self.case, tools, tuple(self.steps), suggestion, self.sample, self.options.top, round)
        began = time.perf_counter()
        try:
            step = await backend.act(agent, view)
        except AgentFailure as failure:
            failure.step.seconds = time.perf_counter() - began
            raise
        step.seconds = time.perf_counter() - began
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
