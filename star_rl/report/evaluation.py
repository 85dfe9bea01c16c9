"""Evaluations as one self-contained HTML page: the verdict first, then the tables, the figures, and the tasks.

It is made of what lies in the folders alone, so it can be made again wherever they go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.evaluation import paper
from star_rl.evaluation.compare import DEEP, SHORT, grid, grids, is_short, paper_grid
from star_rl.evaluation.studies import best_of_k, corpus, latency
from star_rl.files import write_text
from star_rl.records import CANDIDATES
from star_rl.report import plots
from star_rl.report.cases import anchors, choose
from star_rl.report.changes import Change, changes
from star_rl.report.findings import Findings, gather
from star_rl.report.grid import Cell, Grid, Row, write
from star_rl.report.page import PAGE_NAME, Chart, fixed, rendered, signed
from star_rl.report.plots import Bar
from star_rl.report.studies import charts

#: Links to changed tasks that a row shows, and notes and problems that are named.
_LINKS, _NAMED = 8, 40
#: Width of a sub-task's small chart.
_NARROW = 300


#: What the intervals are about, and what they are not.
CHANCE = (
    "Intervals and readings tell what chance in these tasks leaves open. A model that is trained again, or samples "
    "again, differs as well: for one training and one sample of it they say nothing of that."
)


@dataclass(slots=True)
class Verdict:
    """What a reader should know before any table: sentences, the first being the result."""

    result: str
    words: list[str] = field(default_factory=list)
    comparable: str = ""
    problems: list[str] = field(default_factory=list)


def verdict(found: Findings) -> Verdict:
    """The result, what it may be held against, and what went wrong."""
    made = Verdict("No method was asked every task, so none is best.")
    if found.best is not None:
        best = found.methods[found.best].figures
        others = [one for one in found.methods.values() if one.difference is not None]
        made.result = (
            f"{found.best} is best: HR_avg {fixed(best['hr_avg'])}\u00a0% "
            f"(95\u00a0% interval {fixed(best['hr_avg_low'])} to {fixed(best['hr_avg_high'])}) on {best['n']:,} tasks."
        )
        if not others:
            made.result = made.result.replace(" is best:", ", the only method that was asked every task:")
        near = [one.name for one in others if one.difference and one.difference.high >= 0]
        if near:
            made.words.append(f"Not shown to be worse on these tasks (paired interval holds zero): {', '.join(near)}.")
        elif others:
            made.words.append("Every other method is worse, each by its paired interval.")
        writers = [one for one in (*others, found.methods[found.best]) if one.figures["format_rate"] is not None]
        if writers and found.methods[found.best] not in writers:
            top = max(writers, key=lambda one: one.figures["hr_avg"])
            low, high = fixed(top.figures["hr_avg_low"]), fixed(top.figures["hr_avg_high"])
            made.words.append(
                f"Of the methods that write trajectories {top.name} is best: "
                f"HR_avg {fixed(top.figures['hr_avg'])}\u00a0% ({low} to {high}), "
                f"{signed(top.difference.mean if top.difference else None)} against {found.best}."
            )
    sizes = {len(task.candidates) for task in found.tasks}
    if sizes == {CANDIDATES}:
        made.words.append("A random order of 20 candidates scores 15\u00a0%.")
    made.words += found.compared.caveats
    yes = [column.head for column in found.compared.columns if column.comparable]
    if len(yes) == len(found.compared.columns):
        made.comparable = f"Comparable with the paper ({paper.PAPER}): AgentRecBench's own tasks and ground truths."
    elif yes:
        made.comparable = (
            f"Comparable with the paper ({paper.PAPER}) in part: {', '.join(yes)}; the rest are other tasks."
        )
    else:
        made.comparable = (
            f"Not comparable with the paper ({paper.PAPER}): the tasks are a split of other data or one's own, "
            "with other negatives. The paper's figures are shown dimmed, for orientation."
        )
    notes = [f"{one.label}: {note}" for one in found.compared.folders for note in one.figures["notes"]]
    few = [column.head for column in found.compared.columns if column.comparable and column.n != paper.SAMPLES]
    if few:
        notes.append(f"The paper has {paper.SAMPLES} tasks a sub-task; {', '.join(few)} differ.")
    made.problems = [*(words for one in found.methods.values() for words in one.problems), *_beside(found), *notes]
    return made


def _beside(found: Findings) -> list[str]:
    """What went wrong in the studies, and which of them do not belong to the tasks of their folder."""
    said = []
    for label, studies in found.studies.items():
        for name, value in studies.items():
            if value["apart"]:
                said.append(
                    f"{label}: what {name.replace('_', '-')} measured belongs to {value['apart']}, not to this "
                    "evaluation's: it is shown by itself, and not to be held against the tables"
                )
        said += [f"{label}: {words}" for words in corpus.problems((studies.get("corpus") or {}).get("rows", ()))]
    return said


def facts(found: Findings) -> dict[str, str]:
    """What was judged, by name."""
    sizes = sorted({len(task.candidates) for task in found.tasks})
    scenarios = dict.fromkeys(SHORT.get(column.scenario, column.scenario) for column in found.compared.columns)
    return {
        "Tasks": f"{len(found.tasks):,}",
        "Candidates": f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
        "Sources": ", ".join(dict.fromkeys(column.source for column in found.compared.columns)),
        "Scenarios": ", ".join(scenarios),
        "Methods": f"{len(found.methods):,}",
        "Seed": ", ".join(map(str, found.seeds)),
    }


def _differences(found: Findings) -> Chart | None:
    """Paired differences to the best method, the smallest first."""
    rows = [one for one in found.methods.values() if one.difference is not None]
    if not rows or found.best is None:
        return None
    rows.sort(key=lambda one: -(one.difference.mean if one.difference else 0.0))
    title = f"Difference to {found.best}"
    bars = [Bar(one.name, *one.difference[:3]) for one in rows if one.difference]
    return Chart(title, plots.interval_chart("differences", title, bars, "HR_avg, points", (-1.0, 1.0)), [], [], [])


def _multiples(found: Findings) -> list[Chart]:
    """A small chart for each sub-task, all on one scale; none where there is one sub-task only."""
    if len(found.compared.columns) < 2:
        return []
    cells = found.compared.methods
    ends = [row[key] for rows in cells.values() for row in rows.values() for key in ("hr_avg_low", "hr_avg_high")]
    beside = ("MARS", "STAR")
    ends += [
        paper.TABLE1[name][column.cell] for name in beside for column in found.compared.columns if column.comparable
    ]
    order = sorted(cells, key=lambda name: -found.methods[name].figures["hr_avg"])
    made = []
    for place, column in enumerate(found.compared.columns):
        rows = [(name, cells[name][column.cell]) for name in order if column.cell in cells[name]]
        bars = [Bar(name, row["hr_avg"], row["hr_avg_low"], row["hr_avg_high"]) for name, row in rows]
        if column.comparable:
            bars += [Bar(f"{name} (paper)", paper.TABLE1[name][column.cell], paper=True) for name in beside]
        title = f"{column.head}, {column.n:,} tasks"
        bounds = (min(ends), max(ends))
        svg = plots.interval_chart(f"cell-{place}", title, bars, "HR_avg, %", bounds, _NARROW)
        made.append(Chart(title, svg, [], [], []))
    return made


def _sorted(found: Findings) -> Grid:
    """Table 1 without its row of n, which is among the heads there, the best method first."""
    made = grid(found.compared)
    value = {name: one.figures["hr_avg"] for name, one in found.methods.items()}
    ours = sorted((row for row in made.rows[1:] if row.name in value), key=lambda row: -value[row.name])
    return replace(made, rows=[*ours, *(row for row in made.rows[1:] if row.name not in value)])


#: Columns of the methods' table: key, head, factor, digits.
_COLUMNS = (
    *((f"hr{k}", f"HR@{k} %", 1.0, 1) for k in (1, 3, 5)),
    ("ndcg5", "NDCG@5", 1.0, 1),
    ("ndcg10", "NDCG@10", 1.0, 1),
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


def tables(found: Findings) -> list[Grid]:
    """What the page tells in tables, for Markdown and LaTeX: methods, differences, table 1, the studies."""
    ordered = sorted(found.methods.values(), key=lambda one: -one.figures["hr_avg"])
    rows, apart_rows = [], []
    for one in ordered:
        row = one.figures
        shown = f"{fixed(row['hr_avg'])} [{fixed(row['hr_avg_low'])}, {fixed(row['hr_avg_high'])}]"
        cells: list[Cell] = [(row["hr_avg"], shown)]
        for key, _, factor, digits in _COLUMNS:
            value = None if key in DEEP and is_short(row) else row.get(key)
            cells.append((value, fixed(None if value is None else value * factor, digits)))
        rows.append(Row(one.name, cells))
        if (d := one.difference) is not None:
            apart_rows.append(
                Row(one.name, [(d.mean, f"{d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}]"), (d.p, fixed(d.p, 3))])
            )
    heads = ["method", "HR_avg % [95 %]", *(head for _, head, _, _ in _COLUMNS)]
    told = verdict(found)
    made = [Grid("Methods", heads, rows, notes=[told.result, *told.words, told.comparable, *told.problems, CHANCE])]
    if apart_rows:
        title = f"Each method minus {found.best}, HR_avg in points, paired"
        made.append(Grid(title, ["method", "difference [95 %]", "p"], apart_rows))
    made += [replace(made_of, notes=[]) for made_of in grids(found.compared, whole=False)]
    return made + _studied(found)


def _studied(found: Findings) -> list[Grid]:
    made = []
    for label, studies in found.studies.items():
        for name, study in studies.items():
            tag = f"{label}, {study['apart']}: " if study["apart"] else f"{label}: " if len(found.studies) > 1 else ""
            own = []
            try:
                if name == "corpus":
                    own = [corpus.grid(study["rows"])]
                elif name == "best_of_k":
                    own = [best_of_k.grid(one) for one in study["methods"]]
                elif study.get("base"):
                    own = [latency.grid(study["rows"], study["ratios"], study["base"])]
            except (KeyError, TypeError, IndexError) as error:
                raise StarError(
                    f"what {name.replace('_', '-')} left in {label} is not of this version ({error!r})", "measure again"
                ) from error
            made += [replace(one, title=f"{tag}{one.title}") for one in own]
    return made


@dataclass(frozen=True, slots=True)
class Line:
    """A change as the table of changes shows it; links are (anchor or empty, task id)."""

    change: Change
    gained: list[tuple[str, str]]
    lost: list[tuple[str, str]]


def render_evaluation(found: Findings, made: Sequence[Change], table2: Mapping[str, Any] | None = None) -> str:
    """The page as text.

    Args:
        table2: what ``star-rl ablate`` found, where the folders are its runs.
    """
    groups = choose(found, made)
    shown = anchors(groups)

    def links(places: Sequence[int]) -> list[tuple[str, str]]:
        return [(shown.get(place, ""), found.tasks[place].task_id) for place in places[:_LINKS]]

    told = verdict(found)
    return rendered(
        "evaluation.html.jinja",
        title=", ".join(one.label for one in found.compared.folders),
        found=found,
        methods=sorted(found.methods.values(), key=lambda one: -one.figures["hr_avg"]),
        verdict=told,
        named=_NAMED,
        facts=facts(found),
        differences=_differences(found),
        columns=found.compared.columns,
        table1=_sorted(found),
        apart=paper_grid(found.compared),
        multiples=_multiples(found),
        figures=charts(found, table2),
        short=is_short,
        chance=CHANCE,
        corpus={label: one["corpus"] for label, one in found.studies.items() if one.get("corpus")},
        changes=[Line(one, links(one.gained), links(one.lost)) for one in made],
        groups=groups,
        fingerprints={one.label: one.figures["tasks"]["fingerprint"] for one in found.compared.folders},
    )


def write_evaluation(
    folders: Sequence[Path], page: Path | None = None, table2: Mapping[str, Any] | None = None
) -> Path:
    """Make the page of one evaluation, or of several beside each other.

    Args:
        page: where it goes; without it, ``report.html`` in the first folder, and its tables beside it as ``tables.md``
            and ``tables.tex``.

    Raises:
        StarError: a folder is no evaluation or does not go with the others, or the page cannot be written.
    """
    found = gather(folders)
    if page is None:
        write(found.compared.folders[0].folder, "tables", tables(found))
    target = page or found.compared.folders[0].folder / PAGE_NAME
    write_text(target, render_evaluation(found, changes(found), table2))
    return target
