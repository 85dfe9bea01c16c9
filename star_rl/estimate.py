"""Estimate calls, tokens, price and hours of a teaching job before it starts.

Without runs to measure, the teacher's own prompts are built for a sample of the tasks, and the rules write the answers:
calls and tokens read are those of a real run, tokens written those of the rules' words. A model that thinks longer
writes more, so a few real runs (``star-rl teach --probe N``) make the better estimate.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from star_rl.chat.cache import Cache
from star_rl.chat.reply import ChatReply
from star_rl.files import read_jsonl
from star_rl.mars import RuleBackend, RuleOptions
from star_rl.mars.agents import Agent, Backend, Step, View
from star_rl.mars.record import TeacherRun, read_runs
from star_rl.mars.teach import RUNS
from star_rl.prompts.words import estimate_tokens
from star_rl.records import Task
from star_rl.run import Run
from star_rl.scenarios.balance import balanced
from star_rl.teacher import open_teacher
from star_rl.trajectory import Trajectory, to_messages

#: Tasks whose prompts are built; runs on disk that are measured.
SAMPLE, MEASURED = 100, 1000
#: Tokens of the frame of one message.
_FRAME = 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """A teaching job before it starts.

    Attributes:
        found: runs that are on disk already and cost nothing; the figures below are of the others.
        calls, read, written: model calls, and tokens in and out.
        spread: half of the 95 % interval of the tokens, as a share of them; tasks were sampled.
        basis: what the figures were estimated from.
        cost: None without prices.
        hours: None without a rate.
        rate: tokens written in a second over all endpoints.
    """

    tasks: int
    passes: int
    found: int
    calls: int
    read: int
    written: int
    spread: float
    basis: str
    prices: tuple[float, float] | None = None
    rate: float | None = None

    @property
    def runs(self) -> int:
        return self.tasks * self.passes - self.found

    @property
    def cost(self) -> float | None:
        return None if self.prices is None else (self.prices[0] * self.read + self.prices[1] * self.written) / 1e6

    @property
    def hours(self) -> float | None:
        return None if not self.rate else self.written / self.rate / 3600

    def text(self) -> str:
        """Return a line for each figure."""
        within = f" (within {self.spread:.0%}, as the tasks differ)" if self.spread else ""
        cost, hours = "give the prices per million tokens with --prices IN OUT", "give --rate, or --probe N"
        if self.prices is not None:
            cost = f"{self.cost:,.2f}, at {self.prices[0]:g} in and {self.prices[1]:g} out per million tokens"
        if self.hours is not None:
            hours = f"{self.hours:,.1f} hours at {self.rate:,.0f} tokens out per second"
        lines = {
            "job": f"{self.tasks:,} tasks x {self.passes} passes, {self.runs:,} runs to do, {self.found:,} found",
            "from": self.basis,
            "calls": f"{self.calls:,} ({self.calls / max(1, self.runs):.1f} a run)",
            "tokens in": f"{self.read / 1e6:,.2f} M ({self.read / max(1, self.runs):,.0f} a run){within}",
            "tokens out": f"{self.written / 1e6:,.2f} M ({self.written / max(1, self.runs):,.0f} a run){within}",
            "cost": cost,
            "time": hours,
        }
        return "\n".join(f"{name:<11} {words}" for name, words in lines.items())


class CountingChat:
    """A chat client that counts tokens and answers from a script."""

    model = "estimate"
    describe: Mapping[str, Any] = {"model": model}

    def __init__(self) -> None:
        self.script: ContextVar[deque[str]] = ContextVar("script")  # experts that run at once have one each

    def write(self, words: Sequence[str]) -> None:
        self.script.set(deque(words))

    async def ready(self, *_: object) -> None: ...

    async def close(self) -> None: ...

    async def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        sample: int = 0,
        **options: Any,
    ) -> ChatReply:
        texts = [str(message.get("content") or "") + _calls(message) for message in messages]
        schemas = json.dumps(list(tools)) if tools else ""
        read = estimate_tokens("".join(texts) + schemas) + _FRAME * len(texts)
        script = self.script.get()
        words = script.popleft() if script else ""
        return ChatReply(words, (), read, estimate_tokens(words) + 1)


def _calls(message: Mapping[str, Any]) -> str:
    return json.dumps(message["tool_calls"]) if message.get("tool_calls") else ""


async def turns(rules: Backend, agent: Agent, view: View) -> list[str]:
    """Return what the rules would write as this agent, a text for each turn of the assistant."""
    step = await rules.act(agent, view)
    return [one["content"] for one in to_messages(Trajectory([step.phase])) if one["role"] == "assistant"]


class Scripted:
    """A backend whose chat answers with given words.

    Args:
        words: writes what the agent would say, a text for each turn.
        write: hands it to the chat.
    """

    def __init__(
        self,
        inner: Backend,
        words: Callable[[Agent, View], Awaitable[list[str]]],
        write: Callable[[Sequence[str]], object],
    ) -> None:
        self.inner, self._words, self._write = inner, words, write

    @property
    def describe(self) -> dict[str, Any]:
        return self.inner.describe

    async def ready(self, tools: bool = False) -> None:
        await self.inner.ready(tools)

    async def act(self, agent: Agent, view: View) -> Step:
        self._write(await self._words(agent, view))
        return await self.inner.act(agent, view)


async def _scripted(run: Run, config: Mapping[str, Any], seed: int, tasks: Sequence[Task]) -> np.ndarray:
    """Return calls, tokens in and out of each task's run. Shape: (n, 3)."""
    config = copy.deepcopy(dict(config))
    config["teacher"]["backend"] = "llm"
    chat = CountingChat()
    rows = []
    async with open_teacher(run, config, seed, Path(), lambda *_: chat) as teacher:
        options = {"seed": seed, **(config["teacher"]["options"].get("rules") or {})}
        rules = RuleBackend(RuleOptions(**options))
        team = teacher.team
        alone = team.planner is not team.backend
        words = partial(turns, rules)
        backend = Scripted(team.backend, words, chat.write)
        team.planner, team.backend = Scripted(team.planner, words, chat.write) if alone else backend, backend
        for task in tasks:
            outcome = await team.run(run.case(task))
            calls = sum(step.model_calls for step in outcome.steps)
            read = sum(step.prompt_tokens for step in outcome.steps)
            rows.append((calls, read, sum(step.completion_tokens for step in outcome.steps)))
    return np.array(rows, np.float64).reshape(-1, 3)


