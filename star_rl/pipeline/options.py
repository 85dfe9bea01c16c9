"""Every option of a recipe, section by section, with its meaning and its range.

A section's fields change results; what only changes speed says so. Where a component has options of its own (a source,
the split, the teacher), its section carries them as ``options`` and the component checks them.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from star_rl.errors import StarError
from star_rl.evidence.template import Size as TextSize
from star_rl.neighbours.weights import WeightName
from star_rl.options import Count, Number, Size, Text, TopP, section
from star_rl.prompts.slots import Names
from star_rl.prompts.student import Profile, Share
from star_rl.tools import Lens
from star_rl.trajectory import Setting

Few = Annotated[int, Field(ge=1, le=64, strict=True)]
Most = Annotated[int, Field(ge=1, le=10_000, strict=True)]
Ranked = Annotated[int, Field(ge=1, le=20, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]
Temperature = Annotated[float, Field(ge=0, le=2, strict=True)]
Tokens = Annotated[int, Field(ge=64, strict=True)]


@section
class SourceSection:
    """Where the tables come from: ``name`` in star_rl.sources, ``root`` of the raw files, ``options`` of the source."""

    name: Text = "synthetic"
    root: Text | None = None
    options: dict[str, Any] = field(default_factory=dict)


@section
class SplitSection:
    """What is visible when; see star_rl.scenarios.SplitOptions for ``options``."""

    options: dict[str, Any] = field(default_factory=dict)


@section
class NeighboursSection:
    """``items_k``/``users_k`` neighbours kept per row, ``liked_k`` items per user, ``threads`` (speed only);
    ``window``: ItemCF counts items as chosen together in half-overlapping windows of this many interactions of a user
    (0: in the whole sequence)."""

    items_k: Most = 100
    users_k: Most = 50
    liked_k: Most = 100
    window: Count = 0
    weight: WeightName = "cosine"
    threads: Size | None = None


@section
class EvidenceSection:
    """``size``: ``full`` (the paper's form) or ``short`` (one line, for a tiny student); ``budget``: tokens a text."""

    size: TextSize = "full"
    budget: Size | None = None


@section
class SummariesSection:
    """Summaries of the older part of a record: ``by`` a served model (``llm``), by ``rules``, or ``none``; ``chunk``
    interactions a chunk, of which the last one is shown as it is (20 entries fit the prompt's share of the record);
    ``words`` of a summary at most (300 fit its share; paper: 500); ``chat`` as
    ``teacher.options.chat``, whose values are the defaults. ``llm`` means rules where the teacher is made of rules and
    no endpoint is named."""

    by: Literal["none", "rules", "llm"] = "none"
    chunk: Size = 20
    words: Annotated[int, Field(ge=1, le=500, strict=True)] = 300
    chat: dict[str, Any] = field(default_factory=dict)


@section
class MemorySection:
    """A memory for each user, rewritten after each of the last ``interactions`` before a task by the teacher's agent
    (docs/starec.md); 0 for none. With ``sft_set.setting: fast``."""

    interactions: Count = 0


@section
class PromptSection:
    """The student's prompt: ``profile`` ``full`` or ``compact``; ``names``: ``ids``, or ``slots`` (c1, c2 .. for the
    candidates, h1, h2 .. for the record, the latest first); ``history`` items shown at most (0: what the profile
    holds); ``budget`` of tokens (paper, table 5), of which ``summary`` and ``record`` are shares (see PromptOptions);
    ``review``: most tokens of one review; ``top`` ids in the ranking."""

    profile: Profile = "full"
    names: Names = "ids"
    history: Annotated[int, Field(ge=0, le=10_000, strict=True)] = 0
    budget: Annotated[int, Field(ge=500, strict=True)] = 6000
    summary: Share = 0.15
    record: Share = 0.5
    review: Count = 60
    top: Ranked = 20


@section
class ToolsSection:
    """``lens``: ``text`` (the stored text as it is) or ``candidates`` (adds the candidates among the neighbours);
    ``own``: tools beside UserCF and ItemCF, each ``FILE.py:NAME``, ``package.module:NAME``, ``mcp:URL`` or
    ``mcp:COMMAND`` (docs/extend.md)."""

    lens: Lens = "text"
    lens_top: Ranked = 5
    own: list[Text] = field(default_factory=list)


@section
class TeacherSection:
    """MARS: ``options`` of star_rl.mars, ``tasks`` of the training set (null for all), ``passes`` over each."""

    backend: Literal["rules", "llm"] = "rules"
    tasks: Size | None = None
    passes: Few = 1
    options: dict[str, Any] = field(default_factory=dict)


@section
class SftSetSection:
    """``setting``: full, no_tools, no_planner, no_reflector, planner_only or fast (one phase, docs/starec.md);
    ``max_tokens`` bounds a sample; ``within``: runs are kept whose truth stands in so many first places;
    ``per_task`` samples of one task at most (null: every hit); ``spread``: the largest group of source and
    scenario is cut to this many times the smallest (0: none is cut)."""

    setting: Setting = "full"
    max_tokens: Tokens = 16384
    within: Ranked = 1
    per_task: Few | None = None
    spread: Number = 0.0
    limit: Size | None = None


@section
class StudentSection:
    """``path`` of a Hugging Face model, or null for a tiny Qwen3 of ``shape`` with a tokenizer of the run's own."""

    path: Text | None = None
    shape: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)


