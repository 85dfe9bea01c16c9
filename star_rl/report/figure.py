"""Line charts and interval bars as inline SVG, of our own making: no script, no font, no request.

Colours come from the page's style sheet by class (``s0`` to ``s3``): dark mode and print need no second drawing.
Series differ by dash pattern and by the legend's words too, never by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from star_rl.report.curves import finite, smooth, window_of
from star_rl.report.model import Curve

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 40


#: Larger values would overflow the arithmetic of an axis.
_DRAWABLE = 1e150
#: From so many points on they are drawn smaller.
_MANY = 150


@dataclass(frozen=True, slots=True)
class Series:
    """One line: what the legend calls it, and its points in the unit of the axis."""

    name: str
    curve: Curve


def ticks(low: float, high: float, least: int = 3) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) from ``low`` to ``high``, ``least`` intervals or somewhat more."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return []
    if high <= low:
        return [low]
    widest = (high - low) / least
    if not 1e-300 < widest < 1e300:
        return [low, high]
    base = 10.0 ** math.floor(math.log10(widest))
    step = next(base * factor for factor in (5, 2, 1) if base * factor <= widest * 1.001 or factor == 1)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float) -> str:
    """A number as an axis shows it: short, no trailing zeros, powers of ten where it is very small or large."""
    if value == 0 or abs(value) < 1e-300:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.4g}" if size < 1000 else f"{value:,.0f}"


def _span(values: Sequence[float], bounds: tuple[float, float] | None) -> tuple[float, float]:
    low, high = min(values), max(values)
    if bounds is not None:
        return min(low, bounds[0]), max(high, bounds[1])
    if low == high:
        pad = abs(low) * 0.1 or 1.0
        return low - pad, high + pad
    pad = (high - low) * 0.06
    return (0.0 if 0 <= low < (high - low) * 0.5 else low - pad), high + pad


def describe(series: Sequence[Series], unit: str) -> str:
    """The chart in a sentence, for those who hear it."""
    parts = []
    for one in series:
        points = finite(one.curve)
        if points:
            (s0, v0), (s1, v1) = points[0], points[-1]
            values = [value for _, value in points]
            low, high = number(min(values)), number(max(values))
            parts.append(
                f"{one.name}: {len(points)} points, {number(v0)} at step {number(s0)}, "
                f"{number(v1)} at step {number(s1)}, lowest {low}, highest {high} {unit}".rstrip()
            )
    return "; ".join(parts) or "no values"


@dataclass(frozen=True, slots=True)
class Frame:
    """The box of a chart: what its axes run over, and where a value lies in it.

    Attributes:
        x, y: lowest and highest value of each axis; logarithms where an axis is logarithmic.
        width, height: of the picture.
        left, bottom: room for labels.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    bottom: int = BOTTOM

    def px(self, value: float) -> float:
        low, high = self.x
        return self.left + 4 + (value - low) / (high - low) * (self.width - self.left - RIGHT - 8)

    def py(self, value: float) -> float:
        low, high = self.y
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - TOP - self.bottom)

    def axes(
        self, x_label: str, y_label: str, x_marks: Sequence[tuple[float, str]], y_marks: Sequence[tuple[float, str]]
    ) -> Markup:
        """Grid, ticks, both axes and their labels; a mark is a place on the axis and what stands there."""
        floor, right = self.height - self.bottom, self.width - RIGHT
        out = []
        for value, shown in y_marks:
            y = self.py(value)
            out.append(
                Markup(
                    '<path class="grid" d="M{} {:.1f}H{}"/>'
                    '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
                ).format(self.left, y, right, self.left - 6, y + 4, shown)
            )
        for value, shown in x_marks:
            x = self.px(value)
            out.append(
                Markup(
                    '<path class="axis" d="M{:.1f} {}v4"/>'
                    '<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>'
                ).format(x, floor, x, floor + 17, shown)
            )
        out.append(Markup('<path class="axis" d="M{} {}V{}H{}"/>').format(self.left, TOP, floor, right))
        out.append(
            Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                (self.left + right) // 2, self.height - 5, x_label
            )
        )
        if y_label:
            out.append(
                Markup(
                    '<text class="label" transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>'
                ).format((TOP + floor) // 2, y_label)
            )
        return Markup("").join(out)


def opening(name: str, title: str, words: str, width: int = WIDTH, height: int = HEIGHT) -> Markup:
    """The start of a picture that has a name and a sentence for those who hear it; ``name`` makes its ids."""
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-title {}-desc">'
        '<title id="{}-title">{}</title><desc id="{}-desc">{}</desc>'
    ).format(width, height, name, name, name, title, name, words)


