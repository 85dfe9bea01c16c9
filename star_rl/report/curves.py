"""Read training curves from the logs of verl and ms-swift, under one set of names.

verl's file logger writes one line a step, ``{"step": n, "data": {name: value}}``, with NaN as ``null``
(verl/utils/tracking.py, ``FileLogger``). It empties its file on every start, so the GRPO launcher keeps one a start
(``attempts/001.jsonl``, ..) beside the merged ``metrics.jsonl`` of flat objects with ``step``. ms-swift appends flat
objects to ``logging.jsonl`` whose step is ``"global_step/max_steps": "12/300"`` (swift/trainers/patcher.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from star_rl.errors import StarError
from star_rl.files import read_jsonl
from star_rl.pipeline.stage import ASIDE
from star_rl.report.model import Curve, Grpo


class Metric(NamedTuple):
    """One curve of the report; of its possible ``names`` in the log the first that is found is taken."""

    title: str
    unit: str = ""
    names: tuple[str, ...] = ()
    percent: bool = False  #: a share, drawn in percent


#: Curves of GRPO by the report's names. The names in the log are verl 0.9.1's (trainer/ppo/metric_utils.py,
#: utils/debug/metrics.py); ``reward/``, ``rollout/``, ``groups/`` and ``pass_rate/`` are the plug-in's.
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
    "no_signal_generated": Metric(
        "Generated groups without signal", "%", ("groups/generated/without_signal",), percent=True
    ),
    "refills": Metric("Refills", "prompts per step", ("groups/refills",)),
    "pass_easy": Metric("HR@1 of easy prompts", "%", ("pass_rate/easy",), percent=True),
    "pass_medium": Metric("HR@1 of medium prompts", "%", ("pass_rate/medium",), percent=True),
    "pass_hard": Metric("HR@1 of hard prompts", "%", ("pass_rate/hard",), percent=True),
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
#: Curves of SFT by the report's names, as ms-swift logs them.
SFT: dict[str, Metric] = {
    "loss": Metric("Training loss", "nats per token", ("loss",)),
    "eval_loss": Metric("Validation loss", "nats per token", ("eval_loss",)),
    "token_acc": Metric("Token accuracy", "%", ("token_acc",), percent=True),
    "grad_norm": Metric("Gradient norm", "norm", ("grad_norm",)),
    "learning_rate": Metric("Learning rate", "", ("learning_rate",)),
}
_NUMBER = re.compile(r"\d+")


class Metrics(NamedTuple):
    """All curves of a run by the logger's names, and the steps at which it was resumed."""

    curves: dict[str, Curve]
    resumed: list[float]


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


def log_files(run: str | Path, name: str = "metrics") -> list[Path]:
    """Return a run's log files, one a start, in order, from its folder or a stage's; of several the newest.

    Raises:
        StarError: no log is found.
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
                return sorted(newest, key=lambda path: (int([0, *_NUMBER.findall(path.stem)][-1]), path.name))
    raise StarError(f"there is no {name}*.jsonl under {root}", "give the folder of a run that has trained, or the file")


def read_metrics(paths: str | Path | Iterable[str | Path], name: str = "metrics") -> Metrics:
    """Read one run: a folder, a file, or the files of its attempts in order.

    If two attempts logged the same step, the later one holds: training resumed from a checkpoint before it.

    Raises:
        StarError: no log file is found.
    """
    files = log_files(paths, name) if isinstance(paths, str | Path) else [Path(path) for path in paths]
    values: dict[str, dict[float, float | None]] = {}
    resumed: list[float] = []
    last: float | None = None
    for file in files:
        if not file.is_file():
            raise StarError(f"there is no file {file}", "check the path")
        first = True
        for row in read_jsonl(file, strict=False):
            if not isinstance(row, dict):  # cut by a kill, then appended to
                continue
            data = row["data"] if isinstance(row.get("data"), dict) else row
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


def _pick(raw: Mapping[str, Curve], *names: str) -> Curve:
    return next((raw[name] for name in names if raw.get(name)), [])


def grpo_curves(raw: Mapping[str, Curve]) -> dict[str, Curve]:
    """Return the report's curves from the logger's; a validation's are means over its sources."""
    found = {key: curve for key, metric in GRPO.items() if (curve := _pick(raw, *metric.names))}
    if "format" not in found and (signs := raw.get("reward/format/mean")):  # +1 or -1 (paper, section 3.5)
        found["format"] = [(step, None if value is None else (1 + value) / 2) for step, value in signs]
    for key, pattern in _VALIDATION.items():
        if sources := [dict(finite(curve)) for name, curve in raw.items() if pattern.fullmatch(name)]:
            steps = sorted(set.intersection(*map(set, sources)))
            found[key] = [(step, sum(source[step] for source in sources) / len(sources)) for step in steps]
    return found


def success_histogram(raw: Mapping[str, Curve]) -> tuple[list[float], list[list[float]]]:
    """Return steps and the shares of groups with 0, 1, .. n successes at each. Shapes: (steps,), (n + 1, steps)."""
    counts = sorted(int(name.removeprefix(_SUCCESSES)) for name in raw if name.startswith(_SUCCESSES))
    columns = [dict(finite(raw[f"{_SUCCESSES}{count}"])) for count in counts]
    steps = sorted({step for column in columns for step in column})
    return steps, [[column.get(step, 0.0) for step in steps] for column in columns]


def grpo_report(run: str | Path, audit: Mapping[str, Any] | None = None) -> Grpo:
    """Return the report's part on GRPO from its log, beside the audit of its training set."""
    metrics = read_metrics(run)
    raw, curves = metrics.curves, grpo_curves(metrics.curves)
    reward = curves.get("reward", [])
    calls, gaps, means = (
        [value for _, value in finite(raw.get(name, []))]
        for name in (
            "rollout/tool_calls/sum",
            "training/rollout_probs_diff_max",
            "training/rollout_probs_diff_mean",
        )
    )
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
    """Return the SFT curves of ms-swift's ``logging.jsonl``, or of the newest such file under a folder."""
    raw = read_metrics(path, "logging").curves
    return {key: curve for key, metric in SFT.items() if (curve := _pick(raw, *metric.names))}


def finite(curve: Iterable[tuple[float, float | None]]) -> list[tuple[float, float]]:
    """Return the points that are numbers."""
    return [(float(s), float(v)) for s, v in curve if v is not None and math.isfinite(v) and math.isfinite(s)]


def mean_of(curve: Curve, count: int) -> float | None:
    """Return the mean of the first ``count`` values, or of the last ``-count``; ``None`` without values."""
    values = [value for _, value in finite(curve)]
    chosen = values[:count] if count > 0 else values[count:]
    return sum(chosen) / len(chosen) if chosen else None


def window_of(points: int) -> int:
    """Return the width of the running mean for so many points: odd; 1 means none."""
    return 1 if points < 8 else min(51, 2 * (points // 20) + 3)


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the centred running mean; at the ends, where half the window is missing, the fit of a straight line.

    So a trend is not flattened at its start and end. The line stays between the lowest and the highest point.
    """
    from scipy.signal import savgol_filter

    window = window_of(len(points))
    if window == 1:
        return list(points)
    steps, values = zip(*points, strict=True)
    line = np.clip(savgol_filter(values, window, polyorder=1), min(values), max(values))
    return list(zip(steps, line.tolist(), strict=True))
