"""Draw every chart with matplotlib: inline SVG for a page, PNG, SVG or PDF for a file.

A chart is drawn once, in the light palette. On a page the palette's colours become the style sheet's variables, so the
same drawing serves light mode, dark mode and paper. matplotlib is imported when the first chart is drawn.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup

from star_rl.files import atomic_path
from star_rl.report.model import clean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, RULE, BACKGROUND = "#1b1f24", "#57606a", "#d0d7de", "#ffffff"
SERIES = ("#0072b2", "#c2500a", "#00805d", "#a3467e", "#6f6300", "#5b4bc4")
#: Colour of a drawing -> variable of the style sheet.
VARIABLES = {INK: "ink", SOFT: "soft", RULE: "rule", BACKGROUND: "bg"} | {one: f"s{k}" for k, one in enumerate(SERIES)}
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
_MARKERS = ("o", "s", "D", "^")
#: Size of a chart in pixels, and the room around its axes: left, right, top, bottom.
WIDTH, HEIGHT, _ROOM = 420, 250, (58, 12, 12, 40)
#: A group with this id gets the rest of it as a tooltip.
TOOLTIP = "tooltip:"
_STYLE = {
    "text.parse_math": False,  # a name may hold dollar signs
    "path.simplify": False,
    "svg.fonttype": "none",
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.borderaxespad": 0.2,
    "legend.fontsize": 11,
}


class Bar(NamedTuple):
    """One line of :func:`interval_chart`; a ``value`` of ``None`` leaves it empty."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    paper: bool = False


class Point(NamedTuple):
    """A point of :func:`xy_chart` with its interval; ``label`` is written beside it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """Points of one kind, joined by a line or not; ``paper`` marks figures that the paper printed."""

    name: str
    points: list[Point] = field(default_factory=list)
    paper: bool = False
    joined: bool = True


@dataclass(slots=True)
class Chart:
    """A figure and what stands around it on the page."""

    name: str  #: unique on the page; it makes the ids
    title: str
    words: str  #: the chart in a sentence, for screen readers
    figure: Figure
    heads: list[str] = field(default_factory=list)  #: of the numbers, which are shown on demand
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""  #: belongs to the numbers
    remark: str = ""  #: a sentence under the figure

    @property
    def svg(self) -> Markup:
        """Return the figure as inline SVG: same input, same text; no style attribute, script or request."""
        out = io.StringIO()
        with drawing(**{"svg.hashsalt": self.name}):
            self.figure.savefig(out, format="svg", metadata={"Date": None})
        root = ElementTree.fromstring(out.getvalue())
        used = {value[1:] for one in root.iter() for key, value in one.items() if key.endswith("}href")}
        for one in list(root.iter()):
            for child in list(one):
                if child.tag.endswith(("}metadata", "}clipPath", "}style")):  # limits hold every point
                    one.remove(child)
            _plain(one, used)
        size = root.get("viewBox", "")
        root.attrib.clear()
        root.attrib |= {"class": "chart", "viewBox": size, "role": "img"}
        root.set("aria-labelledby", f"{self.name}-title {self.name}-desc")
        for place, (tag, text) in enumerate((("title", self.title), ("desc", self.words))):
            words = ElementTree.Element(tag, id=f"{self.name}-{tag}")
            words.text = clean(text)
            root.insert(place, words)
        return Markup(ElementTree.tostring(root, encoding="unicode"))


def _plain(one: ElementTree.Element, used: Collection[str]) -> None:
    """Turn an element's style into attributes, its colours into variables, and drop ids that nothing refers to."""
    attributes = {key.rpartition("}")[2]: value for key, value in one.items()}
    name = attributes.get("id", "")
    if name not in used:
        attributes.pop("id", None)
    style = (part.partition(":") for part in attributes.pop("style", "").split(";") if part.strip())
    attributes |= {key.strip(): value.strip() for key, _, value in style if key.strip() != "font-family"}
    attributes.pop("clip-path", None)
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    for key, value in attributes.items():
        if value in VARIABLES:
            attributes[key] = f"var(--{VARIABLES[value]})"
        elif key in ("d", "x", "y", "transform"):
            attributes[key] = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.1f}", " ".join(value.split()))
    one.tag = one.tag.rpartition("}")[2]
    one.attrib.clear()
    one.attrib.update(attributes)
    if one.tag != "text":
        one.text = None
    one.tail = None
    if name.startswith(TOOLTIP):
        title = ElementTree.SubElement(one, "title")
        title.text = name.removeprefix(TOOLTIP)


