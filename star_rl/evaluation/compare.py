"""Compare evaluations in the layout of the paper's table 1, with the paper's own figures beside them.

A column is a sub-task (source and scenario). Folders may hold different sub-tasks; where two hold the same one, it has
to be the same set of tasks. A column is comparable with the paper's where its tasks and ground truths are
AgentRecBench's own; on a split of one's own the paper's figures are shown apart, for orientation alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.evaluation import paper
from star_rl.evaluation.metrics import NDCG_CUTS
from star_rl.evaluation.tasks import Cell, fingerprint_of, read_tasks
from star_rl.files import read_json, write_json, write_text
from star_rl.records import SCENARIOS, Task
from star_rl.report.grid import DASH, Grid, Row, fixed, latex, signed, spread
from star_rl.report.grid import Cell as GridCell
from star_rl.report.grid import markdown as as_markdown

#: Figures of a cell that get a table of their own: name, head, factor to percent.
FIGURES = (
    ("hr_avg", "HR_avg", 1.0),
    *((f"ndcg{k}", f"NDCG@{k}", 1.0) for k in NDCG_CUTS),
    ("mrr", "MRR", 1.0),
    ("valid_rate", "Valid rankings", 100.0),
)
#: Figures that look further than HR@5 does, and how far.
DEEP = {"ndcg10": 10, "ndcg20": 20, "mrr": 10}
#: Heads of the scenarios.
SHORT = dict(zip(SCENARIOS, ("Classic", "User-CS", "Item-CS", "Long", "Short"), strict=True))
#: Keys that every row of an evaluation has.
_NEEDED = ("name", "n", "hr_avg", "hr_avg_low", "hr_avg_high", "calls", "samples", "format_rate", "failed")


@dataclass(slots=True)
class SubTask:
    """One sub-task, a column of the table."""

    source: str
    scenario: str
    n: int
    fingerprint: str
    official: bool

    @property
    def cell(self) -> Cell:
        return self.source, self.scenario

    @property
    def comparable(self) -> bool:
        """Whether the paper's figure may stand beside ours."""
        return self.official and self.cell in paper.TABLE1["STAR"]

    @property
    def scenario_head(self) -> str:
        return SHORT.get(self.scenario, self.scenario)

    @property
    def head(self) -> str:
        return f"{self.source} {self.scenario_head}"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation.

    Attributes:
        label: the end of its path, which tells it from the others.
        figures: its ``metrics.json``.
        names: name of a method in the folder -> name in the table.
    """

    folder: Path
    label: str
    figures: dict[str, Any]
    tasks: list[Task]
    names: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Compared:
    """Several evaluations in one table.

    Attributes:
        methods: method -> sub-task -> row of figures (see :func:`star_rl.evaluation.scores.score`).
        notes: sentences that belong to the table, with the caveats.
        caveats: sentences on data and methods to be read before any figure.
        short: sentences on methods that name too few ids for NDCG@10, NDCG@20 and MRR.
        folders: the evaluations, in the order they were given.
    """

    columns: list[SubTask] = field(default_factory=list)
    methods: dict[str, dict[Cell, dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    folders: list[Evaluation] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)


def compare(folders: Sequence[Path]) -> Compared:
    """Read evaluations: folders of ``star-rl evaluate``, or of runs with the stage ``evaluate``.

    Raises:
        StarError: a folder is no evaluation or stands twice, its answers belong to other tasks than it says, or two
            folders have different tasks for one sub-task.
    """
    found, seen = Compared(), dict[Cell, tuple[SubTask, Path]]()
    found.folders = [_read(folder, label) for folder, label in _labelled(folders).items()]
    for one in found.folders:
        tasks = one.figures["tasks"]
        for entry in tasks["cells"]:
            column = SubTask(**entry, official=tasks["official"])
            known, place = seen.setdefault(column.cell, (column, one.folder))
            if known.fingerprint != column.fingerprint:
                raise StarError(
                    f"{place} and {one.folder} have different tasks for {column.head} "
                    f"({known.n} of {known.fingerprint}, {column.n} of {column.fingerprint})",
                    "evaluate all methods on the same tasks, with the same --limit",
                )
        sizes = {(entry["source"], entry["scenario"]): entry["n"] for entry in tasks["cells"]}
        for row in one.figures["cells"]:
            name = one.names.setdefault(row["name"], _name(row["name"], one, found.folders))
            if row["n"] == sizes[row["source"], row["scenario"]]:  # of fewer tasks is of other tasks; a note says so
                found.methods.setdefault(name, {})[row["source"], row["scenario"]] = row
        found.notes += [f"{one.label}: {note}" for note in one.figures["notes"]]
    found.columns = [column for column, _ in seen.values()]
    found.columns.sort(key=_order)
    found.caveats = list(dict.fromkeys(words for one in found.folders for words in one.figures.get("caveats", ())))
    found.short = _short(found)
    found.notes += [*_comparability(found), *found.short, *found.caveats]
    return found


def _labelled(folders: Sequence[Path]) -> dict[Path, str]:
    """Return the folders of the evaluations with the shortest ends of their paths that differ.

    A run's folder stands for its stage ``evaluate``, which is called by its run.
    """
    places = []
    for folder in folders:
        inside = folder / "evaluate"
        places.append(inside if not (folder / "metrics.json").exists() and inside.is_dir() else folder)
    parts = [place.resolve().parts for place in places]
    parts = [own[:-1] if own[-1] == "evaluate" and len(own) > 2 else own for own in parts]
    if len(set(parts)) < len(parts):
        raise StarError("an evaluation is given twice", "name each folder once")
    depth = 1
    while len({own[-depth:] for own in parts}) < len(parts):
        depth += 1
    return {place: "/".join(own[-depth:]) for place, own in zip(places, parts, strict=True)}


def _name(name: str, own: Evaluation, folders: Sequence[Evaluation]) -> str:
    """Return a method's name in the table.

    A method of several folders is one row where they hold different sub-tasks, else a row for each folder. It is also
    one row where it calls no language model and its figures agree: a baseline that every run evaluates.
    """
    mine = _cells(own, name)
    for other in folders:
        theirs = _cells(other, name) if other is not own else {}
        for cell in mine.keys() & theirs.keys():
            if _quality(mine[cell]) != _quality(theirs[cell]):
                return f"{name} ({own.label})"
    return name


def _cells(one: Evaluation, name: str) -> dict[Cell, dict[str, Any]]:
    return {(row["source"], row["scenario"]): row for row in one.figures["cells"] if row["name"] == name}


def _quality(row: dict[str, Any]) -> object:
    """Return what two rows must share to be one; rows of a language model share nothing."""
    return object() if row["calls"] else [row[key] for key in ("hr1", "hr3", "hr5", "ndcg10", "mrr")]


def _read(folder: Path, label: str) -> Evaluation:
    figures = read_json(folder / "metrics.json")
    try:
        expected = figures["tasks"]["fingerprint"]
        for key in ("methods", "cells", "notes"):
            _ = figures[key]
        for row in (*figures["methods"], *figures["cells"]):
            _ = [row[key] for key in _NEEDED]
    except (KeyError, TypeError) as error:
        raise StarError(
            f"{folder} is no evaluation of this version ({error} is missing)", "evaluate it again"
        ) from error
    tasks = read_tasks(folder / "tasks.parquet")
    if fingerprint_of(tasks) != expected:
        raise StarError(f"the figures in {folder} are those of another task set", "evaluate it again: star-rl evaluate")
    return Evaluation(folder, label, dict(figures), tasks)


def _order(column: SubTask) -> tuple[int, str, int, str]:
    """Return the key that sorts columns as the paper does, those it has not after them."""

    def place(name: str, names: Sequence[str]) -> int:
        return names.index(name) if name in names else len(names)

    return place(column.source, paper.SOURCES), column.source, place(column.scenario, SCENARIOS), column.scenario


def too_deep(longest: int | None) -> list[str]:
    """Return the figures that look further than a method's longest list; None is a list of all candidates."""
    return [figure for figure, depth in DEEP.items() if longest is not None and longest < depth]


