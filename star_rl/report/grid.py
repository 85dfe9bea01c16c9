"""One table, three ways: the page draws it, and here it is Markdown and LaTeX, so that none of them says other things.

Markdown knows no cell over several columns, so a group's name stands before each of its heads there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from star_rl.files import write_text
from star_rl.report.tables import DASH, latex_text, markdown_text

#: What a cell holds: a number to sort by, and what is shown. Words have no number.
Cell = tuple[float | None, str]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table.

    Attributes:
        name: its first cell.
        paper: the paper's figures, which the page dims.
        ruled: a line stands above it.
        gain: a difference between other rows, which sorting leaves where it is.
    """

    name: str
    cells: list[Cell]
    paper: bool = False
    ruled: bool = False
    gain: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """A table.

    Attributes:
        title: what it shows, with the unit.
        heads: of the columns, the rows' names first.
        groups: names over the heads after the first, each with the number of its columns; none where nothing is
            grouped.
        text: how many columns, from the first on, hold words.
        notes: sentences that belong to it.
    """

    title: str
    heads: list[str]
    rows: list[Row]
    groups: list[tuple[str, int]] = field(default_factory=list)
    text: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[list[str]]:
        """The rows as they are shown, names first."""
        return [[row.name, *(shown for _, shown in row.cells)] for row in self.rows]


def worded(*texts: str) -> list[Cell]:
    """Cells of words."""
    return [(None, text) for text in texts]


def markdown(grid: Grid) -> str:
    """A pipe table under its title, the notes below."""
    heads = [grid.heads[0], *_grouped(grid)]
    ruler = ["---" if place < grid.text else "---:" for place in range(len(heads))]
    body = [
        [markdown_text(cell) if place < grid.text else _plain(cell) for place, cell in enumerate(line)]
        for line in grid.lines
    ]
    lines = ["| " + " | ".join(line) + " |" for line in ([*map(_plain, heads)], ruler, *body)]
    notes = "".join(f"\n{note}\n" for note in grid.notes)
    return f"**{grid.title}**\n\n" + "\n".join(lines) + "\n" + notes


def _grouped(grid: Grid) -> list[str]:
    names = [name for name, count in grid.groups for _ in range(count)] or [""] * (len(grid.heads) - 1)
    return [f"{name} {head}".strip() for name, head in zip(names, grid.heads[1:], strict=True)]


def _plain(text: str) -> str:
    return text.replace("|", r"\|").replace("<", r"\<")


def latex(grid: Grid) -> str:
    """A ``tabular`` for booktabs; title and notes are comments above it."""
    lines = [f"% {' '.join(text.split())}" for text in (grid.title, *grid.notes)]
    numbers = len(grid.heads) - grid.text
    lines += [f"\\begin{{tabular}}{{{'l' * grid.text}{'r' * numbers}}}", r"\toprule"]
    if grid.groups:
        spans = [f"\\multicolumn{{{count}}}{{c}}{{{latex_text(name)}}}" for name, count in grid.groups]
        ends, start = [], 2
        for _, count in grid.groups:
            ends.append(f"\\cmidrule(lr){{{start}-{start + count - 1}}}")
            start += count
        lines += [" & ".join(["", *spans]) + r" \\", " ".join(ends)]
    lines += [_row(grid.heads), r"\midrule"]
    for row, shown in zip(grid.rows, grid.lines, strict=True):
        lines += [*([r"\midrule"] if row.ruled else []), _row(shown)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(latex_text(cell) for cell in cells).replace(DASH, "--") + r" \\"


def write(folder: Path, stem: str, grids: Sequence[Grid], words: str = "") -> list[Path]:
    """``STEM.md`` and ``STEM.tex`` with the tables one after the other.

    Args:
        words: Markdown after them.
    """
    paths = [folder / f"{stem}.{kind}" for kind in ("md", "tex")]
    write_text(paths[0], "\n".join(map(markdown, grids)) + (f"\n{words}" if words else ""))
    write_text(paths[1], "\n".join(map(latex, grids)))
    return paths
