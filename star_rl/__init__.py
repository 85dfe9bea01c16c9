"""star_rl: distil a team of recommending agents (MARS) into one language model (STAR) by SFT, then GRPO.

The names below are the public API. They are stable: within a major version none is renamed or removed without a
release that still has both. Everything else may change.

Runs       :class:`Recipe`, :func:`load_recipe`, :func:`run_recipe`, :class:`Run`
Data       :class:`Item`, :class:`Task`, :class:`Sink`, :class:`EvidenceStore`
Text       :func:`parse`, :func:`render`, :func:`read_response`
Rollouts   :func:`rollout`, :class:`Budget`, :class:`Generation`, :func:`render_prompt`
Sampling   :func:`sample`, :class:`PolicyTask`, :class:`SamplingOptions`
Methods    :class:`Method`, :class:`Ranking`, :class:`TaskContext`, :func:`evaluate`
Errors     :class:`StarError`

A name loads its module when it is first used. Importing this package loads no engine (torch, ray, verl, vllm,
ms-swift).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from star_rl.errors import StarError
    from star_rl.evaluation.evaluate import evaluate
    from star_rl.evaluation.methods.base import Method, Ranking, TaskContext
    from star_rl.evidence.store import EvidenceStore
    from star_rl.pipeline.options import Recipe
    from star_rl.pipeline.recipe import load as load_recipe
    from star_rl.pipeline.runner import run_recipe
    from star_rl.policy.loop import Budget, Generation, render_prompt, rollout
    from star_rl.policy.sampler import PolicyTask, SamplingOptions, sample
    from star_rl.records import Item, Task
    from star_rl.rewards.keys import read as read_response
    from star_rl.run import Run
    from star_rl.sources.sink import Sink
    from star_rl.trajectory.parse import parse
    from star_rl.trajectory.render import render

__version__ = "0.2.0"

__all__ = [
    "Budget",
    "EvidenceStore",
    "Generation",
    "Item",
    "Method",
    "PolicyTask",
    "Ranking",
    "Recipe",
    "Run",
    "SamplingOptions",
    "Sink",
    "StarError",
    "Task",
    "TaskContext",
    "evaluate",
    "load_recipe",
    "parse",
    "read_response",
    "render",
    "render_prompt",
    "rollout",
    "run_recipe",
    "sample",
]

#: Public name -> ``module`` that has it, or ``module:its name there``.
_HOMES = {
    "Budget": "star_rl.policy.loop",
    "EvidenceStore": "star_rl.evidence.store",
    "Generation": "star_rl.policy.loop",
    "Item": "star_rl.records",
    "Method": "star_rl.evaluation.methods.base",
    "PolicyTask": "star_rl.policy.sampler",
    "Ranking": "star_rl.evaluation.methods.base",
    "Recipe": "star_rl.pipeline.options",
    "Run": "star_rl.run",
    "SamplingOptions": "star_rl.policy.sampler",
    "Sink": "star_rl.sources.sink",
    "StarError": "star_rl.errors",
    "Task": "star_rl.records",
    "TaskContext": "star_rl.evaluation.methods.base",
    "evaluate": "star_rl.evaluation.evaluate",
    "load_recipe": "star_rl.pipeline.recipe:load",
    "parse": "star_rl.trajectory.parse",
    "read_response": "star_rl.rewards.keys:read",
    "render": "star_rl.trajectory.render",
    "render_prompt": "star_rl.policy.loop",
    "rollout": "star_rl.policy.loop",
    "run_recipe": "star_rl.pipeline.runner",
    "sample": "star_rl.policy.sampler",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, _, own = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(home), own or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