def _short(found: Compared) -> list[str]:
    """Return sentences on the methods whose lists are too short for :data:`DEEP`."""
    names: dict[int, list[str]] = {}
    heads = {figure: head for figure, head, _ in FIGURES}
    for name, cells in found.methods.items():
        known = [row["longest"] for row in cells.values() if row.get("longest") is not None]
        if known and too_deep(max(known)):
            names.setdefault(max(known), []).append(name)
    return [
        f"{', '.join(named)} {'names' if len(named) == 1 else 'name'} at most {longest} ids: nothing after that "
        f"counts. Left out, since they look further in longer lists: "
        f"{', '.join(heads[figure] for figure in too_deep(longest))}"
        for longest, named in names.items()
    ]


def _comparability(found: Compared) -> list[str]:
    ours = [column.head for column in found.columns if not column.comparable]
    notes = []
    if len(ours) < len(found.columns):
        notes.append(
            "Columns marked = are AgentRecBench's own tasks and ground truths: the paper's figures stand on the same "
            "tasks. Candidates are shuffled here."
        )
    if ours:
        notes.append(f"Not comparable with the paper (a split of one's own): {', '.join(ours)}.")
    return notes + other_sizes(found)


def other_sizes(found: Compared) -> list[str]:
    """Return a sentence on the paper's sub-tasks of which we have more or fewer tasks, if there are any."""
    few = [column.head for column in found.columns if column.comparable and column.n != paper.SAMPLES]
    return [f"The paper has {paper.SAMPLES} tasks a sub-task; {', '.join(few)} differ."] if few else []


