"""GRPO's curves as a picture, for those without W&B: one run, or several over each other."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from star_rl.errors import StarError
from star_rl.files import atomic_path
from star_rl.report.curves import (
    GRPO,
    LOGARITHMIC,
    finite,
    grpo_curves,
    read_metrics,
    smooth,
    success_histogram,
    window_of,
)
from star_rl.report.model import Curve


def _label(run: Path, labels: Collection[str]) -> str:
    """What the legend calls a run: its folder; for the log of one start, the run's folder and the start."""
    parts = [part for part in run.resolve().with_suffix("").parts[1:] if part not in ("attempts", "metrics")]
    for depth in range(2 if run.parent.name == "attempts" else 1, len(parts) + 1):
        name = "/".join(parts[-depth:])
        if name not in labels:
            return name
    return f"{run} ({len(labels) + 1})"


_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLES: tuple[Any, ...] = ("-", "--", "-.", ":")


class Run(NamedTuple):
    """One run as it is drawn: curves by the report's names, steps at which it went on, :func:`success_histogram`."""

    curves: dict[str, Curve]
    resumed: list[float]
    histogram: tuple[list[float], list[list[float]]]


def _draw(axes: Any, key: str, runs: Sequence[Run]) -> None:
    """One curve of all runs: raw points, the running mean, and a dotted upright where a run was resumed."""
    metric = GRPO[key]
    if key in LOGARITHMIC:
        axes.set_yscale("log")
    for number, (curves, resumed, _) in enumerate(runs):
        colour = _COLOURS[number % len(_COLOURS)]
        points = finite(curves.get(key, []))
        if key in LOGARITHMIC:
            points = [(step, value) for step, value in points if value > 0]
            line = [(step, 10**value) for step, value in smooth([(s, math.log10(v)) for s, v in points])]
        else:
            points = [(step, value * (100.0 if metric.percent else 1.0)) for step, value in points]
            line = smooth(points)
        axes.plot(
            [step for step, _ in points],
            [value for _, value in points],
            linestyle="none",
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=3,
            color=colour,
            alpha=0.45 if window_of(len(points)) > 1 else 1.0,
        )
        axes.plot(
            [step for step, _ in line],
            [value for _, value in line],
            linestyle=_STYLES[number % len(_STYLES)],
            color=colour,
            linewidth=1.6,
        )
        for step in resumed:
            axes.axvline(step - 0.5, color=colour, linewidth=0.8, linestyle=":")
    axes.grid(True, linewidth=0.4, alpha=0.5)
    _frame(axes, metric.title, metric.unit)


def _frame(axes: Any, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel(unit, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_histogram(axes: Any, run: Run, title: str) -> None:
    """Successes of the groups, a column a step: the darker, the more groups."""
    steps, shares = run.histogram
    edges = [(left + right) / 2 for left, right in pairwise(steps)]
    first, last = (edges[0], edges[-1]) if edges else (steps[0] - 0.5, steps[0] + 0.5)
    columns = [2 * steps[0] - first, *edges, 2 * steps[-1] - last]
    drawn = axes.pcolormesh(
        columns, [k - 0.5 for k in range(len(shares) + 1)], shares, cmap="Greys", vmin=0.0, vmax=max(map(max, shares))
    )
    bar = axes.figure.colorbar(drawn, ax=axes, format=lambda share, _: f"{100 * share:g} %")
    bar.ax.tick_params(labelsize=7)
    for step in run.resumed:
        axes.axvline(step - 0.5, color=_COLOURS[1], linewidth=0.8, linestyle=":")
    axes.yaxis.get_major_locator().set_params(integer=True)
    _frame(axes, title, "samples that hit")


def plot(runs: str | Path | Sequence[str | Path], out: str | Path) -> Path:
    """Draw the GRPO curves of one run, or of several over each other, into a picture.

    Args:
        runs: folders of runs, or logs: those of two starts lay a run before its resume over the same run after it.
        out: the picture; its suffix (``.png``, ``.svg``, ``.pdf``) is its format.

    Raises:
        StarError: a run has no log or no curve, the suffix is no picture's, or matplotlib is not installed.
    """
    target = Path(out)
    if target.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise StarError(f"{target} does not name a picture", "end it in .png, .svg or .pdf")
    found: dict[str, Run] = {}
    for place in [runs] if isinstance(runs, str | Path) else runs:
        metrics = read_metrics(place)
        curves = grpo_curves(metrics.curves)
        if not any(finite(curve) for curve in curves.values()):
            raise StarError(f"the log of {place} holds no curve of GRPO", "give a run that has trained")
        found[_label(Path(place), found)] = Run(curves, metrics.resumed, success_histogram(metrics.curves))
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError as error:
        raise StarError("matplotlib is not installed", "pip install matplotlib, or open report.html") from error

    keys = [key for key in GRPO if any(finite(run.curves.get(key, [])) for run in found.values())]
    counted = [(label, run) for label, run in found.items() if run.histogram[0]]
    panels = len(keys) + len(counted)
    columns = min(3, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.4 * columns, 2.9 * rows + 0.5), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for position, key in enumerate(keys):
        _draw(figure.add_subplot(rows, columns, position + 1), key, list(found.values()))
    for position, (label, run) in enumerate(counted, len(keys)):
        title = "Successes of a group" + (f": {label}".replace("$", r"\$") if len(found) > 1 else "")
        _draw_histogram(figure.add_subplot(rows, columns, position + 1), run, title)
    handles = [
        Line2D(
            [],
            [],
            color=_COLOURS[number % len(_COLOURS)],
            linestyle=_STYLES[number % len(_STYLES)],
            marker=_MARKERS[number % len(_MARKERS)],
            label=" " + label.replace("$", r"\$"),  # neither hidden (a leading underscore) nor read as mathematics
        )
        for number, label in enumerate(found)
    ]
    if any(run.resumed for run in found.values()):
        handles.append(Line2D([], [], color="black", linewidth=0.8, linestyle=":", label="resumed"))
    if len(handles) > 1:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), fontsize=8)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=150, format=target.suffix[1:].lower())
    return target
