"""The table of methods as Markdown, as LaTeX and on the terminal. The best number of each HR column stands out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from star_rl.report.model import Method, Pair

if TYPE_CHECKING:
    from rich.table import Table

DASH = "\u2013"
_HITS = ("hr1", "hr3", "hr5", "hr_avg")


@dataclass(frozen=True, slots=True)
class _Column:
    head: str
    field: str
    digits: int = 1
    scale: float = 1.0


_COLUMNS = (
    _Column("n", "n", 0),
    _Column("HR@1", "hr1"),
    _Column("HR@3", "hr3"),
    _Column("HR@5", "hr5"),
    _Column("HR_avg", "hr_avg"),
    _Column("format %", "format_rate", scale=100.0),
    _Column("valid %", "valid_rate", scale=100.0),
    _Column("tool calls", "tool_calls", 2),
    _Column("tokens", "tokens", 0),
    _Column("p50 s", "latency_p50", 2),
    _Column("p95 s", "latency_p95", 2),
)


def _measured(value: float | None) -> bool:
    return value is not None and value == value


def _columns(methods: Sequence[Method]) -> list[_Column]:
    """Those that hold a number at all; the hits always."""
    return [
        column
        for column in _COLUMNS
        if column.field in ("n", *_HITS) or any(_measured(getattr(method, column.field)) for method in methods)
    ]


def _number(method: Method, column: _Column) -> str:
    value = getattr(method, column.field)
    if not _measured(value):
        return DASH
    if 0 < value * column.scale < 0.5 * 10**-column.digits:  # what would round to zero is not shown as zero
        return f"<{10**-column.digits:.{column.digits}f}"
    return f"{value * column.scale:.{column.digits}f}"


def _interval(method: Method) -> str:
    low, high = method.hr_avg_low, method.hr_avg_high
    return f" [{low:.1f}, {high:.1f}]" if _measured(low) and _measured(high) else ""


def _best(methods: Sequence[Method]) -> dict[str, str]:
    """Per HR column the best number as printed, so that ties look alike; none where there is one method only."""
    found = {}
    for field in _HITS if len(methods) > 1 else ():
        values = [value for method in methods if _measured(value := getattr(method, field))]
        if values:
            found[field] = f"{max(values):.1f}"
    return found


def _rows(methods: Sequence[Method], strong: Callable[[str], str], words: Callable[[str], str]) -> list[list[str]]:
    best = _best(methods)
    rows = []
    for method in methods:
        cells = [words(method.name)]
        for column in _columns(methods):
            text = _number(method, column)
            shown = strong(text) if best.get(column.field) == text else words(text)
            cells.append(shown + (_interval(method) if column.field == "hr_avg" else ""))
        rows.append(cells)
    return rows


def markdown_text(text: str) -> str:
    """Text that stays text in a Markdown cell: no cell border, no line break, no markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def markdown(methods: Sequence[Method]) -> str:
    """A pipe table; HR in percent, the 95 % interval in brackets."""
    heads = [
        "method",
        *(f"{column.head} [95 %]" if column.field == "hr_avg" else column.head for column in _columns(methods)),
    ]
    lines = [heads, ["---", *("---:" for _ in heads[1:])]]
    lines += _rows(methods, lambda text: f"**{text}**", markdown_text)
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    DASH: "--",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in re.sub(r"\s+", " ", text))


def latex(methods: Sequence[Method], caption: str = "", label: str = "") -> str:
    """A ``tabular`` for booktabs; in a ``table`` float when there is a caption or a label."""
    columns = _columns(methods)
    heads = ["Method", *(latex_text(column.head) for column in columns)]
    body = [
        " & ".join(cell.replace(DASH, "--") for cell in row) + r" \\"
        for row in _rows(methods, lambda text: f"\\textbf{{{text}}}", latex_text)
    ]
    table = [
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if caption or label:
        table = [
            r"\begin{table}[t]",
            r"\centering",
            *([f"\\caption{{{latex_text(caption)}}}"] if caption else []),
            *([f"\\label{{{label}}}"] if label else []),
            *table,
            r"\end{table}",
        ]
    return "\n".join(table) + "\n"


def terminal(methods: Sequence[Method], title: str = "") -> Table:
    """A table for ``rich``'s console; names are shown as they are, never read as markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns = _columns(methods)
    best = _best(methods)
    table = Table(title=Text(title) if title else None, box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.add_column("method", overflow="fold")
    for column in columns:
        table.add_column(column.head, justify="right", no_wrap=True)
        if column.field == "hr_avg":
            table.add_column("95 %", justify="left", no_wrap=True)
    for method in methods:
        cells = [Text(method.name)]
        for column in columns:
            text = _number(method, column)
            cells.append(Text(text, style="bold" if best.get(column.field) == text else ""))
            if column.field == "hr_avg":
                cells.append(Text(_interval(method).strip(" []").replace(", ", DASH) or DASH))
        table.add_row(*cells)
    return table


def pairs_markdown(pairs: Sequence[Pair]) -> str:
    """Paired differences of HR_avg, percentage points."""
    lines = ["| A | B | A - B [95 %] |", "| --- | --- | ---: |"]
    for pair in pairs:
        shown = f"{pair.difference:+.1f}" if _measured(pair.difference) else DASH
        if _measured(pair.low) and _measured(pair.high):
            shown += f" [{pair.low:+.1f}, {pair.high:+.1f}]"
        lines.append(f"| {markdown_text(pair.a)} | {markdown_text(pair.b)} | {shown} |")
    return "\n".join(lines) + "\n"