# ----------------------------------------------------------------------------------------------------------- the tables


#: Names of MARS among our methods, for the row STAR minus MARS.
TEACHERS = (paper.RULES, "mars", "teacher")


def grid(found: Compared, figure: str = "hr_avg", head: str = "HR_avg", factor: float = 1.0) -> Grid:
    """Return table 1: sources over scenarios, n, a row a method, STAR minus MARS; the paper's rows if comparable."""
    columns, first = found.columns, figure == "hr_avg"
    lines = [Row("n", [(column.n, str(column.n)) for column in columns])]
    for place, (name, cells) in enumerate(found.methods.items()):
        own = [_figure(cells.get(column.cell), figure, factor) for column in columns]
        lines.append(Row(name, own, ruled=not place))
    if first:
        lines += _gain(found)
    if first and any(column.comparable for column in columns):
        lines += _paper_rows([column.cell if column.comparable else None for column in columns], f" ({paper.PAPER})")
    heads = [column.scenario_head + (" =" if column.comparable else "") for column in columns]
    groups = list(Counter(column.source for column in columns).items())  # columns are sorted by source
    return Grid(f"{head}, %" + (", 95 % interval" if first else ""), ["method", *heads], lines, groups)


def _figure(row: dict[str, Any] | None, figure: str, factor: float) -> GridCell:
    if row is None or row.get(figure) is None or figure in too_deep(row.get("longest")):
        return None, DASH
    value = row[figure] * factor
    low, high = (row["hr_avg_low"], row["hr_avg_high"]) if figure == "hr_avg" else (None, None)
    return value, spread(value, low, high, _plain)


def _plain(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}"


def _gain(found: Compared) -> list[Row]:
    """Return the row STAR minus MARS, where both are among the methods."""
    teacher = next((name for name in TEACHERS if name in found.methods), None)
    if teacher is None or "star" not in found.methods:
        return []
    ours, theirs = found.methods["star"], found.methods[teacher]
    both = ours.keys() & theirs.keys()
    gains = [
        ours[column.cell]["hr_avg"] - theirs[column.cell]["hr_avg"] if column.cell in both else None
        for column in found.columns
    ]
    return [Row(f"star minus {teacher}, points", [(gain, signed(gain)) for gain in gains], ruled=True, gain=True)]