@contextlib.contextmanager
def drawing(**more: Any) -> Iterator[None]:
    """Hold our style, without warnings of letters that the font lacks: the page's font is the reader's."""
    import matplotlib

    with matplotlib.rc_context({**_STYLE, **more}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def save(figure: Figure, target: Path) -> Path:
    """Write a figure on white, as its path's suffix says: ``.png``, ``.svg`` or ``.pdf``. Same figure, same bytes."""
    kind = target.suffix[1:].lower()
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with drawing(**{"svg.hashsalt": "chart"}), atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=150, format=kind, facecolor="white", metadata=undated)
    return target


def number(value: float) -> str:
    """Return a number as an axis shows it: short, with a power of ten where it is very small or large."""
    if value == 0 or abs(value) < 1e-300:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.4g}" if size < 1000 else f"{value:,.0f}"


def usable(*values: float | None) -> bool:
    """Return whether all are finite and small enough for an axis's arithmetic."""
    return all(value is not None and math.isfinite(value) and abs(value) < 1e150 for value in values)


def shortened(name: str, letters: int) -> str:
    name = clean(name)
    return name if len(name) <= letters else name[: letters - 1] + "\u2026"


def canvas(width: int = WIDTH, height: int = HEIGHT, left: int = _ROOM[0], more: int = 0) -> tuple[Figure, Any]:
    """Return a figure of this size in pixels, ``more`` for a legend below, and its axes."""
    from matplotlib.figure import Figure

    _, right, top, bottom = _ROOM
    figure = Figure((width / 72, (height + more) / 72), dpi=72, facecolor="none")
    size = (1 - (left + right) / width, 1 - (top + bottom + more) / (height + more))
    return figure, figure.add_axes((left / width, (bottom + more) / (height + more), *size), facecolor="none")


def scale(axis: Any, log: bool, integer: bool = False) -> None:
    """Set a plain or logarithmic scale with few round marks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if log:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        low, high = sorted(axis.get_view_interval())
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1e4 * low else (1.0,)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], integer=integer))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def empty(axes: Any) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, "no values recorded", ha="center", color=SOFT, transform=axes.transAxes)


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int) -> None:
    shown = [f" {shortened(label, 50)}" for label in labels]  # a leading underscore would hide it
    figure.legend(handles, shown, loc="lower left", ncols=columns, bbox_to_anchor=(0.02, 0))


def columns_of(labels: Sequence[str]) -> int:
    """Return how many labels fit beside each other under a chart."""
    return max(1, min(len(labels), WIDTH // (48 + 7 * min(50, max(map(len, labels), default=1)))))


def interval_chart(
    name: str, title: str, bars: Sequence[Bar], unit: str, bounds: tuple[float, float] | None = None, width: int = WIDTH
) -> Chart:
    """Draw a line for each bar: a mark at its value and its interval; zero is marked if values lie below it.

    Args:
        unit: of the horizontal axis.
        bounds: the axis reaches at least so far.
    """
    room, letters = (150, 20) if width >= WIDTH else (110, 15)
    kept = [(place, bar) for place, bar in enumerate(bars) if usable(bar.value)]
    words = "; ".join(
        f"{bar.name}: {number(bar.value or 0.0)}"
        + (f" [{number(bar.low or 0.0)}, {number(bar.high or 0.0)}]" if usable(bar.low, bar.high) else "")
        for _, bar in kept
    )
    with drawing():
        figure, axes = canvas(width, 12 + 20 * max(2, len(bars)) + 44, room)
        for place, bar in kept:
            _mark(axes, [Point(bar.value or 0.0, place, bar.low, bar.high)], 0, bar.paper, "x")
        if not kept:
            empty(axes)
            return Chart(name, title, "no values", figure)
        axes.set_ylim(len(bars) - 0.25, -0.75)
        axes.set_yticks(range(len(bars)), [shortened(bar.name, letters) for bar in bars], fontsize=11.5)
        for label, bar in zip(axes.get_yticklabels(), bars, strict=True):
            label.set_gid(TOOLTIP + clean(bar.name))
            if bar.paper:
                label.set(color=SOFT, style="italic")
        axes.update_datalim([(end, 0) for end in bounds or ()])
        axes.margins(x=0.03)
        axes.autoscale_view(scaley=False)
        if axes.dataLim.x0 == 0:
            axes.set_xlim(left=0)
        axes.grid(axis="x")
        scale(axes.xaxis, False)
        if axes.dataLim.x0 < 0 <= axes.dataLim.x1:
            axes.axvline(0, color=INK, linewidth=1.2)
        axes.set_xlabel(unit)
    return Chart(name, title, f"{words} {unit}", figure)


def _mark(
    axes: Any, points: Sequence[Point], index: int, paper: bool, along: str, line: Any = "none", shift: float = 0.0
) -> Any:
    """Draw marks with intervals along an axis; the paper's are hollow and dimmed, so nobody takes them for ours."""
    from matplotlib.transforms import ScaledTranslation

    colour = SOFT if paper else SERIES[index % len(SERIES)]
    ends: list[Any] = [(p.low, p.high) if usable(p.low, p.high) else (math.nan, math.nan) for p in points]
    value = [point.x if along == "x" else point.y for point in points]
    errors = [
        [max(0.0, sign * (end[k] - v)) for v, end in zip(value, ends, strict=True)] for k, sign in ((0, -1), (1, 1))
    ]
    for point, own in zip(points, ends, strict=True):
        places = [end for end in own if usable(end)]
        axes.update_datalim([point[:2], *((end, point.y) if along == "x" else (point.x, end) for end in places)])
    return axes.errorbar(
        [point.x for point in points],
        [point.y for point in points],
        **{f"{along}err": errors},
        color=colour,
        marker=_MARKERS[2 if paper else index % len(_MARKERS)],
        markersize=8,
        markerfacecolor=BACKGROUND if paper else colour,
        linestyle=line,
        linewidth=2,
        elinewidth=1.6,
        transform=axes.transData + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans),
    )


