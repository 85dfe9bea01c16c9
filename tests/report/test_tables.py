"""Tables in three forms; names and numbers of any kind."""

import io
import math

import pytest
from rich.console import Console

from star_rl.report.model import Method, Pair
from star_rl.report.tables import latex, markdown, pairs_markdown, terminal

METHODS = [
    Method("random", 400, 5.0, 15.0, 25.0, 15.0, 13.0, 17.0, decoding="seeded"),
    Method("STAR w/o GRPO", 400, 36.54, 61.0, 73.0, 56.9, 53.0, 60.7, 0.94, 0.9, 2.9, 412.0),
    Method("STAR", 400, 36.46, 70.0, 80.0, 66.0, 62.0, 69.6, 1.0, 0.99, 2.2, 371.0),
]


def text_of(table) -> str:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(table)
    return console.file.getvalue()


def test_markdown_marks_the_best_and_leaves_out_what_nobody_measured():
    lines = markdown(METHODS).splitlines()
    assert lines[0] == "| method | n | HR@1 | HR@3 | HR@5 | HR_avg [95 %] | format % | valid % | tool calls | tokens |"
    assert "| **36.5** |" in lines[3] and "| **36.5** |" in lines[4], "equal as printed, equal in bold"
    assert "**66.0** " in lines[4]
    assert "| – |" in lines[2]
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("methods", [[], [Method("a", 0)], [Method("a", 1, math.nan, hr_avg=1.0, hr_avg_low=math.nan)]])
def test_tables_of_little(methods):
    assert "None" not in markdown(methods) + latex(methods) + text_of(terminal(methods))
    assert "nan" not in markdown(methods) + latex(methods) + text_of(terminal(methods))


def test_names_stay_names():
    name = r"a|b_c*[bold]x[/bold] 50% $1 & #2 {~^\}" + "\nnext"
    table = markdown([Method(name, 1)])
    assert len(table.splitlines()) == 3
    assert r"a\|b\_c\*" in table
    source = latex([Method(name, 1)])
    assert r"50\% \$1 \& \#2 \{\textasciitilde{}\textasciicircum{}\textbackslash{}\}" in source
    assert "[bold]x[/bold]" in text_of(terminal([Method(name, 1)]))


def test_latex_is_balanced():
    source = latex(METHODS, "100 % ours", "tab:x")
    for name in ("table", "tabular"):
        assert source.count(f"\\begin{{{name}}}") == source.count(f"\\end{{{name}}}") == 1
    assert r"\caption{100 \% ours}" in source
    rows = [line for line in source.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") - line.count(r"\&") for line in rows}) == 1
    assert "–" not in source


def test_terminal_shows_every_method():
    shown = text_of(terminal(METHODS, "held-out tasks"))
    for method in METHODS:
        assert method.name in shown
    assert "62.0–69.6" in shown


def test_pairs():
    shown = pairs_markdown([Pair("a|b", "c", 9.1, 5.2, 13.0), Pair("x", "y")])
    assert r"| a\|b | c | +9.1 [+5.2, +13.0] |" in shown
    assert "| x | y | – |" in shown


def test_what_rounds_to_zero_is_not_shown_as_zero():
    methods = [Method("fast", 1, 0.0, latency_p50=0.0004, latency_p95=0.0)]
    assert r"| \<0.01 | 0.00 |" in markdown(methods)
    assert r"& \textless{}0.01 & 0.00 \\" in latex(methods)
    assert "<0.01" in text_of(terminal(methods))