def _paper_rows(cells: Sequence[Cell | None], reference: str = "") -> list[Row]:
    """Return the rows of the paper's table 1, and STAR minus MARS; a dash for a cell that is None."""
    lines: list[Row] = []
    for name, values in paper.TABLE1.items():
        printed = [None if cell is None else values[cell] for cell in cells]
        shown: list[GridCell] = [(value, _plain(value)) for value in printed]
        lines.append(Row(f"{name}{reference}", shown, paper=True, ruled=bool(reference) and not lines))
    star, mars = paper.TABLE1["STAR"], paper.TABLE1["MARS"]
    gains = [None if cell is None else star[cell] - mars[cell] for cell in cells]
    shown = [(gain, signed(gain)) for gain in gains]
    return [*lines, Row(f"STAR minus MARS, points{reference}", shown, paper=True, ruled=True, gain=True)]


def paper_grid(found: Compared) -> Grid | None:
    """Return the paper's whole table 1 if none of its columns is ours."""
    if any(column.comparable for column in found.columns):
        return None
    cells = list(paper.TABLE1["STAR"])
    groups = [(source, len(SCENARIOS)) for source in paper.SOURCES]
    title = f"The paper's figures, on other tasks: not comparable ({paper.PAPER}, table 1)"
    return Grid(title, ["method", *(SHORT[scenario] for _, scenario in cells)], _paper_rows(cells), groups)


def starec_grid(found: Compared) -> Grid | None:
    """Return STARec's figures where our tasks are a split of a source it was measured on, else None."""
    ours = {column.source for column in found.columns if not column.official}
    sources = [source for source in paper.STAREC_NDCG if source in ours]
    if not sources:
        return None
    rows = []
    for name in dict.fromkeys(name for source in sources for name in paper.STAREC_NDCG[source]):
        values = [value for source in sources for value in paper.STAREC_NDCG[source].get(name, (None, None))]
        rows.append(Row(name, [(value, fixed(value, 2)) for value in values], paper=True))
    title = (
        "STARec's figures, of another model, other users and other negatives: not comparable "
        f"({paper.STAREC}, from public notes on the paper)"
    )
    groups = [(paper.STAREC_SETS[source], 2) for source in sources]
    return Grid(title, ["method", *["NDCG@1", "NDCG@10"] * len(sources)], rows, groups)


def published(found: Compared) -> list[Grid]:
    """Return the tables of published figures on other tasks than ours."""
    return [one for one in (paper_grid(found), starec_grid(found)) if one]


def grids(found: Compared, whole: bool = True) -> list[Grid]:
    """Return table 1, NDCG, MRR and the share of valid rankings; ``whole``: :func:`published`, too."""
    first, *others = (grid(found, figure, head, factor) for figure, head, factor in FIGURES)
    return [first, *(published(found) if whole else []), *others]


def markdown(found: Compared, whole: bool = True) -> str:
    """Return :func:`grids` and the notes as Markdown."""
    return "\n".join(map(as_markdown, grids(found, whole))) + "".join(f"\n{note}\n" for note in found.notes)


def data(found: Compared) -> dict[str, Any]:
    """Return everything as plain data; a column has ``paper`` only if it is comparable."""

    def theirs(column: SubTask) -> dict[str, float] | None:
        return {name: row[column.cell] for name, row in paper.TABLE1.items()} if column.comparable else None

    return {
        "columns": [{**asdict(one), "comparable": one.comparable, "paper": theirs(one)} for one in found.columns],
        "paper": {"reference": paper.PAPER, "table": "table 1"},
        "methods": {
            name: [{"source": source, "scenario": scenario, **row} for (source, scenario), row in cells.items()]
            for name, cells in found.methods.items()
        },
        "notes": found.notes,
    }


def write(found: Compared, folder: Path, more: Mapping[str, Any] | None = None, words: str = "") -> list[Path]:
    """Write ``comparison.md``, ``.tex`` and ``.json``; ``more`` are further keys, ``words`` Markdown at the end."""
    paths = [folder / f"comparison.{kind}" for kind in ("md", "tex", "json")]
    write_text(paths[0], markdown(found) + (f"\n{words}" if words else ""))
    write_text(paths[1], "\n".join(map(latex, grids(found, whole=False))))
    write_json(paths[2], {**data(found), **(more or {})})
    return paths
