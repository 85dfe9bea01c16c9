"""Tables as Markdown, LaTeX and on the terminal; names and numbers of any kind."""

import io
import math

import pytest
from rich.console import Console

from star_rl.report.grid import latex, markdown, methods, pairs, terminal
from star_rl.report.model import MethodRow, Pair

METHODS = [
    MethodRow("random", 400, 5.0, 15.0, 25.0, 15.0, 13.0, 17.0, decoding="seeded"),
    MethodRow("STAR w/o GRPO", 400, 36.54, 61.0, 73.0, 56.9, 53.0, 60.7, 0.94, 0.9, 2.9, 412.0),
    MethodRow("STAR", 400, 36.46, 70.0, 80.0, 66.0, 62.0, 69.6, 1.0, 0.99, 2.2, 371.0),
]


def text_of(table) -> str:
    console = Console(file=io.StringIO(), width=240, color_system=None)
    console.print(terminal(table))
    return console.file.getvalue()


def every(table) -> str:
    return markdown(table) + latex(table) + text_of(table)


def test_markdown_marks_the_best_and_leaves_out_what_nobody_measured():
    lines = markdown(methods(METHODS)).splitlines()[2:]
    assert lines[0] == (
        "| method | HR_avg % [95 %] | HR@1 % | HR@3 % | HR@5 % | n | valid % | format % | tool calls | tokens out | "
        "decoding |"
    )
    assert "| **36.5** |" in lines[3] and "| **36.5** |" in lines[4], "equal as printed, equal in bold"
    assert "**66.0 [62.0, 69.6]** " in lines[4]
    assert "| – |" in lines[2] and "| seeded |" in lines[2]
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    "rows", [[], [MethodRow("a", 0)], [MethodRow("a", 1, math.nan, hr_avg=1.0, hr_avg_low=math.nan)]]
)
def test_tables_of_little(rows):
    assert "None" not in every(methods(rows)) and "nan" not in every(methods(rows))


def test_names_stay_names():
    name = r"a|b_c*[bold]x[/bold] 50% $1 & #2 {~^\}" + "\nnext"
    table = methods([MethodRow(name, 1)])
    assert len(markdown(table).splitlines()) == 5
    assert r"a\|b\_c\*" in markdown(table)
    assert r"50\% \$1 \& \#2 \{\textasciitilde{}\textasciicircum{}\textbackslash{}\}" in latex(table)
    assert "[bold]x[/bold]" in text_of(table)


def test_latex_is_balanced():
    source = latex(methods(METHODS), "100 % ours", "tab:x")
    for name in ("table", "tabular"):
        assert source.count(f"\\begin{{{name}}}") == source.count(f"\\end{{{name}}}") == 1
    assert r"\caption{100 \% ours}" in source
    rows = [line for line in source.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") - line.count(r"\&") for line in rows}) == 1
    assert "–" not in source


def test_terminal_shows_every_method():
    shown = text_of(methods(METHODS))
    for method in METHODS:
        assert method.name in shown
    assert "66.0 [62.0, 69.6]" in shown


def test_pairs():
    shown = markdown(pairs([Pair("a|b", "c", 9.1, 5.2, 13.0), Pair("x", "y"), Pair("v", "w", -1.0, -3.0, 1.0)]))
    assert r"| a\|b | c | +9.1 [+5.2, +13.0] | A is better |" in shown
    assert "| x | y | – | – |" in shown and "| -1.0 [-3.0, +1.0] | no difference shown |" in shown


def test_what_rounds_to_zero_is_not_shown_as_zero():
    table = methods([MethodRow("fast", 1, 0.0, latency_p50=0.0004, latency_p95=0.0)])
    assert r"| \<0.01 | 0.00 |" in markdown(table)
    assert r"& \textless{}0.01 & 0.00 \\" in latex(table)
    assert "<0.01" in text_of(table)
