"""Training curves: read what verl and ms-swift log, and name it once.

verl's file logger writes one line a step, ``{"step": n, "data": {name: value}}``, with NaN as ``null``
(verl/utils/tracking.py, ``FileLogger``). It empties its file on every start, so the GRPO launcher keeps one a start
(``attempts/001.jsonl``, ..) beside the merged ``metrics.jsonl`` of flat objects with ``step``. ms-swift appends flat
objects to ``logging.jsonl`` whose step is ``"global_step/max_steps": "12/300"`` (swift/trainers/patcher.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.files import read_jsonl
from star_rl.pipeline.stage import ASIDE
from star_rl.report.model import Curve, Grpo


@dataclass(frozen=True, slots=True)
class Metric:
    """One curve of the report.

    Attributes:
        title: as the figure is headed.
        unit: of the vertical axis.
        names: as it may be called in the log; the first that is there is taken.
        percent: a share, drawn in percent.
    """

    title: str
    unit: str = ""
    names: tuple[str, ...] = ()
    percent: bool = False


#: Curves of GRPO by the report's names. The names in the log are verl 0.9.1's (trainer/ppo/metric_utils.py,
#: utils/debug/metrics.py); ``reward/``, ``rollout/`` and ``groups/`` are logged by the project's plug-in.
GRPO: dict[str, Metric] = {
    "reward": Metric("Mean reward", "reward", ("critic/score/mean", "reward/score/mean")),
    "format": Metric("Well-formed outputs", "%", ("reward/format_rate/mean",), percent=True),
    "hr1": Metric("HR@1", "%", ("reward/acc/mean",), percent=True),
    "hr3": Metric("HR@3", "%", ("reward/hr3/mean",), percent=True),
    "hr5": Metric("HR@5", "%", ("reward/hr5/mean",), percent=True),
    "hr_avg": Metric("HR_avg", "%", ("reward/hr_avg/mean",), percent=True),
    "valid_hr1": Metric("HR@1 in validation", "%", percent=True),
    "valid_hr_avg": Metric("HR_avg in validation", "%", percent=True),
    "response_length": Metric("Response length", "tokens", ("response_length/mean",)),
    "tool_calls": Metric("Tool calls", "per rollout", ("rollout/tool_calls/mean", "reward/tool_calls/mean")),
    "invalid_calls": Metric("Invalid tool calls", "per rollout", ("reward/invalid_calls/mean",)),
    "valid_list": Metric("Valid rankings", "%", ("reward/valid_list/mean",), percent=True),
    "no_signal": Metric("Groups without signal", "%", ("groups/without_signal",), percent=True),
    "entropy": Metric("Entropy", "nats", ("actor/entropy", "actor/entropy_loss")),
    "grad_norm": Metric("Gradient norm", "norm", ("actor/grad_norm",)),
    "kl": Metric("KL to the reference", "nats", ("actor/kl_loss", "actor/reward_kl_penalty")),
    "step_seconds": Metric("Time per step", "s", ("perf/time_per_step", "timing_s/step")),
    "probs_diff_max": Metric("Engine against trainer", "max. difference", ("training/rollout_probs_diff_max",)),
}
#: Share of groups by how many of their samples put the truth first, as ``groups/successes/<k>``.
_SUCCESSES = "groups/successes/"
#: verl names validation by source and samples a prompt (trainer/ppo/v1/trainer_base.py, ``_val_metrics_update``).
_VALIDATION = {
    "valid_hr1": re.compile(r"val-core/.+/acc/mean@\d+"),
    "valid_hr_avg": re.compile(r"val-aux/.+/hr_avg/mean@\d+"),
}
#: Curves that span powers of ten.
LOGARITHMIC = frozenset({"probs_diff_max"})
#: The reward's format part, +1 or -1 (paper, section 3.5); the rate is had from its mean.
_SIGNED_FORMAT = Metric("", names=("reward/format/mean",))
#: Tool calls that were executed in one step.
_CALLS = Metric("", names=("rollout/tool_calls/sum",))
#: Difference between engine and trainer, mean over the tokens of one step.
_MEAN_GAP = Metric("", names=("training/rollout_probs_diff_mean",))
#: Curves of SFT by the report's names, as ms-swift logs them.
SFT: dict[str, Metric] = {
    "loss": Metric("Training loss", "nats per token", ("loss",)),
    "eval_loss": Metric("Validation loss", "nats per token", ("eval_loss",)),
    "token_acc": Metric("Token accuracy", "%", ("token_acc",), percent=True),
    "grad_norm": Metric("Gradient norm", "norm", ("grad_norm",)),
    "learning_rate": Metric("Learning rate", "", ("learning_rate",)),
}
_NUMBER = re.compile(r"\d+")


@dataclass(slots=True)
class Metrics:
    """All curves of a run by the logger's names, and the steps at which it was resumed."""

    curves: dict[str, Curve] = field(default_factory=dict)
    resumed: list[float] = field(default_factory=list)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a log. A line that is no object (cut by a kill, then appended to) is passed over."""
    return (value for value in read_jsonl(path, strict=False) if isinstance(value, dict))


def _step(row: Mapping[str, Any]) -> float | None:
    for key in ("step", "global_step", "global_step/max_steps", "_step"):
        value = row.get(key)
        if isinstance(value, str):
            value = value.split("/")[0]
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            return number
    return None


def _value(value: Any) -> float | None:
    try:
        return float(value) if value is not None and math.isfinite(value) else None
    except OverflowError:
        return None


def _attempt(path: Path) -> tuple[int, str]:
    found = _NUMBER.findall(path.stem)
    return (int(found[-1]) if found else 0, path.name)


def log_files(run: str | Path, name: str = "metrics") -> list[Path]:
    """Log files of a run, one a start, in order: in its folder, or else in that of one of its stages.

    Where several stages hold such a log, the one written last is taken.

    Raises:
        StarError: there is none.
    """
    root = Path(run)
    if root.is_file():
        return [root]
    starts = ("attempts/*.jsonl",) if name == "metrics" else ()
    for depth in ("", "*/", "*/*/"):
        for pattern in (*starts, f"{name}*.jsonl"):
            found: dict[Path, list[Path]] = {}
            for path in root.glob(depth + pattern):
                if path.stat().st_size and ASIDE not in str(path.relative_to(root)):
                    found.setdefault(path.parent, []).append(path)
            if found:
                newest = max(found.values(), key=lambda files: max(file.stat().st_mtime for file in files))
                return sorted(newest, key=_attempt)
    raise StarError(f"there is no {name}*.jsonl under {root}", "give the folder of a run that has trained, or the file")


def read_metrics(paths: str | Path | Iterable[str | Path], name: str = "metrics") -> Metrics:
    """Read one run: a folder, a file, or the files of its attempts in order.

    Where two attempts logged the same step, the later one holds: it is what the checkpoint went on from.

    Raises:
        StarError: no log file is there.
    """
    files = log_files(paths, name) if isinstance(paths, str | Path) else [Path(path) for path in paths]
    values: dict[str, dict[float, float | None]] = {}
    resumed: list[float] = []
    last: float | None = None
    for file in files:
        if not file.is_file():
            raise StarError(f"there is no file {file}", "check the path")
        first = True
        for row in _lines(file):
            inner = row.get("data")
            data: Mapping[str, Any] = inner if isinstance(inner, dict) else row
            step = _step(row)
            if step is None or not data:  # verl logs an empty line where it has nothing to say
                continue
            if last is not None and (first or step < last):
                resumed.append(step)
                for column in values.values():  # what lies beyond is trained again; the step itself is overwritten
                    for old in [old for old in column if old > step]:
                        del column[old]
            first, last = False, step
            for key, value in data.items():
                if isinstance(value, int | float) or value is None:
                    values.setdefault(key, {})[step] = _value(value)
    curves = {key: sorted(column.items()) for key, column in values.items() if column}
    return Metrics(curves, resumed)


def _pick(raw: Mapping[str, Curve], metric: Metric) -> Curve:
    return next((raw[name] for name in metric.names if raw.get(name)), [])


def grpo_curves(raw: Mapping[str, Curve]) -> dict[str, Curve]:
    """The report's curves from the logger's (:attr:`Metrics.curves`); those never logged are left out.

    Those of a validation are means over its sources.
    """
    found = {key: curve for key, metric in GRPO.items() if (curve := _pick(raw, metric))}
    if "format" not in found and (signs := _pick(raw, _SIGNED_FORMAT)):
        found["format"] = [(step, None if value is None else (1 + value) / 2) for step, value in signs]
    for key, pattern in _VALIDATION.items():
        if sources := [dict(finite(curve)) for name, curve in raw.items() if pattern.fullmatch(name)]:
            steps = sorted(set.intersection(*map(set, sources)))
            found[key] = [(step, sum(source[step] for source in sources) / len(sources)) for step in steps]
    return found


def success_histogram(raw: Mapping[str, Curve]) -> tuple[list[float], list[list[float]]]:
    """(steps, shares): for every step the share of groups with 0, 1, .. n successes.

    Shape: (steps,), (n + 1, steps).
    """
    counts = sorted(int(name.removeprefix(_SUCCESSES)) for name in raw if name.startswith(_SUCCESSES))
    columns = [dict(finite(raw[f"{_SUCCESSES}{count}"])) for count in counts]
    steps = sorted({step for column in columns for step in column})
    return steps, [[column.get(step, 0.0) for step in steps] for column in columns]


def grpo_report(run: str | Path, audit: Mapping[str, Any] | None = None) -> Grpo:
    """Everything the report says of GRPO that its log knows.

    Args:
        run: the stage's folder, or its ``metrics.jsonl``.
        audit: of the stratified set.
    """
    metrics = read_metrics(run)
    raw, curves = metrics.curves, grpo_curves(metrics.curves)
    reward = curves.get("reward", [])
    calls = [value for _, value in finite(_pick(raw, _CALLS))]
    gaps = [value for _, value in finite(curves.get("probs_diff_max", []))]
    means = [value for _, value in finite(_pick(raw, _MEAN_GAP))]
    return Grpo(
        curves,
        mean_of(reward, 5),
        mean_of(reward, -5),
        round(sum(calls)) if calls else None,
        max(gaps, default=None),
        dict(audit or {}),
        max(means, default=None),
        metrics.resumed,
    )


def sft_curves(path: str | Path) -> dict[str, Curve]:
    """The report's SFT curves from ms-swift's ``logging.jsonl``, or the newest such file under a folder.

    Raises:
        StarError: there is no such file.
    """
    raw = read_metrics(path, "logging").curves
    return {key: curve for key, metric in SFT.items() if (curve := _pick(raw, metric))}


def finite(curve: Iterable[tuple[float, float | None]]) -> list[tuple[float, float]]:
    """The points that are numbers."""
    return [(float(s), float(v)) for s, v in curve if v is not None and math.isfinite(v) and math.isfinite(s)]


def mean_of(curve: Curve, count: int) -> float | None:
    """Mean of the first ``count`` values, or of the last ``-count`` when negative; ``None`` where there are none."""
    values = [value for _, value in finite(curve)]
    chosen = values[:count] if count > 0 else values[count:]
    return sum(chosen) / len(chosen) if chosen else None


def window_of(points: int) -> int:
    """Width of the running mean that suits so many points: odd; 1 means none."""
    return 1 if points < 8 else min(51, 2 * (points // 20) + 3)


def smooth(points: Sequence[tuple[float, float]], window: int | None = None) -> list[tuple[float, float]]:
    """Centred running mean; towards the ends, where half the window is missing, a straight line fitted to the rest.

    So a trend is not flattened where a reader looks first, at the start and the end. The line stays between the lowest
    and the highest point. Time linear in the points.
    """
    half = (window_of(len(points)) if window is None else window) // 2
    values = [value for _, value in points]
    low, high = min(values, default=0.0), max(values, default=0.0)
    sums = [0.0, *accumulate(values)]
    result = []
    for index, (step, _) in enumerate(points):
        first, end = max(0, index - half), min(len(points), index + half + 1)
        mean = (sums[end] - sums[first]) / (end - first)
        middle = (first + end - 1) / 2
        if index != middle:
            spread = sum((place - middle) ** 2 for place in range(first, end))
            mean += (index - middle) * sum((place - middle) * values[place] for place in range(first, end)) / spread
        result.append((step, min(max(mean, low), high)))
    return result
