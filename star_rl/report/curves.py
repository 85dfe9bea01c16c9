"""Training curves: read what verl and ms-swift log, name it once, draw it.

verl's file logger writes one line a step, ``{"step": n, "data": {name: value}}``, with NaN as ``null``
(verl/utils/tracking.py, ``FileLogger``). It opens its file anew on every start, so a resumed run keeps one file an
attempt: ``metrics.jsonl``, ``metrics.2.jsonl``, .. ms-swift appends flat objects to ``logging.jsonl`` whose step is
``"global_step/max_steps": "12/300"`` (swift/trainers/patcher.py).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.files import atomic_path
from star_rl.report.model import Curve


@dataclass(frozen=True, slots=True)
class Metric:
    """One curve of the report.

    Attributes:
        title: as the figure is headed.
        unit: of the vertical axis.
        names: exact names in the log, the first that is there is taken.
        reward_key: key of the reward's dictionary, looked for under the prefixes of :data:`_PREFIXES`.
        percent: a share, drawn in percent.
    """

    title: str
    unit: str = ""
    names: tuple[str, ...] = ()
    reward_key: str = ""
    percent: bool = False


#: Curves of GRPO by the report's names. The exact names are verl 0.9.1's (trainer/ppo/metric_utils.py,
#: utils/debug/metrics.py); means of the reward's own keys are logged by the project's plug-in.
GRPO: dict[str, Metric] = {
    "reward": Metric("Mean reward", "reward", ("critic/score/mean", "critic/rewards/mean"), "score"),
    "format": Metric("Well-formed outputs", "%", (), "format_rate", percent=True),
    "hr1": Metric("HR@1", "%", (), "hr1", percent=True),
    "hr3": Metric("HR@3", "%", (), "hr3", percent=True),
    "hr5": Metric("HR@5", "%", (), "hr5", percent=True),
    "hr_avg": Metric("HR_avg", "%", (), "hr_avg", percent=True),
    "response_length": Metric("Response length", "tokens", ("response_length/mean",)),
    "tool_calls": Metric("Tool calls", "per rollout", ("tool_call_counts/mean",), "tool_calls"),
    "invalid_calls": Metric("Invalid tool calls", "per rollout", (), "invalid_calls"),
    "no_signal": Metric("Groups without signal", "%", (), "no_signal", percent=True),
    "entropy": Metric("Entropy", "nats", ("actor/entropy", "actor/entropy_loss")),
    "grad_norm": Metric("Gradient norm", "norm", ("actor/grad_norm",)),
    "kl": Metric("KL to the reference", "nats", ("actor/kl_loss", "actor/reward_kl_penalty")),
    "clip_ratio": Metric("Responses cut at the limit", "%", ("response_length/clip_ratio",), percent=True),
    "step_seconds": Metric("Time per step", "s", ("perf/time_per_step", "timing_s/step")),
    "probs_diff_max": Metric("Engine against trainer", "max. difference", ("training/rollout_probs_diff_max",)),
}
#: Curves of SFT by the report's names, as ms-swift logs them.
SFT: dict[str, Metric] = {
    "loss": Metric("Training loss", "nats per token", ("loss", "train_loss")),
    "eval_loss": Metric("Validation loss", "nats per token", ("eval_loss",)),
    "token_acc": Metric("Token accuracy", "%", ("token_acc",), percent=True),
    "grad_norm": Metric("Gradient norm", "norm", ("grad_norm",)),
    "learning_rate": Metric("Learning rate", "", ("learning_rate",)),
}
_PREFIXES = ("star/", "reward/", "rollout/", "critic/", "training/", "")
_NUMBER = re.compile(r"\d+")


@dataclass(slots=True)
class Metrics:
    """All curves of a run by the logger's names, and the steps at which it was resumed."""

    curves: dict[str, Curve] = field(default_factory=dict)
    resumed: list[float] = field(default_factory=list)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a log. A line that is no object (cut by a kill, then appended to) is passed over."""
    with open(path, encoding="utf-8", errors="replace") as handle:
        for line in handle:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


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
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _attempt(path: Path) -> tuple[int, str]:
    found = _NUMBER.findall(path.stem)
    return (int(found[-1]) if found else 0, path.name)


def log_files(run: str | Path, name: str = "metrics") -> list[Path]:
    """Log files of a run, one an attempt, in order: in its folder, or else in that of one of its stages.

    Raises:
        StarError: there is none.
    """
    root = Path(run)
    if root.is_file():
        return [root]
    for pattern in (f"{name}*.jsonl", f"*/{name}*.jsonl", f"*/*/{name}*.jsonl"):
        if found := sorted(root.glob(pattern), key=lambda path: (str(path.parent), _attempt(path))):
            return found
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
            step = _step(row)
            if step is None:
                continue
            if last is not None and (first or step < last):
                resumed.append(step)
                for column in values.values():  # what lies beyond is trained again; the step itself is overwritten
                    for old in [old for old in column if old > step]:
                        del column[old]
            first, last = False, step
            inner = row.get("data")
            data: Mapping[str, Any] = inner if isinstance(inner, dict) else row
            for key, value in data.items():
                if isinstance(value, int | float) or value is None:
                    values.setdefault(key, {})[step] = _value(value)
    curves = {key: sorted(column.items()) for key, column in values.items() if column}
    return Metrics(curves, resumed)


def _pick(raw: Mapping[str, Curve], metric: Metric) -> Curve:
    names = list(metric.names)
    if metric.reward_key:
        names += [f"{prefix}{metric.reward_key}{end}" for prefix in _PREFIXES for end in ("/mean", "")]
    return next((raw[name] for name in names if raw.get(name)), [])


def grpo_curves(raw: Mapping[str, Curve]) -> dict[str, Curve]:
    """The report's curves from the logger's; those never logged are left out.

    The reward's ``format`` is +1 or -1 (paper, section 3.5): where no ``format_rate`` is logged, the rate is had from
    the mean of ``format``.
    """
    found = {key: curve for key, metric in GRPO.items() if (curve := _pick(raw, metric))}
    if "format" not in found and (signed := _pick(raw, Metric("", reward_key="format"))):
        found["format"] = [(step, None if value is None else (1 + value) / 2) for step, value in signed]
    return found


def sft_curves(path: str | Path) -> dict[str, Curve]:
    """The report's SFT curves from ms-swift's ``logging.jsonl``, or that of the newest run under a folder.

    Raises:
        StarError: there is no such file.
    """
    files = log_files(path, "logging")
    newest = max(files, key=lambda file: file.stat().st_mtime)
    raw = read_metrics([newest]).curves
    return {key: curve for key, metric in SFT.items() if (curve := _pick(raw, metric))}


def finite(curve: Iterable[tuple[float, float | None]]) -> list[tuple[float, float]]:
    """The points that are numbers."""
    return [(s, v) for s, v in curve if v is not None and math.isfinite(v) and math.isfinite(s)]


def mean_of(curve: Curve, count: int) -> float | None:
    """Mean of the first ``count`` values, or of the last ``-count`` when negative; ``None`` where there are none."""
    values = [value for _, value in finite(curve)]
    chosen = values[:count] if count > 0 else values[count:]
    return sum(chosen) / len(chosen) if chosen else None


def window_of(points: int) -> int:
    """Width of the running mean that suits so many points: odd; 1 means none."""
    return 1 if points < 8 else min(51, 2 * (points // 20) + 3)


def smooth(points: Sequence[tuple[float, float]], window: int | None = None) -> list[tuple[float, float]]:
    """Centred running mean; at the ends the window shrinks, on both sides alike, so nothing is shifted. Linear time."""
    half = (window_of(len(points)) if window is None else window) // 2
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    result = []
    for index, (step, _) in enumerate(points):
        reach = min(half, index, len(points) - 1 - index)
        result.append((step, (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)))
    return result


def _label(run: Path, labels: set[str]) -> str:
    name = run.parent.name if run.is_file() else run.name
    name = name or str(run)
    return name if name not in labels else str(run)


_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLES = ("-", "--", "-.", ":")


def plot(
    runs: str | Path | Sequence[str | Path],
    out: str | Path,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Draw the GRPO curves of one run, or of several over each other, into a picture.

    Args:
        runs: folders or ``metrics.jsonl`` files; a run before and after its resume are laid over each other.
        out: the picture; matplotlib takes the format from the suffix (``.png``, ``.svg``, ``.pdf``).
        report: is told of each run that has none of the curves.

    Raises:
        StarError: a run has no log, no run has a curve, the suffix is no picture's, or matplotlib is not installed.
    """
    target = Path(out)
    if target.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise StarError(f"{target} does not name a picture", "end it in .png, .svg or .pdf")
    read: dict[str, tuple[dict[str, Curve], list[float]]] = {}
    for run in [runs] if isinstance(runs, str | Path) else runs:
        metrics = read_metrics(run)
        curves = grpo_curves(metrics.curves)
        if not curves and report is not None:
            report(f"{run}: no curve of GRPO in its log")
        read[_label(Path(run), set(read))] = (curves, metrics.resumed)
    keys = [key for key in GRPO if any(finite(curves.get(key, [])) for curves, _ in read.values())]
    if not keys:
        raise StarError(f"no curve of GRPO in {', '.join(map(str, read)) or 'no run'}", "give a run that has trained")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise StarError(
            "matplotlib is not installed", "pip install matplotlib, or open the run's report.html"
        ) from error

    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(4.4 * columns, 2.9 * rows + 0.5), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for position, key in enumerate(keys):
        metric = GRPO[key]
        axes = figure.add_subplot(rows, columns, position + 1)
        for number, (label, (curves, resumed)) in enumerate(read.items()):
            scale = 100.0 if metric.percent else 1.0
            points = [(step, value * scale) for step, value in finite(curves.get(key, []))]
            colour = _COLOURS[number % len(_COLOURS)]
            axes.plot(
                [step for step, _ in points],
                [value for _, value in points],
                linestyle="none",
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=3,
                color=colour,
                alpha=0.45 if window_of(len(points)) > 1 else 1.0,
            )
            line = smooth(points)
            axes.plot(
                [step for step, _ in line],
                [value for _, value in line],
                _STYLES[number % len(_STYLES)],
                color=colour,
                linewidth=1.6,
                label=label,
            )
            for step in resumed:
                axes.axvline(step - 0.5, color=colour, linewidth=0.8, linestyle=":")
        axes.set_title(metric.title, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylabel(metric.unit, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(True, linewidth=0.4, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = figure.axes[0].get_legend_handles_labels()
    if len(names) > 1 or any(resumed for _, resumed in read.values()):
        title = "dotted upright: resumed" if any(resumed for _, resumed in read.values()) else None
        figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), fontsize=8, title=title)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=150, format=target.suffix[1:].lower())
    return target
