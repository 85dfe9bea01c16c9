"""Every option of a recipe, section by section, with its meaning and its range.

A section's fields change results; what only changes speed says so. Where a component has options of its own (a source,
the split, the teacher), its section carries them as ``options`` and the component checks them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from star_rl.errors import StarError


def _range(name: str, value: float | None, low: float, high: float = float("inf")) -> None:
    if value is not None and not low <= value <= high:
        upper = "" if high == float("inf") else f" and {high:g}"
        raise StarError(f"{name}={value:g} is out of range", f"it lies between {low:g}{upper}")


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise StarError(f"{name}={value} is not known", f"one of {', '.join(allowed)}")


@dataclass
class Source:
    """Where the tables come from: ``name`` in star_rl.sources, ``root`` of the raw files, ``options`` of the source."""

    name: str = "synthetic"
    root: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Split:
    """What is visible when; see star_rl.scenarios.SplitOptions for ``options``."""

    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Neighbours:
    """``items_k``/``users_k`` neighbours kept per row, ``liked_k`` items per user, ``threads`` (speed only)."""

    items_k: int = 100
    users_k: int = 50
    liked_k: int = 100
    weight: str = "cosine"
    threads: int | None = None


@dataclass
class Evidence:
    """``size``: ``full`` (the paper's form) or ``short`` (one line, for a tiny student); ``budget``: tokens a text."""

    size: str = "full"
    budget: int | None = None


@dataclass
class Prompt:
    """The student's prompt: ``profile`` ``full`` or ``compact``; ``history`` items shown at most (0: what the profile
    holds); ``budget`` of tokens (paper, table 5); ``top`` ids in the ranking."""

    profile: str = "full"
    history: int = 0
    budget: int = 6000
    top: int = 20


@dataclass
class Tools:
    """``lens``: ``text`` (the stored text as it is) or ``candidates`` (adds the candidates among the neighbours)."""

    lens: str = "text"
    lens_top: int = 5


@dataclass
class Teacher:
    """MARS: ``options`` of star_rl.mars, ``tasks`` of the training set (null for all), ``passes`` over each."""

    backend: str = "rules"
    tasks: int | None = None
    passes: int = 1
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class SftSet:
    """``setting``: full, no_tools, no_planner, no_reflector or planner_only; ``max_tokens`` bounds a sample."""

    setting: str = "full"
    max_tokens: int = 16384
    per_task: int = 1
    limit: int | None = None


@dataclass
class Student:
    """``path`` of a Hugging Face model, or null for a tiny Qwen3 of ``shape`` with a tokenizer of the run's own."""

    path: str | None = None
    shape: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sft:
    """``recipe``: an overlay in recipes/sft, or a list of which each is laid over those before; ``overrides``: ms-swift
    arguments over it; ``keep_checkpoints`` keeps optimizer states and older checkpoints when all is done."""

    recipe: Any = "recipes/sft/tiny_cpu.yaml"
    overrides: dict[str, Any] = field(default_factory=dict)
    keep_checkpoints: bool = False


@dataclass
class Loop:
    """Budgets of the policy loop (star_rl.policy.loop.Budget) for sampling, GRPO and evaluation alike.

    ``prompt_tokens``: the longest prompt that GRPO takes (verl's ``max_prompt_length``); null is ``prompt.budget`` for
    a full profile, and what the overlay says for a compact one. ``budget.response_tokens`` is verl's
    ``max_response_length`` too.
    """

    prompt_tokens: int | None = None
    budget: dict[str, Any] = field(default_factory=dict)


@dataclass
class Engine:
    """The sampling engine (speed only): rollouts in flight and the engine's own options."""

    in_flight: int = 128
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sample:
    """Difficulty sampling (paper, section 3.5): ``n`` responses for each of ``instances`` training tasks."""

    instances: int = 4000
    n: int = 8
    temperature: float = 0.7
    top_p: float = 1.0


@dataclass
class GrpoSet:
    """``total`` instances composed 3:4:3, or ``max`` for the largest total that the buckets allow."""

    total: Any = "max"
    validation: int = 64


@dataclass
class Grpo:
    """``recipe``: an overlay in recipes/grpo; ``overrides``: verl options over it; ``steps`` bounds the training;
    ``keep_checkpoints`` keeps the optimizer's shards when all is done."""

    recipe: str = "recipes/grpo/tiny.yaml"
    reward: str = "star"
    steps: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    keep_checkpoints: bool = False


@dataclass
class Evaluate:
    """``tasks`` held-out tasks at most; students decode as in the paper (temperature 0.7, top_p 0.95)."""

    tasks: int | None = None
    temperature: float = 0.7
    top_p: float = 0.95
    samples: int = 1
    bootstrap: int = 2000


@dataclass
class Recipe:
    """A whole chain."""

    name: str = "run"
    seed: int = 7
    out: str = "runs"
    source: Source = field(default_factory=Source)
    split: Split = field(default_factory=Split)
    neighbours: Neighbours = field(default_factory=Neighbours)
    evidence: Evidence = field(default_factory=Evidence)
    prompt: Prompt = field(default_factory=Prompt)
    tools: Tools = field(default_factory=Tools)
    teacher: Teacher = field(default_factory=Teacher)
    sft_set: SftSet = field(default_factory=SftSet)
    student: Student = field(default_factory=Student)
    sft: Sft = field(default_factory=Sft)
    loop: Loop = field(default_factory=Loop)
    engine: Engine = field(default_factory=Engine)
    sample: Sample = field(default_factory=Sample)
    grpo_set: GrpoSet = field(default_factory=GrpoSet)
    grpo: Grpo = field(default_factory=Grpo)
    evaluate: Evaluate = field(default_factory=Evaluate)

    def check(self) -> None:
        """Hold every value to its range.

        Raises:
            StarError: the option, its value and the range.
        """
        _choice("evidence.size", self.evidence.size, ("full", "short"))
        _choice("prompt.profile", self.prompt.profile, ("full", "compact"))
        _choice("tools.lens", self.tools.lens, ("text", "candidates"))
        _choice("teacher.backend", self.teacher.backend, ("rules", "llm"))
        _choice(
            "sft_set.setting",
            self.sft_set.setting,
            ("full", "no_tools", "no_planner", "no_reflector", "planner_only"),
        )
        folder = Path(self.name).name
        if folder != self.name or folder in ("", ".", ".."):
            raise StarError(f"name={self.name} is no folder's name", "set out= to the folder that the run's lies in")
        for name, value, low, high in (
            ("seed", self.seed, 0, 2**32 - 1),
            ("neighbours.items_k", self.neighbours.items_k, 1, 10_000),
            ("neighbours.users_k", self.neighbours.users_k, 1, 10_000),
            ("neighbours.liked_k", self.neighbours.liked_k, 1, 10_000),
            ("evidence.budget", self.evidence.budget, 1, float("inf")),
            ("prompt.history", self.prompt.history, 0, 10_000),
            ("prompt.top", self.prompt.top, 1, 20),
            ("tools.lens_top", self.tools.lens_top, 1, 20),
            ("teacher.tasks", self.teacher.tasks, 1, float("inf")),
            ("teacher.passes", self.teacher.passes, 1, 64),
            ("sft_set.max_tokens", self.sft_set.max_tokens, 64, float("inf")),
            ("sft_set.per_task", self.sft_set.per_task, 1, 64),
            ("sft_set.limit", self.sft_set.limit, 1, float("inf")),
            ("loop.prompt_tokens", self.loop.prompt_tokens, 64, float("inf")),
            ("engine.in_flight", self.engine.in_flight, 1, 65_536),
            ("sample.instances", self.sample.instances, 1, float("inf")),
            ("sample.n", self.sample.n, 4, 128),  # fewer cannot tell three difficulties apart
            ("sample.temperature", self.sample.temperature, 0, 2),
            ("sample.top_p", self.sample.top_p, 1e-6, 1),
            ("grpo_set.validation", self.grpo_set.validation, 0, float("inf")),
            ("grpo.steps", self.grpo.steps, 1, float("inf")),
            ("evaluate.tasks", self.evaluate.tasks, 1, float("inf")),
            ("evaluate.temperature", self.evaluate.temperature, 0, 2),
            ("evaluate.top_p", self.evaluate.top_p, 1e-6, 1),
            ("evaluate.samples", self.evaluate.samples, 1, 64),
            ("evaluate.bootstrap", self.evaluate.bootstrap, 100, 1_000_000),
        ):
            _range(name, value, low, high)
        names = self.sft.recipe
        if not (
            isinstance(names, str) or (isinstance(names, list) and names and all(isinstance(n, str) for n in names))
        ):
            raise StarError(f"sft.recipe={names} names no overlay", "give a path in recipes/sft, or a list of them")
        total = self.grpo_set.total
        if not (total == "max" or (isinstance(total, int) and not isinstance(total, bool) and total > 0)):
            raise StarError(f"grpo_set.total={total} is not a size", "give a positive number, or max")