def log_marks(low: float, high: float) -> list[tuple[float, str]]:
    """Marks of a logarithmic axis between two powers of ten, given as exponents."""
    first, last = math.floor(low), math.ceil(high)
    factors = (1.0,) if last - first > 4 else (1.0, 2.0, 5.0)
    places = [power + math.log10(factor) for power in range(first, last + 1) for factor in factors]
    return [(place, number(10**place)) for place in places if low <= place <= high]


def marks(low: float, high: float) -> list[tuple[float, str]]:
    """Marks of a plain axis."""
    return [(tick, number(tick)) for tick in ticks(low, high) if low - 1e-12 <= tick <= high + 1e-12]


def line_chart(
    name: str,
    title: str,
    series: Sequence[Series],
    unit: str = "",
    bounds: tuple[float, float] | None = None,
    log: bool = False,
    resumed: Sequence[float] = (),
) -> Markup:
    """Raw points, and over eight of them a running mean, against steps.

    Args:
        name: unique on the page; it makes the ids.
        series: at most four; values that are no numbers are left out.
        unit: of the vertical axis.
        bounds: the axis reaches at least so far.
        log: a logarithmic axis; values at or below zero are left out.
        resumed: steps before which a dotted upright stands: the run went on there.
    """
    lines = []
    for one in series:
        points = [(step, value) for step, value in finite(one.curve) if abs(value) < _DRAWABLE]
        if log:
            points = [(step, math.log10(value)) for step, value in points if value > 0]
        lines.append(points)
    present = [points for points in lines if points]
    head = opening(name, title, describe(series, unit))
    if not present:
        return head + Markup(
            '<text class="empty" x="{}" y="{}" text-anchor="middle">no values recorded</text></svg>'
        ).format(WIDTH // 2, HEIGHT // 2)
    steps = [step for points in present for step, _ in points]
    x0, x1 = min(steps), max(steps)
    if x0 == x1:
        x0, x1 = x0 - 1, x1 + 1
    frame = Frame((x0, x1), _span([value for points in present for _, value in points], bounds))
    px, py = frame.px, frame.py

    def path(points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{px(step):.1f} {py(value):.1f}" for step, value in points)

    out = [
        head,
        frame.axes(
            "step",
            unit + (" (log)" if log and unit else ""),
            [(tick, number(tick)) for tick in ticks(x0, x1) if tick == round(tick)],
            (log_marks if log else marks)(*frame.y),
        ),
    ]
    for step in resumed:
        if x0 <= step <= x1:
            upright = Markup('<path class="resumed" d="M{:.1f} {}V{}"><title>resumed at step {}</title></path>')
            out.append(upright.format(max(px(step - 0.5), LEFT), TOP, HEIGHT - BOTTOM, number(step)))
    for index, points in enumerate(lines):
        if points:
            kind = " many" if len(points) > _MANY else " faint" if window_of(len(points)) > 1 else ""
            dots = "".join(f"M{px(step):.1f} {py(value):.1f}h0" for step, value in points)
            out.append(Markup('<path class="dots s{}{}" d="{}"/>').format(index % 4, kind, dots))
    for index, points in enumerate(lines):  # above every point
        if len(points) > 1:
            out.append(Markup('<path class="line s{}" d="{}"/>').format(index % 4, path(smooth(points))))
    out.append(Markup("</svg>"))
    return Markup("").join(out)


def swatch(index: int) -> Markup:
    """A legend's sample of a line."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true"><path class="line s{}" d="M1 5H29"/></svg>'
    ).format(index % 4)


def interval_bar(value: float | None, low: float | None, high: float | None, top: float = 100.0) -> Markup:
    """A bar from zero to ``value`` with the whiskers of its interval; the cell beside it holds the numbers."""
    if value is None or not math.isfinite(value):
        return Markup("")

    def px(number: float) -> float:
        return 2 + max(0.0, min(1.0, number / top)) * 136

    out = Markup(
        '<svg class="bar" viewBox="0 0 140 16" aria-hidden="true">'
        '<rect class="track" x="2" y="4" width="136" height="8"/><path class="axis" d="M2 1V15"/>'
        '<rect class="fill" x="2" y="4" width="{:.1f}" height="8"/>'
    ).format(px(value) - 2)
    if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
        a, b = px(low), px(high)
        out += Markup('<path class="whisker" d="M{:.1f} 8H{:.1f}M{:.1f} 4V12M{:.1f} 4V12"/>').format(a, b, a, b)
    return out + Markup("</svg>")
