"""One table, shown as HTML, Markdown, LaTeX and on the terminal, so that all four say the same.

Markdown has no cell over several columns, so a group's name stands before each of its heads there.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from star_rl.files import write_text

if TYPE_CHECKING:
    from rich.table import Table

    from star_rl.report.model import MethodRow, Pair

DASH = "\u2013"
#: What a cell holds: a number to sort by, and what is shown. Words have no number.
Cell = tuple[float | None, str]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table; its name is the first cell."""

    name: str
    cells: list[Cell]
    paper: bool = False  #: the paper's figures, dimmed on the page
    ruled: bool = False  #: draw a line above it
    gain: bool = False  #: a difference between other rows; sorting leaves it where it is
    #: Value and interval of the bar from 0 to 100 that the page draws after the first number.
    bar: tuple[float | None, float | None, float | None] | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """A table; its title says what it shows, with the unit."""

    title: str
    heads: list[str]  #: of the columns, the rows' names first
    rows: list[Row]
    groups: list[tuple[str, int]] = field(default_factory=list)  #: names over the heads after the first, and columns
    text: int = 1  #: how many columns, from the first on, hold words
    notes: list[str] = field(default_factory=list)
    best: frozenset[int] = frozenset()  #: places among a row's cells where the highest number stands out

    @property
    def lines(self) -> list[list[str]]:
        """Return the rows as they are shown, names first."""
        return [[row.name, *(shown for _, shown in row.cells)] for row in self.rows]

    def stands_out(self, row: Row, place: int) -> bool:
        """Return whether a cell is the best of its column as it is printed, so that ties look alike."""
        if place not in self.best or len(self.rows) < 2:
            return False
        cells = [one.cells[place] for one in self.rows if one.cells[place][0] is not None]
        best = max(cells, key=lambda cell: cell[0] or 0.0, default=None)
        return best is not None and row.cells[place][1].split()[0] == best[1].split()[0]


def worded(*texts: str) -> list[Cell]:
    """Return cells of words."""
    return [(None, text) for text in texts]


def measured(value: Any) -> bool:
    """Return whether a value is a number."""
    return isinstance(value, int | float) and value == value


def fixed(value: Any, digits: int = 1) -> str:
    """Return a number with so many digits, or a dash. What would round to zero is not shown as zero."""
    if not measured(value):
        return DASH
    if 0 < value < 0.5 * 10**-digits:
        return f"<{10**-digits:.{digits}f}"
    return f"{value:,.{digits}f}"


def signed(value: float | None) -> str:
    """Return a difference with its sign, or a dash."""
    return f"{value:+.1f}" if value is not None and measured(value) else DASH


def spread(value: Any, low: Any, high: Any, show: Callable[[Any], str] = fixed) -> str:
    """Return a value with its interval, as ``56.9 [53.0, 60.7]``."""
    return show(value) + (f" [{show(low)}, {show(high)}]" if measured(low) and measured(high) else "")


#: Columns of the methods' table: key, head, factor, digits.
_COLUMNS = (
    ("hr1", "HR@1 %", 1.0, 1),
    ("hr3", "HR@3 %", 1.0, 1),
    ("hr5", "HR@5 %", 1.0, 1),
    ("ndcg5", "NDCG@5", 1.0, 1),
    ("ndcg10", "NDCG@10", 1.0, 1),
    ("ndcg20", "NDCG@20", 1.0, 1),
    ("mrr", "MRR", 1.0, 1),
    ("n", "n", 1.0, 0),
    ("samples", "samples", 1.0, 0),
    ("failed", "failed", 1.0, 0),
    ("valid_rate", "valid %", 100.0, 1),
    ("format_rate", "format %", 100.0, 1),
    ("tool_calls", "tool calls", 1.0, 2),
    ("calls", "LLM calls", 1.0, 1),
    ("tokens_in", "tokens in", 1.0, 0),
    ("tokens", "tokens out", 1.0, 0),
    ("latency_p50", "p50 s", 1.0, 2),
    ("latency_p95", "p95 s", 1.0, 2),
)
#: What a head means; the page shows it as a tooltip.
TIPS = {
    "HR@1 %": "tasks whose truth stands first; with one truth a task this is NDCG@1",
    "n": "tasks scored",
    "samples": "answers to a task",
    "failed": "answers that failed or are missing",
    "valid %": "share of rankings of distinct candidates and nothing else",
    "format %": "share of outputs that are well formed",
    "tool calls": "mean number a task",
    "LLM calls": "calls that wait for one another, mean a task",
    "tokens in": "mean number of prompt tokens a task",
    "tokens out": "mean number of generated tokens a task",
    "p50 s": "seconds a task, median",
    "p95 s": "seconds a task, 95th percentile",
    "interval": "HR_avg and its 95 % interval, from 0 to 100 %",
}


