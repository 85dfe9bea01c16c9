"""Draw training curves: one chart of the page, or every GRPO curve of one or several runs into a file."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from star_rl.errors import StarError
from star_rl.report.charts import (
    DASHES,
    SERIES,
    SOFT,
    TOOLTIP,
    Chart,
    canvas,
    columns_of,
    drawing,
    empty,
    legend,
    number,
    save,
    scale,
    usable,
)
from star_rl.report.curves import (
    GRPO,
    LOGARITHMIC,
    Metrics,
    finite,
    grpo_curves,
    read_metrics,
    smooth,
    success_histogram,
    window_of,
)
from star_rl.report.grid import DASH
from star_rl.report.model import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Rows of the table under a chart; longer curves are thinned evenly (report.json holds every point).
_ROWS = 40


def drawn(curve: Curve, percent: bool = False, log: bool = False) -> list[tuple[float, float]]:
    """Return the points that an axis can show: finite, above zero if it is logarithmic, shares in percent."""
    points = [(step, value * (100.0 if percent else 1.0)) for step, value in finite(curve)]
    return [(step, value) for step, value in points if usable(value) and (value > 0 or not log)]


def _curve(axes: Any, points: Sequence[tuple[float, float]], index: int, log: bool) -> Any:
    """Draw the points as one path of dots, and from eight points on their running mean over them."""
    colour, dashes = SERIES[index % len(SERIES)], DASHES[index % len(DASHES)]
    tiny = 1e-4 * (points[-1][0] - points[0][0] or 1.0)  # a round cap makes a dot of it
    flat = [
        (x, value) for step, value in points for x, value in ((step, value), (step + tiny, value), (step, math.nan))
    ]
    many, faint = len(points) > 150, window_of(len(points)) > 1
    axes.plot(
        *zip(*flat, strict=True),
        color=colour,
        linewidth=2.5 if many else 4.5,
        alpha=0.3 if many else 0.4 if faint else None,
        solid_capstyle="round",
        snap=False,
    )
    line = smooth([(step, math.log10(value) if log else value) for step, value in points])
    xs, ys = [step for step, _ in line], [10**value if log else value for _, value in line]
    return axes.plot(xs, ys, color=colour, linestyle=dashes, linewidth=2, zorder=3)[0]


def _resumes(axes: Any, steps: Sequence[float], colour: str = SOFT) -> None:
    low, high = axes.dataLim.intervalx
    for step in steps:
        if low <= step <= high:
            tooltip = f"{TOOLTIP}resumed at step {number(step)}"
            axes.axvline(step - 0.5, color=colour, linewidth=1, linestyle=":", gid=tooltip)


def _finish(axes: Any, unit: str, log: bool, percent: bool = False) -> None:
    """Set scales and labels of an axes whose curves are drawn."""
    low, high = axes.dataLim.intervaly
    axes.margins(x=0.015, y=0.06)
    scale(axes.yaxis, log)
    scale(axes.xaxis, False, integer=True)
    if percent:
        axes.set_ylim(min(low, 0.0), max(high, 100.0))
    elif not log and 0 <= low < (high - low) * 0.5:
        axes.set_ylim(bottom=0.0)
    axes.grid(axis="y")
    axes.set(xlabel="step", ylabel=unit)


def line_chart(
    name: str,
    title: str,
    series: Mapping[str, Curve],
    unit: str = "",
    percent: bool = False,
    log: bool = False,
    resumed: Sequence[float] = (),
) -> Chart:
    """Draw curves over steps: points, running means, and a dotted upright where the run was resumed.

    Args:
        series: label -> curve; values that no axis can show are left out.
        percent: the curves are shares; the axis reaches from 0 to 100 at least.
    """
    points = {label: drawn(curve, percent, log) for label, curve in series.items()}
    with drawing():
        columns = columns_of(list(series))
        figure, axes = canvas(more=17 * -(-len(series) // columns) if len(series) > 1 else 0)
        lines = {label: _curve(axes, own, k, log) for k, (label, own) in enumerate(points.items()) if own}
        if lines:
            _resumes(axes, resumed)
            _finish(axes, unit + (" (log)" if log and unit else ""), log, percent)
        else:
            empty(axes)
        if len(series) > 1 and lines:
            legend(figure, list(lines.values()), list(lines), columns)
    every = {label: dict(drawn(curve, percent)) for label, curve in series.items()}
    steps = sorted({step for own in every.values() for step in own})
    shown = steps if len(steps) <= _ROWS else [steps[round(i * (len(steps) - 1) / (_ROWS - 1))] for i in range(_ROWS)]
    rows = [[number(step), *(number(own[step]) if step in own else DASH for own in every.values())] for step in shown]
    note = f"{_ROWS} of {len(steps)} steps" if len(shown) < len(steps) else ""
    return Chart(name, title, _described(every, unit), figure, ["step", *series], rows, note)


def _described(series: Mapping[str, Mapping[float, float]], unit: str) -> str:
    parts = []
    for label, points in series.items():
        if points:
            ends = ", ".join(f"{number(points[step])} at step {number(step)}" for step in (min(points), max(points)))
            low, high = number(min(points.values())), number(max(points.values()))
            parts.append(f"{label}: {len(points)} points, {ends}, lowest {low}, highest {high} {unit}".rstrip())
    return "; ".join(parts) or "no values"


def plot(runs: str | Path | Sequence[str | Path], out: str | Path) -> Path:
    """Draw the GRPO curves of one run, or of several over each other, into a file.

    Args:
        runs: folders of runs, or logs: the logs of two starts show a run before and after its resume.
        out: the picture; its suffix (``.png``, ``.svg``, ``.pdf``) is its format.

    Raises:
        StarError: a run has no log or no curve, or the suffix is no picture's.
    """
    target = Path(out)
    if target.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise StarError(f"{target} does not name a picture", "end it in .png, .svg or .pdf")
    logs: dict[str, Metrics] = {}
    for place in [runs] if isinstance(runs, str | Path) else runs:
        metrics = read_metrics(place)
        if not any(finite(curve) for curve in grpo_curves(metrics.curves).values()):
            raise StarError(f"the log of {place} holds no curve of GRPO", "give a run that has trained")
        logs[_named(Path(place), logs)] = metrics
    with drawing():
        return save(picture(logs), target)


def _named(run: Path, known: Collection[str]) -> str:
    """Return what the legend calls a run: its folder; for the log of one start, the run's folder and the start."""
    parts = [part for part in run.resolve().with_suffix("").parts[1:] if part not in ("attempts", "metrics")]
    for depth in range(2 if run.parent.name == "attempts" else 1, len(parts) + 1):
        name = "/".join(parts[-depth:])
        if name not in known:
            return name
    return f"{run} ({len(known) + 1})"