def measured(folder: Path, most: int = MEASURED) -> list[TeacherRun]:
    """Return the first runs of a folder that a model made."""
    file = folder / RUNS
    runs = itertools.islice(read_runs(file), most) if file.is_file() else ()
    return [run for run in runs if any(step["model_calls"] for step in run.steps)]


def _cached(file: Path) -> np.ndarray | None:
    """Return the replies in a cache and their mean tokens in and out; None without replies."""
    if not file.is_file():
        return None
    cache = Cache(str(file))
    replies, read, written = cache.totals()
    cache.close()
    return np.array([replies, read / replies, written / replies]) if replies and written else None


def rate_of(runs: Sequence[TeacherRun], in_flight: int) -> float | None:
    """Return the tokens a second that runs with no cached reply wrote, ``in_flight`` of them at once."""
    own = [run for run in runs if run.seconds and not any(step["cached_calls"] for step in run.steps)]
    written = sum(step["completion_tokens"] for run in own for step in run.steps)
    return in_flight * written / sum(run.seconds for run in own) if own else None


def estimate(
    run: Run,
    config: Mapping[str, Any],
    tasks: Sequence[Task],
    passes: int,
    folder: Path,
    *,
    seed: int = 0,
    sample: int = SAMPLE,
    in_flight: int = 32,
    prices: tuple[float, float] | None = None,
    rate: float | None = None,
) -> Estimate:
    """Estimate the runs of ``tasks`` x ``passes`` that ``folder`` lacks.

    Args:
        config: the recipe's sections ``teacher``, ``sft_set``, ``prompt`` and ``tools``.
        sample: tasks whose prompts are built, where the folder holds no runs to measure.
        in_flight: runs at once, for the measured rate.
        prices: per million tokens in and out.
        rate: tokens written in a second over all endpoints, in the place of the measured one.
    """
    file, known = folder / RUNS, {task.task_id for task in tasks}
    rows = read_jsonl(file, strict=False) if file.is_file() else ()
    found = sum(row["task"]["task_id"] in known and row["sample"] < passes for row in rows)
    runs = measured(folder)
    todo = len(tasks) * passes - found
    if runs:
        names = ("model_calls", "prompt_tokens", "completion_tokens")
        figures = np.array([[sum(step[name] for step in one.steps) for name in names] for one in runs], np.float64)
        basis = f"{len(runs):,} runs in {folder}"
        rate = rate or rate_of(runs, in_flight)
    else:
        chosen = random.Random(seed).sample(list(tasks), min(sample, len(tasks)))
        figures = asyncio.run(_scripted(run, config, seed, chosen))
        basis = f"the prompts of {len(chosen):,} tasks, with answers of the rules; a model may write more"
        if (means := _cached(folder / "cache.sqlite")) is not None:
            figures[:, 1:] = figures[:, :1] * means[1:]
            basis = f"the calls of {len(chosen):,} tasks, and the tokens of {means[0]:,.0f} replies in the cache"
    total = figures.mean(axis=0) * todo if len(figures) else np.zeros(3)
    tokens, left = figures[:, 1:].sum(axis=1), 1 - len(figures) / max(1, len(tasks))  # of a whole set nothing is open
    error = (max(0.0, left) / len(tokens)) ** 0.5 * float(tokens.std()) if len(tokens) > 1 else 0.0
    spread = 1.96 * error / max(1.0, float(tokens.mean())) if error else 0.0
    calls, read, written = (round(float(value)) for value in total)
    return Estimate(len(tasks), passes, found, calls, read, written, spread, basis, prices, rate)


def estimate_stage(run: Run, measure: Path | None = None, **assumed: Any) -> Estimate:
    """Estimate the stage ``teach`` of a run that has its tasks and evidence.

    Args:
        measure: folder with runs of this teacher, by default the stage's.
        assumed: as of :func:`estimate`; prices are the recipe's where none are given.
    """
    teacher = run.config["teacher"]
    chat = teacher["options"].get("chat") or {}
    own = (float(chat.get("price_prompt", 0)), float(chat.get("price_completion", 0)))
    settings = {**assumed, "prices": assumed.get("prices") or (own if any(own) else None)}
    tasks = balanced(run.tasks("train"), teacher["tasks"])
    return estimate(run, run.config, tasks, teacher["passes"], measure or run.folder / "teach", **settings)