def xy_chart(
    name: str,
    title: str,
    traces: Sequence[Trace],
    x_label: str,
    y_label: str,
    log: bool = False,
    places: Sequence[float] = (),
) -> Chart:
    """Draw traces of points with their intervals; the vertical axis is plain.

    Args:
        log: a logarithmic horizontal axis; points at or below zero are left out.
        places: marks of the horizontal axis, instead of round numbers.
    """
    kept = [[p for p in one.points if usable(p.x, p.y) and (p.x > 0 or not log)] for one in traces]
    words = "; ".join(
        f"{one.name}: " + ", ".join(f"{number(point.y)} at {number(point.x)}" for point in points)
        for one, points in zip(traces, kept, strict=True)
        if points
    )
    names = [one.name for one in traces]
    columns = columns_of(names)
    beside = [index for index, one in enumerate(traces) if one.joined and not one.paper]
    with drawing():
        figure, axes = canvas(more=17 * -(-len(traces) // columns))
        if not any(kept):
            empty(axes)
            return Chart(name, title, "no values", figure)
        axes.margins(0.06, 0.08)
        handles = []
        for index, (one, points) in enumerate(zip(traces, kept, strict=True)):
            # whiskers of joined traces stand beside each other
            shift = 4.0 * (beside.index(index) - (len(beside) - 1) / 2) if index in beside else 0.0
            line = "none" if not one.joined else (0, (2, 2)) if one.paper else DASHES[index % len(DASHES)]
            handles.append(_mark(axes, points, index, one.paper, "y", line, shift))
        axes.autoscale_view()
        scale(axes.xaxis, log)
        scale(axes.yaxis, False)
        if places:
            axes.set_xticks(places)
        axes.grid(axis="y")
        axes.set(xlabel=x_label + (" (log)" if log else ""), ylabel=y_label)
        _label(axes, [(point, one.paper) for one, own in zip(traces, kept, strict=True) for point in own])
        legend(figure, handles, names, columns)
    return Chart(name, title, f"{words}; {y_label} by {x_label}", figure)


def _label(axes: Any, points: Sequence[tuple[Point, bool]]) -> None:
    """Write names beside their points, towards the middle; a name that would lie on another moves down."""
    _ = axes.get_xlim(), axes.get_ylim()  # brings the limits up to date
    taken: list[tuple[float, float, float]] = []
    for point, paper in sorted(points, key=lambda entry: -entry[0].y):
        if not point.label:
            continue
        x, y = axes.transData.transform((point.x, point.y))
        right, place = x > axes.bbox.x0 + axes.bbox.width / 2, y + 6
        start, end = (x - 9 - 7 * len(point.label), x) if right else (x, x + 9 + 7 * len(point.label))
        while any(abs(place - other) < 13 and a < end and start < b for other, a, b in taken):
            place -= 13
        taken.append((place, start, end))
        axes.annotate(
            shortened(point.label, 40),
            (point.x, point.y),
            (-9 if right else 9, place - y),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=11.5,
            color=SOFT if paper else INK,
            style="italic" if paper else "normal",
        )