def picture(logs: Mapping[str, Metrics]) -> Figure:
    """Draw a panel for each curve, and one for each run that counted the successes of its groups."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    runs = [grpo_curves(log.curves) for log in logs.values()]
    keys = [key for key in GRPO if any(finite(own.get(key, [])) for own in runs)]
    histograms = {label: success_histogram(log.curves) for label, log in logs.items()}
    counted = [label for label, (steps, _) in histograms.items() if steps]
    columns = min(3, len(keys) + len(counted))
    rows = -(-(len(keys) + len(counted)) // columns)
    figure = Figure((5.8 * columns, 3.7 * rows + 0.6), layout="constrained")
    handles: dict[str, Any] = {}
    for position, key in enumerate(keys):
        axes = figure.add_subplot(rows, columns, position + 1)
        metric, log = GRPO[key], key in LOGARITHMIC
        for index, (label, own) in enumerate(zip(logs, runs, strict=True)):
            if points := drawn(own.get(key, []), metric.percent, log):
                handles.setdefault(label, _curve(axes, points, index, log))
        for index, run in enumerate(logs.values()):  # once all limits are known
            _resumes(axes, run.resumed, SERIES[index % len(SERIES)])
        if handles and math.isfinite(axes.dataLim.width):
            _finish(axes, metric.unit, log)
        axes.set_title(metric.title, loc="left")
    for position, label in enumerate(counted, len(keys) + 1):
        axes = figure.add_subplot(rows, columns, position)
        _histogram(axes, *histograms[label])
        _resumes(axes, logs[label].resumed, SERIES[1])
        axes.set_title("Successes of a group" + (f": {label}" if len(logs) > 1 else ""), loc="left")
    if any(log.resumed for log in logs.values()):
        handles["resumed"] = Line2D([], [], color=SOFT, linewidth=1, linestyle=":")
    if len(handles) > 1:
        labels = [f" {label}" for label in handles]  # a leading underscore would hide it
        figure.legend(list(handles.values()), labels, loc="outside lower center", ncols=min(4, len(handles)))
    return figure


def _histogram(axes: Any, steps: Sequence[float], shares: Sequence[Sequence[float]]) -> None:
    """Draw the successes of the groups, a column a step: the darker, the more groups."""
    edges = [(left + right) / 2 for left, right in pairwise(steps)]
    first, last = (edges[0], edges[-1]) if edges else (steps[0] - 0.5, steps[0] + 0.5)
    columns = [2 * steps[0] - first, *edges, 2 * steps[-1] - last]
    counts = [count - 0.5 for count in range(len(shares) + 1)]
    drawn = axes.pcolormesh(columns, counts, shares, cmap="Greys", vmin=0.0, vmax=max(map(max, shares)))
    axes.figure.colorbar(drawn, ax=axes, format=lambda share, _: f"{100 * share:g} %")
    scale(axes.xaxis, False, integer=True)
    scale(axes.yaxis, False, integer=True)
    axes.set(xlabel="step", ylabel="samples that hit")
