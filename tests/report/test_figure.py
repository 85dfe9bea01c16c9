"""Axes: round ticks, short numbers, bars that stay in their box."""

import math
import re

import pytest

from star_rl.report.figure import Series, interval_bar, line_chart, number, ticks


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 100), (1, 40), (1, 1000), (-1, 2), (0.93, 1.0), (-3e-6, 5e-6), (1e9, 3e9), (7, 7.001)]
)
def test_ticks_are_few_round_and_inside(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 9
    assert all(low - 1e-9 * abs(high) <= tick <= high + 1e-9 * abs(high) for tick in found)
    step = found[1] - found[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-6), 3) in (1, 2, 5)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (math.nan, 1), (0, math.inf), (-1e308, 1e308), (0, 5e-324)])
def test_ticks_of_odd_ranges(low, high):
    assert len(ticks(low, high)) <= 2


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


def test_bars_stay_in_their_box():
    for value, low, high in [(0, 0, 0), (100, 90, 120), (50, None, 60), (50, -10, 60), (50, math.nan, 60)]:
        bar = interval_bar(value, low, high)
        numbers = [float(n) for n in re.findall(r"[MHx]=?\"?(-?[\d.]+)", bar)]
        assert all(0 <= n <= 140 for n in numbers)
    assert interval_bar(None, 1, 2) == interval_bar(math.nan, 1, 2) == ""


def test_names_are_escaped():
    chart = line_chart("id", "<b>", [Series("<i>", [(1, 2.0)])], "<u>")
    assert not re.search(r"<[biu]>", chart)


def test_a_logarithmic_axis_leaves_out_what_it_cannot_show():
    chart = line_chart("id", "t", [Series("s", [(1, 0.0), (2, 1e-6), (3, -1.0), (4, 1e-4)])], log=True)
    assert re.search(r'class="dots[^"]*" d="([^"]*)"', chart).group(1).count("M") == 2
    assert ">1e-5<" in chart
    assert "no values" in line_chart("id", "t", [Series("s", [(1, 0.0)])], log=True)


def test_a_resume_is_an_upright_before_its_step_and_only_inside_the_chart():
    chart = line_chart("a", "A", [Series("s", [(1, 1.0), (11, 2.0)])], resumed=[6, 40])
    assert chart.count('class="resumed"') == 1 and "resumed at step 6" in chart
