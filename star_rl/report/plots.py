"""Charts of an evaluation as inline SVG: methods with their intervals on lines, and points against a quantity.

Drawn like the curves (:mod:`star_rl.report.figure`): classes for colours, no script. What the paper printed is of the
class ``paper``, dimmed, and its marks are hollow, so it cannot be taken for a measurement of ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from markupsafe import Markup

from star_rl.report.figure import HEIGHT, RIGHT, TOP, WIDTH, Frame, log_marks, marks, number, opening

#: Pixels of a line of :func:`interval_chart`, and characters of a name beside it.
_LINE, _NAME, _ROOM = 20, 20, 150
_MARK = 4.0


class Bar(NamedTuple):
    """One line of :func:`interval_chart`; a ``value`` of ``None`` leaves it empty."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    paper: bool = False


class Point(NamedTuple):
    """A point of :func:`xy_chart`, with its interval; ``label`` is written beside it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """Points of one kind, joined by a line or not."""

    name: str
    points: list[Point] = field(default_factory=list)
    paper: bool = False
    joined: bool = True


def _shape(kind: int, x: float, y: float) -> str:
    """The outline of a mark: circle, square, diamond or triangle."""
    r, d = _MARK, 1.3 * _MARK
    match kind % 4:
        case 0:
            return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
        case 1:
            return f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z"
        case 2:
            return f"M{x:.1f} {y - d:.1f}l{d} {d}l{-d} {d}l{-d} {-d}z"
    return f"M{x:.1f} {y - d:.1f}l{d} {2.3 * r:.1f}h{-2 * d}z"


def _class(index: int, paper: bool) -> str:
    return "paper" if paper else f"s{index % 4}"


def _mark(index: int, paper: bool, x: float, y: float) -> Markup:
    return Markup('<path class="mark {}" d="{}"/>').format(_class(index, paper), _shape(index, x, y))


def swatch(index: int, paper: bool = False, joined: bool = True) -> Markup:
    """A legend's sample of a trace."""
    line = Markup('<path class="line {}" d="M1 5H29"/>').format(_class(index, paper)) if joined else Markup("")
    return (
        Markup('<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true">')
        + line
        + _mark(index, paper, 15, 5)
        + Markup("</svg>")
    )


def _usable(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) and abs(value) < 1e150 for value in values)


def _short(name: str, letters: int) -> str:
    return name if len(name) <= letters else name[: letters - 1] + "\u2026"