@section
class SftSection:
    """``recipe``: an overlay (a file, or a name such as ``sft/table4``), or a list of which each is laid over those
    before; ``overrides``: ms-swift arguments over it; ``keep_checkpoints`` keeps optimizer states and older checkpoints
    when all is done."""

    recipe: str | list[str] = "sft/tiny_cpu"
    overrides: dict[str, Any] = field(default_factory=dict)
    keep_checkpoints: bool = False


@section
class LoopSection:
    """Budgets of the policy loop (star_rl.policy.loop.Budget) for sampling, GRPO and evaluation alike.

    ``prompt_tokens``: the longest prompt that GRPO takes (verl's ``max_prompt_length``); null is ``prompt.budget`` for
    a full profile, and what the overlay says for a compact one. ``budget.response_tokens`` is verl's
    ``max_response_length`` too. ``environment``: a user who may speak after an answer, ``FILE.py:NAME`` or
    ``package.module:NAME`` (docs/extend.md).
    """

    prompt_tokens: Tokens | None = None
    environment: Text | None = None
    budget: dict[str, Any] = field(default_factory=dict)


@section
class EngineSection:
    """The sampling engine (speed only): rollouts in flight and the engine's own options."""

    in_flight: Annotated[int, Field(ge=1, le=65_536, strict=True)] = 128
    options: dict[str, Any] = field(default_factory=dict)


@section
class SampleSection:
    """Difficulty sampling (paper, section 3.5): ``n`` responses for each of ``instances`` training tasks, and to the
    reflections before a share ``reflections`` of them (docs/starec.md)."""

    instances: Size = 4000
    reflections: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.0
    n: Annotated[int, Field(ge=4, le=128, strict=True)] = 8  # fewer cannot tell three difficulties apart
    temperature: Temperature = 0.7
    top_p: TopP = 1.0


@section
class GrpoSetSection:
    """``total`` instances composed 3:4:3, or ``max`` for the largest total that the buckets allow; with ``fill`` the
    other buckets take the places of one that is short."""

    total: Literal["max"] | Size = "max"
    fill: bool = False
    validation: Count = 64


@section
class GrpoSection:
    """``recipe``: an overlay (a file, or a name such as ``grpo/table5``), or a list of which each is laid over those
    before; ``overrides``: verl options over it; ``steps`` bounds the training; ``keep``: the student is the ``last``
    checkpoint, or the ``best`` by HR_avg in validation; ``patience``: end after this many validations in a row without
    gain (0: never); ``keep_checkpoints`` keeps the optimizer's shards when all is done."""

    recipe: str | list[str] = "grpo/tiny"
    reward: str = "star"
    steps: Size | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    keep: Literal["last", "best"] = "last"
    patience: Count = 0
    keep_checkpoints: bool = False


@section
class EvaluateSection:
    """``tasks`` held-out tasks at most; students decode as in the paper (temperature 0.7, top_p 0.95). ``methods`` are
    evaluated beside the usual ones, named as for ``star-rl evaluate``."""

    tasks: Size | None = None
    temperature: Temperature = 0.7
    top_p: TopP = 0.95
    samples: Few = 1
    methods: list[Text] = field(default_factory=list)
    bootstrap: Annotated[int, Field(ge=100, le=1_000_000, strict=True)] = 2000


@section
class Recipe:
    """All options of a chain, a section each; ``seed`` is that of data, teacher and baselines, ``train_seed`` (null:
    ``seed``) that of the student's first weights, its training and its samples."""

    name: Text = "run"
    seed: Seed = 7
    train_seed: Seed | None = None
    out: Text = "runs"
    source: SourceSection = field(default_factory=SourceSection)
    split: SplitSection = field(default_factory=SplitSection)
    neighbours: NeighboursSection = field(default_factory=NeighboursSection)
    evidence: EvidenceSection = field(default_factory=EvidenceSection)
    summaries: SummariesSection = field(default_factory=SummariesSection)
    memory: MemorySection = field(default_factory=MemorySection)
    prompt: PromptSection = field(default_factory=PromptSection)
    tools: ToolsSection = field(default_factory=ToolsSection)
    teacher: TeacherSection = field(default_factory=TeacherSection)
    sft_set: SftSetSection = field(default_factory=SftSetSection)
    student: StudentSection = field(default_factory=StudentSection)
    sft: SftSection = field(default_factory=SftSection)
    loop: LoopSection = field(default_factory=LoopSection)
    engine: EngineSection = field(default_factory=EngineSection)
    sample: SampleSection = field(default_factory=SampleSection)
    grpo_set: GrpoSetSection = field(default_factory=GrpoSetSection)
    grpo: GrpoSection = field(default_factory=GrpoSection)
    evaluate: EvaluateSection = field(default_factory=EvaluateSection)

    @property
    def seeds(self) -> dict[str, int]:
        """Values of ``seed`` and ``train_seed``."""
        return {"seed": self.seed, "train_seed": self.seed if self.train_seed is None else self.train_seed}

    def __post_init__(self) -> None:
        if not self.sft.recipe:
            raise StarError("sft.recipe=[] names no overlay", "name one, such as sft/table4, or a list")
        folder = Path(self.name).name
        if folder != self.name or folder in ("", ".", ".."):
            raise StarError(f"name={self.name} is not a folder name", "set out= to the folder that holds the run's")
