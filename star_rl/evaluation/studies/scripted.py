"""MARS on a student's engine, with answers from a script: real prompts and real work of the engine.

To compare latencies, every method has to run on the same engine and model. A student cannot play seven agents, so the
rules write what the agents say, while the engine reads each prompt in full and generates as many tokens as the scripted
answer has. Calls, tokens and seconds are then those of MARS on this engine; the ranking is that of the rules and says
nothing about a language model.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any
from uuid import uuid4

from star_rl.chat.reply import ChatReply
from star_rl.estimate import Scripted, turns
from star_rl.evaluation.methods.base import Method, Ranking, TaskContext
from star_rl.evaluation.methods.student import StudentMethod
from star_rl.evaluation.methods.teacher import ranking_of_outcome
from star_rl.mars import RuleBackend, RuleOptions, Team, TeamOptions
from star_rl.mars.agents import Agent, Backend, View
from star_rl.mars.llm import LlmBackend, LlmOptions, TrainedPlanner
from star_rl.policy.loop import Engine, render_prompt
from star_rl.prompts import Case
from star_rl.prompts.words import estimate_tokens
from star_rl.run import Run
from star_rl.tools import ToolAnswer, Tools
from star_rl.trajectory import LACKING, required_phases


class TimedTools:
    """Tools that count the seconds spent in them."""

    def __init__(self, inner: Tools) -> None:
        self.inner, self.seconds = inner, 0.0

    def call(self, name: str, arguments: Mapping[str, Any]) -> ToolAnswer:
        began = time.perf_counter()
        try:
            return self.inner.call(name, arguments)
        finally:
            self.seconds += time.perf_counter() - began


class ScriptedChat:
    """A chat client with scripted answers: the engine works as long as it would for them.

    Args:
        engine, tokenizer: of the model.
        sampling: temperature and top_p.
    """

    model = "scripted"

    def __init__(self, engine: Engine, tokenizer: Any, sampling: Mapping[str, Any]) -> None:
        self.engine, self.tokenizer, self.sampling = engine, tokenizer, dict(sampling)
        self.script: ContextVar[deque[str]] = ContextVar("script")  # experts that run at once have one each
        self.scripts: list[deque[str]] = []
        self.aside = 0.0  # seconds spent on the script, which are not the method's

    def write(self, words: Sequence[str]) -> None:
        """Set the answers of the agent at work in this asyncio task."""
        self.scripts.append(deque(words))
        self.script.set(self.scripts[-1])

    @property
    def left(self) -> int:
        """Scripted answers that nobody asked for."""
        return sum(map(len, self.scripts))

    @property
    def describe(self) -> dict[str, Any]:
        return {"model": self.model, **self.sampling}

    async def ready(self) -> None:
        """The engine is open."""

    async def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        sample: int = 0,
        **options: Any,
    ) -> ChatReply:
        began = time.perf_counter()
        words = self.script.get().popleft()
        ids = render_prompt(self.tokenizer, messages, tools)
        # A tokenizer that was trained on trajectories spells English out: a prompt is as long as a usual one makes it.
        text = "".join(str(message["content"]) for message in messages)
        prompt = ids[: max(1, min(len(ids), estimate_tokens(text) + (estimate_tokens(str(tools)) if tools else 0)))]
        count = len(self.tokenizer.encode(words, add_special_tokens=False)) + 1  # and the token that ends the turn
        forced = {"max_tokens": count, "min_tokens": count, "ignore_eos": True}
        await self.engine.generate(prompt, {**self.sampling, **forced}, uuid4().hex)
        return ChatReply(words, (), len(prompt), count, time.perf_counter() - began)


def scripted(inner: Backend, chat: ScriptedChat, rules: Backend) -> Scripted:
    """Return a backend on ``chat`` whose words the rules write; the time they take is not the method's."""

    async def words(agent: Agent, view: View) -> list[str]:
        began = time.perf_counter()
        tools = view.tools.inner if isinstance(view.tools, TimedTools) else view.tools
        texts = await turns(rules, agent, replace(view, tools=tools))
        chat.aside += time.perf_counter() - began
        return texts

    return Scripted(inner, words, chat.write)


class ScriptedTeacher(Method):
    """MARS on a student's engine with the rules' words.

    Args:
        trained_planner: the planner is asked with the student's prompt, as in MARS-Planner.
    """

    def __init__(self, run: Run, name: str, student: StudentMethod, seed: int, trained_planner: bool = False) -> None:
        self.name, self._run = name, run
        engine, tokenizer = student.opened
        options = dict(run.config["teacher"]["options"])
        rules = RuleBackend(RuleOptions(**{"seed": seed, **(options.get("rules") or {})}))
        self._chat = ScriptedChat(engine, tokenizer, student.sampling)
        llm = LlmOptions(**(options.get("llm") or {}))
        client: Any = self._chat
        backend = scripted(LlmBackend(client, llm, replace(run.prompt, profile="full")), self._chat, rules)
        planner = scripted(TrainedPlanner(client, run.prompt), self._chat, rules) if trained_planner else None
        fields = {key: value for key, value in options.items() if key in TeamOptions.__dataclass_fields__}
        lacks = dict.fromkeys(LACKING.get(run.config["sft_set"]["setting"], ()), False)
        fields = {"top": run.prompt.top, **fields, **lacks}
        self._team = Team(backend, self._tools, TeamOptions(**fields), planner)
        at_once = ", independent experts at once" if self._team.options.concurrent else ""
        self.shows = f"each agent's own prompt, up to {run.prompt.budget:,} tokens of the student's prompt{at_once}"
        self._required = required_phases(run.config["sft_set"]["setting"])
        self._timed: TimedTools | None = None

    def _tools(self, case: Case) -> TimedTools:
        self._timed = TimedTools(self._run.toolbox(case))
        return self._timed

    async def rank(self, context: TaskContext) -> Ranking:
        self._chat.aside, self._timed = 0.0, None
        began = time.perf_counter()
        outcome = await self._team.run(context.case(self._run.prompt), context.sample)
        seconds = time.perf_counter() - began - self._chat.aside
        found = ranking_of_outcome(outcome, self._required)
        return replace(found, seconds=seconds, tool_seconds=self._timed.seconds if self._timed else 0.0)
