"""Charts of intervals and of points: values that no axis can show are left out, the paper's part is dimmed."""

import itertools
import math
import re
from pathlib import Path

import pytest

from star_rl.report import charts
from star_rl.report.charts import Bar, Point, Trace, interval_chart, number, xy_chart

ODD = [math.nan, math.inf, -math.inf, 1e300]
STYLE = Path(charts.__file__).parent / "templates" / "page.css"


def marks(chart):
    """Return (points, points with an interval, hollow points) of each trace's errorbar."""
    found = []
    for one in chart.figure.axes[0].containers:
        line, _, (whisker,) = one.lines
        lengths = [abs(end[1] - end[0]).max() for end in whisker.get_segments() if len(end) == 2]
        found.append((len(line.get_xdata()), sum(length > 0 for length in lengths), line.get_markerfacecolor()))
    return found


def drawn(chart):
    """Return the chart's SVG, which holds no number that is not finite."""
    assert not any(re.search(r"nan|inf|e\+", path) for path in re.findall(r' d="([^"]*)"', chart.svg))
    return chart.svg


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.1 + 0.2, "0.3"),
        (1e-6, "1e-6"),
        (-2.5e-7, "-2.5e-7"),
        (1234.4, "1,234"),
        (2.5e9, "2.5e9"),
        (40.0, "40"),
    ],
)
def test_numbers_are_short(value, shown):
    assert number(value) == shown


def test_a_chart_is_plain_svg_and_the_same_each_time():
    def chart():
        return interval_chart("x", "T", [Bar("a", 40.0, 35.0, 45.0), Bar("b", 20.0, paper=True)], "%")

    svg = drawn(chart())
    assert svg == drawn(chart())
    assert svg.startswith('<svg class="chart" viewBox="0 0 420 ') and 'aria-labelledby="x-title x-desc"' in svg
    assert not re.search(r"\sstyle=|https?:|url\(|xmlns|<script|metadata|font-family|#[0-9a-f]{6}\b", svg)


def test_the_colours_are_those_of_the_style_sheet():
    light = dict(re.findall(r"--(\w+):(#\w+);", STYLE.read_text().split("@media")[0]))
    assert {name: light[name] for name in charts.VARIABLES.values()} == {v: k for k, v in charts.VARIABLES.items()}


def test_intervals_are_drawn_and_described():
    chart = interval_chart("x", "T", [Bar("a", 40.0, 35.0, 45.0), Bar("b", 20.0), Bar("c", None)], "%")
    assert [entry[:2] for entry in marks(chart)] == [(1, 1), (1, 0)]
    assert "a: 40 [35, 45]; b: 20" in drawn(chart)
    low, high = chart.figure.axes[0].get_xlim()
    assert low < 20 and high > 45


@pytest.mark.parametrize("value", ODD)
def test_values_that_cannot_be_drawn_are_left_out(value):
    chart = interval_chart("x", "T", [Bar("a", value, value, value), Bar("b", 1.0, value, 2.0)], "%")
    assert [entry[:2] for entry in marks(chart)] == [(1, 0)]
    drawn(chart)
    chart = xy_chart("x", "T", [Trace("a", [Point(1.0, value), Point(2.0, 3.0, value, 4.0)])], "x", "y")
    assert [entry[:2] for entry in marks(chart)] == [(1, 0)]
    drawn(chart)


@pytest.mark.parametrize("bars", [[], [Bar("a", None)], [Bar("a", 0.0, 0.0, 0.0)], [Bar("a", -3.0), Bar("b", -3.0)]])
def test_few_values_still_make_a_chart(bars):
    assert ("no values" in drawn(interval_chart("x", "T", bars, "%"))) == (not bars or bars[0].value is None)


def test_zero_stands_out_among_differences():
    def upright(chart):
        return any(line.get_xdata()[0] == 0 and len(line.get_xdata()) == 2 for line in chart.figure.axes[0].lines)

    assert upright(interval_chart("x", "T", [Bar("a", -3.0, -6.0, 1.0)], "points"))
    assert not upright(interval_chart("x", "T", [Bar("a", 3.0, 1.0, 6.0)], "points", (0.0, 9.0)))


def test_the_papers_figures_are_hollow_and_dimmed():
    chart = interval_chart("x", "T", [Bar("a", 1.0, 0.0, 2.0), Bar("b", 2.0, paper=True)], "%")
    assert [face for *_, face in marks(chart)] == [charts.SERIES[0], charts.BACKGROUND]
    ours, theirs = chart.figure.axes[0].get_yticklabels()
    assert theirs.get_color() == charts.SOFT != ours.get_color() and theirs.get_style() == "italic"
    traces = [Trace("a", [Point(1, 2)]), Trace("p", [Point(3, 4), Point(5, 6)], paper=True)]
    chart = xy_chart("x", "T", traces, "x", "y")
    assert [face for *_, face in marks(chart)] == [charts.SERIES[0], charts.BACKGROUND]
    assert [text.get_text().strip() for text in chart.figure.legends[0].get_texts()] == ["a", "p"]


def test_a_logarithmic_axis_leaves_out_points_that_are_not_above_zero():
    trace = Trace("a", [Point(0.0, 1.0), Point(-1.0, 1.0), Point(10.0, 2.0), Point(1000.0, 3.0)])
    chart = xy_chart("x", "T", [trace], "s", "%", log=True, places=[10, 100, 1000])
    assert [entry[0] for entry in marks(chart)] == [2]
    assert [f">{place}<" in drawn(chart) for place in ("10", "100", "1,000")] == [True] * 3
    assert "no values" in drawn(xy_chart("x", "T", [Trace("a", [Point(0.0, 1.0)])], "s", "%", log=True))


def test_labels_do_not_lie_on_each_other():
    points = [Trace(name, [Point(1.0 + k / 1e3, 5.0 + k / 1e3, label=name)]) for k, name in enumerate("abcd")]
    svg = drawn(xy_chart("x", "T", [*points, Trace("far", [Point(9.0, 9.0)])], "x", "y"))
    heights = sorted(float(re.search(rf' y="([\d.]+)"[^>]*>{name}<', svg)[1]) for name in "abcd")
    assert all(b - a >= 12.9 for a, b in itertools.pairwise(heights))


@pytest.mark.parametrize("name", ["<i>" * 20, "_hidden", "$x^2", "\x00\ud800", "书" * 30, ""])
def test_names_are_text(name):
    svg = drawn(interval_chart("x", name, [Bar(name, 1.0), Bar(name, 2.0)], "u"))
    svg += drawn(xy_chart("y", name, [Trace(name, [Point(1, 1, label=name)])], "x", "y"))
    assert not re.search(r"<[biups]>|[\x00\ud800]", svg)
    assert name[:1] in "\x00<" or svg.count(name) >= 6


def test_a_name_that_is_cut_is_whole_in_the_tooltip():
    assert f"<title>{'long ' * 20}</title>" in drawn(interval_chart("x", "T", [Bar("long " * 20, 1.0)], "%"))
