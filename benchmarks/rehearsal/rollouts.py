"""Rollouts for the GRPO set: the teacher by rules speaks as the policy, behind the sampler's own loop and tools.

A random student never hits, so the difficulty of every task would be the same and no task would be left for GRPO. Here
each task is given a number of rollouts that rank its ground truth first.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from star_rl.mars import RuleBackend, RuleOptions, Team, TeamOptions
from star_rl.pipeline import chain, recipe, runner
from star_rl.pipeline.stage import Context
from star_rl.policy.loop import Generation, render_prompt
from star_rl.records import Task
from star_rl.run import Run
from star_rl.tools import TOOL_SCHEMAS, ToolBox
from star_rl.trajectory import to_messages

#: Tasks that the student itself samples, by vLLM, before the scripted engine samples all.
BY_STUDENT = 2


class RulesEngine:
    """Speaks the turns of the rule teacher's runs; each rollout of a prompt takes the next run."""

    def __init__(self, world: Run, tasks: list[Task], tokenizer: Any, samples: int, seed: int) -> None:
        rules = RuleBackend(RuleOptions(seed=seed))
        self._team = Team(
            rules,
            lambda case: ToolBox(world.store, case.candidates, "candidates"),  # the rules read this lens
            TeamOptions(top=world.prompt.top),
        )
        self._world, self._tokenizer, self._samples = world, tokenizer, samples
        schemas = TOOL_SCHEMAS if world.tools else None
        self._tasks = [(render_prompt(tokenizer, world.messages(task), schemas), task) for task in tasks]
        self._begun: dict[str, int] = defaultdict(int)
        self._turns: dict[str, list[list[int]]] = {}

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str) -> Generation:
        if request_id not in self._turns:
            task = next(task for ids, task in self._tasks if prompt_ids[: len(ids)] == ids)
            number, self._begun[task.task_id] = self._begun[task.task_id], self._begun[task.task_id] + 1
            outcome = await self._team.run(self._world.case(task), number)
            said = [turn["content"] for turn in to_messages(outcome.trajectory) if turn["role"] == "assistant"]
            wins = zlib.crc32(task.task_id.encode()) % (self._samples + 1)
            said[-1] = _with_first(said[-1], task.ground_truth, number < wins)
            self._turns[request_id] = [
                self._tokenizer.encode(f"{text}<|im_end|>", add_special_tokens=False) for text in said
            ]
        turns = self._turns[request_id]
        ids = turns.pop(0) if turns else self._tokenizer.encode("<|im_end|>", add_special_tokens=False)
        return Generation(ids[: sampling_params["max_tokens"]], None)

    def close(self) -> None:
        """Nothing is open."""


def _with_first(text: str, truth: str, first: bool) -> str:
    """Put the ground truth at the head of the last JSON list of a turn, or at its end."""
    start, end = text.rindex("<JSON>") + 6, text.rindex("</JSON>")
    rest = [item for item in json.loads(text[start:end]) if item != truth]
    return text[:start] + json.dumps([truth, *rest] if first else [*rest, truth]) + text[end:]


def sample_stage(context: Context) -> dict[str, Any]:
    """Stage ``sample`` with the student on a few tasks, in ``student.jsonl``, and the rules on all of them."""
    from transformers import AutoTokenizer

    from star_rl.training import sample

    world, model = Run(context.run, context.config), context.inputs["sft"] / "final"
    options = context.config["sample"]
    train = world.tasks("train")
    sample.rollouts(
        context,
        world,
        model,
        train[:BY_STUDENT],
        context.folder / "student.jsonl",
        samples=options["n"],
        temperature=options["temperature"],
        top_p=options["top_p"],
    )

    @asynccontextmanager
    async def scripted(*_: Any) -> AsyncIterator[RulesEngine]:
        yield RulesEngine(world, train, AutoTokenizer.from_pretrained(str(model)), options["n"], context.seed)

    with patch("star_rl.policy.sampler.open_engine", scripted):
        figures = sample.sample_stage(context)
    return {**figures, "summary": f"{figures['summary']} by a scripted engine, {BY_STUDENT} tasks by the student"}


def main(arguments: Sequence[str]) -> int:
    """Run a recipe up to ``sample``: ``python -m benchmarks.rehearsal.rollouts RECIPE [key=value]..``."""
    stages = tuple(replace(stage, body=sample_stage) if stage.name == "sample" else stage for stage in chain.STAGES)
    runner.run(recipe.load(arguments[0], arguments[1:]), stages, until="sample")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
