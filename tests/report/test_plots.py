"""Charts of intervals and of points: what cannot be drawn is left out, and the paper's part is told apart."""

import itertools
import math
import re

import pytest

from star_rl.report.plots import Bar, Point, Trace, interval_chart, swatch, xy_chart

ODD = [math.nan, math.inf, -math.inf, 1e300]


def numbers(chart):
    paths = re.findall(r' d="([^"]*)"', chart)
    assert not any(re.search(r"nan|inf|e\+", path) for path in paths)
    return paths


def test_intervals_are_drawn_and_described():
    chart = interval_chart("x", "T", [Bar("a", 40.0, 35.0, 45.0), Bar("b", 20.0), Bar("c", None)], "%")
    assert chart.count('class="mark') == 2 and chart.count('class="whisker') == 1
    assert "a: 40 [35, 45]; b: 20" in chart
    assert numbers(chart)


@pytest.mark.parametrize("value", ODD)
def test_values_that_cannot_be_drawn_are_left_out(value):
    chart = interval_chart("x", "T", [Bar("a", value, value, value), Bar("b", 1.0, value, 2.0)], "%")
    assert chart.count('class="mark') == 1 and not chart.count('class="whisker')
    numbers(chart)
    chart = xy_chart("x", "T", [Trace("a", [Point(1.0, value), Point(2.0, 3.0, value, 4.0)])], "x", "y")
    assert chart.count('class="mark') == 1
    numbers(chart)


@pytest.mark.parametrize("bars", [[], [Bar("a", None)], [Bar("a", 0.0, 0.0, 0.0)], [Bar("a", -3.0), Bar("b", -3.0)]])
def test_few_values_still_make_a_chart(bars):
    numbers(interval_chart("x", "T", bars, "%"))
    assert ("no values" in interval_chart("x", "T", bars, "%")) == (not bars or bars[0].value is None)


def test_zero_stands_out_among_differences():
    assert 'class="zero"' in interval_chart("x", "T", [Bar("a", -3.0, -6.0, 1.0)], "points")
    assert 'class="zero"' not in interval_chart("x", "T", [Bar("a", 3.0, 1.0, 6.0)], "points", (0.0, 9.0))


def test_what_the_paper_printed_is_told_apart():
    chart = interval_chart("x", "T", [Bar("a", 1.0, 0.0, 2.0), Bar("b", 2.0, paper=True)], "%")
    assert chart.count('class="mark paper"') == 1 and 'class="name paper"' in chart
    chart = xy_chart(
        "x", "T", [Trace("a", [Point(1, 2)]), Trace("p", [Point(3, 4), Point(5, 6)], paper=True)], "x", "y"
    )
    assert chart.count('class="mark paper"') == 2 and 'class="line paper"' in chart
    assert 'class="mark paper"' in swatch(1, paper=True)


def test_a_logarithmic_axis_leaves_out_what_is_not_above_zero():
    trace = Trace("a", [Point(0.0, 1.0), Point(-1.0, 1.0), Point(10.0, 2.0), Point(1000.0, 3.0)])
    chart = xy_chart("x", "T", [trace], "s", "%", log=True, places=[10, 100, 1000])
    assert chart.count('class="mark') == 2
    assert [f">{place}<" in chart for place in ("10", "100", "1,000")] == [True] * 3
    assert "no values" in xy_chart("x", "T", [Trace("a", [Point(0.0, 1.0)])], "s", "%", log=True)


def test_labels_do_not_lie_on_each_other():
    points = [Trace(name, [Point(1.0 + k / 1e3, 5.0 + k / 1e3, label=name)]) for k, name in enumerate("abcd")]
    chart = xy_chart("x", "T", [*points, Trace("far", [Point(9.0, 9.0)])], "x", "y")
    heights = sorted(float(y) for y in re.findall(r'class="name"[^>]* y="([\d.]+)"', chart))
    assert len(heights) == 4 and all(b - a >= 12.9 for a, b in itertools.pairwise(heights))


def test_names_are_text():
    chart = interval_chart("x", "<b>", [Bar("<i>" * 20, 1.0)], "<u>")
    chart += xy_chart("y", "<b>", [Trace("<i>", [Point(1, 1, label="<s>")])], "<u>", "<p>")
    assert not re.search(r"<[biups]>", chart)
