"""Define and check the content of ``report.json``.

Units everywhere in the file: HR and its intervals in percent (0 to 100), rates as shares (0 to 1), latency and
durations in seconds, lengths in tokens. A value that was not measured is ``null``, never zero: the page shows a dash.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Interval

from star_rl.errors import StarError

#: Characters that neither HTML nor XML admits, even escaped.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")

#: ``(step, value)`` in the order of the steps; ``None`` stands for a logged value that was not finite.
Curve = list[tuple[float, float | None]]
#: An HR in percent, and a share; a bootstrap may miss the ends by a rounding error.
Percent = Annotated[float, Interval(ge=-1e-9, le=100 + 1e-9)] | None
Share = Annotated[float, Interval(ge=-1e-9, le=1 + 1e-9)] | None


def clean(text: str) -> str:
    """Return text that a page can hold: characters that HTML forbids become the replacement character."""
    return _CONTROL.sub("\ufffd", text)


@dataclass(slots=True)
class ReportRun:
    """What was run; ``config`` is the composed recipe."""

    name: str
    recipe: str = ""
    source: str = ""
    seed: int | None = None
    seconds: dict[str, float | None] = field(default_factory=dict)  #: of each stage, in the order they ran
    versions: dict[str, str] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  #: sentences the reader must see beside the numbers
    config: dict[str, Any] = field(default_factory=dict)
    train_seed: int | None = None


@dataclass(slots=True)
class MethodRow:
    """One row of the table of methods; :data:`star_rl.report.grid.TIPS` says what the columns mean."""

    name: str
    n: int
    hr1: Percent = None
    hr3: Percent = None
    hr5: Percent = None
    hr_avg: Percent = None
    hr_avg_low: Percent = None
    hr_avg_high: Percent = None
    format_rate: Share = None
    valid_rate: Share = None
    tool_calls: float | None = None
    tokens: float | None = None
    latency_p50: float | None = None
    latency_p95: float | None = None
    decoding: str | None = None  #: how the answers were drawn, in words


@dataclass(slots=True)
class Pair:
    """Paired bootstrap of HR_avg on the same tasks: ``a`` minus ``b``, in percentage points."""

    a: str
    b: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(slots=True)
class Sft:
    """SFT: curves (``loss``, ..) and how many trajectories the outcome filter kept and dropped, by reason."""

    curves: dict[str, Curve] = field(default_factory=dict)
    kept: int | None = None
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Grpo:
    """GRPO; its curves by the names of :data:`star_rl.report.curves.GRPO`, rates and HR as shares.

    The engine's token probabilities are compared with the trainer's: their largest difference, and the largest of the
    steps' means.
    """

    curves: dict[str, Curve] = field(default_factory=dict)
    first5: float | None = None  #: mean reward of the first five steps
    last5: float | None = None
    tool_calls_total: int | None = None
    probs_diff_max: float | None = None
    set: dict[str, Any] = field(default_factory=dict)  #: the audit of the stratified set
    probs_diff_mean: float | None = None
    resumed: list[float] = field(default_factory=list)  #: steps


@dataclass(slots=True)
class HistoryItem:
    item_id: str
    title: str = ""
    categories: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ExampleTask:
    """The task of an example; ``titles`` names the candidates, ``earlier`` counts the history before what is listed."""

    task_id: str
    scenario: str = ""
    user_id: str = ""
    ground_truth: str = ""
    candidates: list[str] = field(default_factory=list)
    history: list[HistoryItem] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)
    earlier: int = 0


@dataclass(slots=True)
class ExampleRollout:
    """One answer of one student."""

    messages: list[dict[str, Any]] = field(default_factory=list)  #: chat messages; their content is untrusted
    ranking: list[str | None] | None = None
    rank: int | None = None  #: position of the ground truth, from 1
    score: float | None = None  #: the reward
    format: float | None = None  #: the format part of the reward; above zero means well formed
    failure: str = ""  #: why there is no ranking


@dataclass(slots=True)
class Example:
    """One held-out task, answered before and after GRPO."""

    task: ExampleTask
    before: ExampleRollout | None = None
    after: ExampleRollout | None = None


@dataclass(slots=True)
class Report:
    run: ReportRun
    methods: list[MethodRow] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    sft: Sft | None = None
    grpo: Grpo | None = None
    examples: list[Example] = field(default_factory=list)


def plain(value: Any) -> Any:
    """Return any value as JSON can hold it.

    NaN and infinity become ``None``; half a surrogate pair (a model can write one as an escape) becomes the replacement
    character.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes | bytearray):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # a NumPy scalar or array
        return plain(value.tolist())
    return plain(str(value))


def checked(value: Report | Mapping[str, Any]) -> Report:
    """Return a report, or a plain mapping as one, with every field checked; unknown keys are left out.

    Raises:
        StarError: a field is missing, has the wrong type or lies outside its unit's range; the field is named.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Report).validate_python(plain(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise StarError(
            f"report field {where}: {first['msg']} (value: {str(first['input'])[:80]!r})",
            "HR is given in percent, rates as shares; write the report again with: star-rl run RECIPE --from report",
        ) from error