def interval_chart(
    name: str,
    title: str,
    bars: Sequence[Bar],
    unit: str,
    bounds: tuple[float, float] | None = None,
    width: int = WIDTH,
) -> Markup:
    """A line for each bar: a mark at its value and the whiskers of its interval; zero is marked where it lies inside.

    Args:
        name: unique on the page; it makes the ids.
        unit: of the horizontal axis.
        bounds: the axis reaches at least so far.
        width: of the picture; a narrow one has less room for names.
    """
    narrow = width < WIDTH
    room, letters = (_ROOM - 40, _NAME - 5) if narrow else (_ROOM, _NAME)
    shown = [bar for bar in bars if bar.value is not None and _usable(bar.value)]
    words = "; ".join(
        f"{bar.name}: {number(bar.value or 0.0)}"
        + (f" [{number(bar.low or 0.0)}, {number(bar.high or 0.0)}]" if _usable(bar.low, bar.high) else "")
        for bar in shown
    )
    height = TOP + _LINE * max(2, len(bars)) + 44
    head = opening(name, title, f"{words} {unit}" if words else "no values", width, height)
    if not shown:
        middle = Markup('<text class="empty" x="{}" y="{}" text-anchor="middle">no values recorded</text></svg>')
        return head + middle.format(width // 2, height // 2)
    ends = [end for bar in shown for end in (bar.value, bar.low, bar.high) if end is not None and _usable(end)]
    low, high = min((*ends, *(bounds or ()))), max((*ends, *(bounds or ())))
    pad = 0.03 * (high - low) or abs(high) * 0.1 or 1.0
    frame = Frame((low - (0 if low == 0 else pad), high + pad), (len(bars) - 0.25, -0.75), width, height, room)
    places = marks(*frame.x)
    out = [head]
    for value, _ in places:
        upright = "zero" if value == 0 and low < 0 else "grid"
        line = Markup('<path class="{}" d="M{:.1f} {}V{}"/>')
        out.append(line.format(upright, frame.px(value), TOP, height - frame.bottom))
    out.append(frame.axes(unit, "", places, ()))
    for place, bar in enumerate(bars):
        y, kind = frame.py(place), " paper" if bar.paper else ""
        out.append(
            Markup('<text class="name{}" x="{}" y="{:.1f}" text-anchor="end">{}<title>{}</title></text>').format(
                kind, room - 8, y + 4, _short(bar.name, letters), bar.name
            )
        )
        if bar.value is None or not _usable(bar.value):
            continue
        if bar.low is not None and bar.high is not None and _usable(bar.low, bar.high):
            out.append(
                Markup('<path class="whisker {}" d="M{:.1f} {:.1f}H{:.1f}"/>').format(
                    _class(0, bar.paper), frame.px(bar.low), y, frame.px(bar.high)
                )
            )
        out.append(_mark(2 if bar.paper else 0, bar.paper, frame.px(bar.value), y))
    out.append(Markup("</svg>"))
    return Markup("").join(out)


def xy_chart(
    name: str,
    title: str,
    traces: Sequence[Trace],
    x_label: str,
    y_label: str,
    log: bool = False,
    places: Sequence[float] = (),
) -> Markup:
    """Traces of points with their intervals; the vertical axis is plain.

    Args:
        name: unique on the page; it makes the ids.
        log: a logarithmic horizontal axis; points at or below zero are left out.
        places: where the horizontal axis is marked, instead of at round numbers.
    """
    kept = []
    for one in traces:
        points = [point for point in one.points if _usable(point.x, point.y) and (point.x > 0 or not log)]
        kept.append([point._replace(x=math.log10(point.x)) for point in points] if log else points)
    words = "; ".join(
        f"{one.name}: "
        + ", ".join(f"{number(point.y)} at {number(10**point.x if log else point.x)}" for point in points)
        for one, points in zip(traces, kept, strict=True)
        if points
    )
    head = opening(name, title, f"{words}; {y_label} by {x_label}" if words else "no values")
    every = [point for points in kept for point in points]
    if not every:
        middle = Markup('<text class="empty" x="{}" y="{}" text-anchor="middle">no values recorded</text></svg>')
        return head + middle.format(WIDTH // 2, HEIGHT // 2)
    xs = [point.x for point in every]
    ys = [end for point in every for end in (point.y, point.low, point.high) if end is not None and _usable(end)]
    pad_x, pad_y = 0.06 * (max(xs) - min(xs)) or 0.5, 0.08 * (max(ys) - min(ys)) or 1.0
    frame = Frame((min(xs) - pad_x, max(xs) + pad_x), (min(ys) - pad_y, max(ys) + pad_y))
    x_marks = (log_marks if log else marks)(*frame.x)
    if places:
        x_marks = [(math.log10(place) if log else place, number(place)) for place in places]
    beside = [index for index, one in enumerate(traces) if one.joined and not one.paper]
    out = [head, frame.axes(x_label + (" (log)" if log else ""), y_label, x_marks, marks(*frame.y))]
    for index, (one, points) in enumerate(zip(traces, kept, strict=True)):
        kind = _class(index, one.paper)
        shift = (
            4.0 * (beside.index(index) - (len(beside) - 1) / 2) if index in beside else 0.0
        )  # whiskers beside another
        if one.joined and len(points) > 1:
            path = "M" + "L".join(f"{frame.px(point.x) + shift:.1f} {frame.py(point.y):.1f}" for point in points)
            out.append(Markup('<path class="line {}" d="{}"/>').format(kind, path))
        for point in points:
            if point.low is not None and point.high is not None and _usable(point.low, point.high):
                out.append(
                    Markup('<path class="whisker {}" d="M{:.1f} {:.1f}V{:.1f}"/>').format(
                        kind, frame.px(point.x) + shift, frame.py(point.low), frame.py(point.high)
                    )
                )
            out.append(_mark(index, one.paper, frame.px(point.x) + shift, frame.py(point.y)))
    out += _labels(frame, [(point, one.paper) for one, own in zip(traces, kept, strict=True) for point in own])
    out.append(Markup("</svg>"))
    return Markup("").join(out)


def _labels(frame: Frame, points: Sequence[tuple[Point, bool]]) -> list[Markup]:
    """Names beside their points, towards the middle; one that would lie on another moves down."""
    out, taken = [], list[tuple[float, bool]]()
    for point, paper in sorted(points, key=lambda entry: -entry[0].y):
        if not point.label:
            continue
        x, y = frame.px(point.x), frame.py(point.y) - 6
        right = x > (frame.left + frame.width - RIGHT) / 2
        while any(abs(y - other) < 13 and side == right for other, side in taken):
            y += 13
        taken.append((y, right))
        out.append(
            Markup('<text class="name{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
                " paper" if paper else "", x - 9 if right else x + 9, y, "end" if right else "start", point.label
            )
        )
    return out