def methods(
    rows: Sequence[MethodRow | Mapping[str, Any]], title: str = "Methods: quality and cost", notes: Sequence[str] = ()
) -> Grid:
    """Return the table of methods, a row a method; columns that nobody measured are left out, the hits never."""
    plain = [row if isinstance(row, Mapping) else dataclasses.asdict(row) for row in rows]
    columns = [
        one
        for one in _COLUMNS
        if one[0] in ("hr1", "hr3", "hr5", "n") or any(measured(row.get(one[0])) for row in plain)
    ]
    worded_too = any(row.get("decoding") for row in plain)
    made = []
    for row in plain:
        bar = row.get("hr_avg"), row.get("hr_avg_low"), row.get("hr_avg_high")
        cells: list[Cell] = [(bar[0], spread(*bar))]
        for key, _, factor, digits in columns:
            value = row.get(key)
            cells.append((value, fixed(value * factor, digits) if value is not None else DASH))
        made.append(Row(row["name"], cells + (worded(row.get("decoding") or DASH) if worded_too else []), bar=bar))
    heads = ["method", "HR_avg % [95 %]", *(head for _, head, _, _ in columns), *(["decoding"] if worded_too else [])]
    return Grid(title, heads, made, notes=list(notes), best=frozenset(range(4)))


def pairs(found: Sequence[Pair]) -> Grid:
    """Return paired differences of HR_avg in percentage points."""
    rows = [
        Row(one.a, [(None, one.b), (one.difference, spread(one.difference, one.low, one.high, signed)), read(one)])
        for one in found
    ]
    return Grid("A minus B, HR_avg in points, paired", ["A", "B", "difference [95 %]", "reading"], rows, text=2)


def read(one: Any, better: str = "A is better", worse: str = "B is better") -> Cell:
    """Return what the interval (``low``, ``high``) of a paired difference says."""
    if not (measured(one.low) and measured(one.high)):
        return None, DASH
    return (1.0, better) if one.low > 0 else (-1.0, worse) if one.high < 0 else (0.0, "no difference shown")


def markdown_text(text: str) -> str:
    """Return text that stays text in a Markdown cell: no cell border, no line break, no markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def markdown(grid: Grid) -> str:
    """Return a pipe table under its title, the notes below."""
    names = [name for name, count in grid.groups for _ in range(count)] or [""] * (len(grid.heads) - 1)
    heads = [grid.heads[0], *(f"{name} {head}".strip() for name, head in zip(names, grid.heads[1:], strict=True))]
    lines = [[_plain(head) for head in heads], ["---" if k < grid.text else "---:" for k in range(len(heads))]]
    for row in grid.rows:
        cells = [_plain(shown) if measured(value) else markdown_text(shown) for value, shown in row.cells]
        cells = [f"**{cell}**" if grid.stands_out(row, place) else cell for place, cell in enumerate(cells)]
        lines.append([markdown_text(row.name), *cells])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"**{grid.title}**\n\n{table}\n" + "".join(f"\n{note}\n" for note in grid.notes)


def _plain(text: str) -> str:
    return text.replace("|", r"\|").replace("<", r"\<")


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
    """Return text that stays text in LaTeX."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def latex(grid: Grid, caption: str = "", label: str = "") -> str:
    """Return a ``tabular`` for booktabs under comments of title and notes; a ``table`` float if it has a caption."""
    lines = [f"% {' '.join(text.split())}" for text in (grid.title, *grid.notes)]
    if caption or label:
        lines += [r"\begin{table}[t]", r"\centering"]
        lines += [f"\\{name}{{{latex_text(text)}}}" for name, text in (("caption", caption), ("label", label)) if text]
    numbers = len(grid.heads) - grid.text
    lines += [f"\\begin{{tabular}}{{{'l' * grid.text}{'r' * numbers}}}", r"\toprule"]
    if grid.groups:
        spans = [f"\\multicolumn{{{count}}}{{c}}{{{latex_text(name)}}}" for name, count in grid.groups]
        ends, start = [], 2
        for _, count in grid.groups:
            ends.append(f"\\cmidrule(lr){{{start}-{start + count - 1}}}")
            start += count
        lines += [" & ".join(["", *spans]) + r" \\", " ".join(ends)]
    lines += [" & ".join(map(latex_text, grid.heads)) + r" \\", r"\midrule"]
    for row in grid.rows:
        cells = [latex_text(shown) for _, shown in row.cells]
        cells = [f"\\textbf{{{cell}}}" if grid.stands_out(row, place) else cell for place, cell in enumerate(cells)]
        lines += [*([r"\midrule"] if row.ruled else []), " & ".join([latex_text(row.name), *cells]) + r" \\"]
    lines += [r"\bottomrule", r"\end{tabular}", *([r"\end{table}"] if caption or label else [])]
    return "\n".join(lines) + "\n"


def terminal(grid: Grid) -> Table:
    """Return a table for ``rich``'s console; names are shown as they are, never read as markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, head in enumerate(grid.heads):
        words = place < grid.text
        table.add_column(Text(head), justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for row in grid.rows:
        styles = ["bold" if grid.stands_out(row, place) else "" for place in range(len(row.cells))]
        cells = [Text(shown, style=style) for (_, shown), style in zip(row.cells, styles, strict=True)]
        table.add_row(Text(row.name), *cells)
    return table


def write(folder: Path, stem: str, grids: Sequence[Grid], words: str = "") -> list[Path]:
    """Write ``STEM.md`` and ``STEM.tex`` with the tables one after the other; ``words`` is Markdown after them."""
    paths = [folder / f"{stem}.{kind}" for kind in ("md", "tex")]
    write_text(paths[0], "\n".join(map(markdown, grids)) + (f"\n{words}" if words else ""))
    write_text(paths[1], "\n".join(map(latex, grids)))
    return paths
