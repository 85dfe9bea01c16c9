"""Write evaluations as one self-contained HTML page: the verdict first, then tables, figures and tasks.

The page is made of the folders' files alone, so it can be made again wherever they go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from star_rl.errors import StarError
from star_rl.evaluation import paper
from star_rl.evaluation.compare import SHORT, grid, grids, other_sizes, published, too_deep
from star_rl.evaluation.studies import best_of_k, corpus, latency
from star_rl.files import write_text
from star_rl.records import CANDIDATES
from star_rl.report.cases import choose
from star_rl.report.figures import differences, figures, subtasks
from star_rl.report.findings import STUDIES, Change, Findings, changes, changes_grid, gather
from star_rl.report.grid import Grid, Row, fixed, methods, read, signed, spread, write
from star_rl.report.page import PAGE_NAME, rendered

#: Links to changed tasks in a row, and problems that are named.
_LINKS, _NAMED = 8, 40
#: What the intervals say, and what they do not.
CHANCE = (
    "Intervals and readings tell what chance in these tasks leaves open. A model that is trained again, or samples "
    "again, differs as well: for one training and one sample of it they say nothing of that."
)


@dataclass(slots=True)
class Verdict:
    """Sentences that a reader needs before any table; ``result`` comes first."""

    result: str
    words: list[str] = field(default_factory=list)
    comparable: str = ""
    problems: list[str] = field(default_factory=list)


def verdict(found: Findings) -> Verdict:
    """Return the result, what it may be compared with, and what went wrong."""
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
        writers = [one for one in (*others, found.methods[found.best]) if one.writes]
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
    notes += other_sizes(found.compared)
    made.problems = [*(words for one in found.methods.values() for words in one.problems), *_beside(found), *notes]
    return made


def _beside(found: Findings) -> list[str]:
    """Return problems of the studies, and which of them measured other tasks than their folder's."""
    said = []
    for label, studies in found.studies.items():
        for name, value in studies.items():
            if value["apart"]:
                said.append(
                    f"{label}: what {name.replace('_', '-')} measured belongs to {value['apart']}, not to this "
                    "evaluation's: it is shown by itself; do not compare it with the tables"
                )
        said += [f"{label}: {words}" for words in corpus.problems((studies.get("corpus") or {}).get("rows", ()))]
    return said


def facts(found: Findings) -> dict[str, str]:
    """Return what was evaluated, by name."""
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


def _methods(found: Findings, notes: Sequence[str] = ()) -> Grid:
    """Return the table of methods, the best first."""
    rows = [one.figures | {"name": one.name} for one in found.ordered]
    rows = [row | dict.fromkeys(too_deep(row.get("longest"))) for row in rows]
    return methods(rows, notes=notes)


def _differences(found: Findings) -> Grid | None:
    """Return each method's paired difference to the best."""
    rows = []
    for one in found.ordered:
        if (d := one.difference) is not None:
            cells = [(d.mean, spread(d.mean, d.low, d.high, signed)), (d.p, fixed(d.p, 3)), read(d, "better", "worse")]
            rows.append(Row(one.name, cells))
    heads = ["method", "difference [95 %]", "p", "reading"]
    return Grid(f"Each method minus {found.best}, HR_avg in points, paired", heads, rows) if rows else None


def _table1(found: Findings) -> Grid:
    """Return table 1 without its row of n, the best method first."""
    made = grid(found.compared)
    place = {one.name: place for place, one in enumerate(found.ordered)}
    return replace(made, rows=sorted(made.rows[1:], key=lambda row: place.get(row.name, len(place))))


def tables(found: Findings) -> list[Grid]:
    """Return the page's tables for Markdown and LaTeX: methods, differences, table 1, the studies."""
    told, apart_ = verdict(found), _differences(found)
    made = [_methods(found, [told.result, *told.words, told.comparable, *told.problems, CHANCE])]
    made += [apart_] if apart_ else []
    made += [replace(one, notes=[]) for one in grids(found.compared, whole=False)]
    return made + [one for name in STUDIES for one in _studied(found, name)]


def _studied(found: Findings, name: str) -> list[Grid]:
    """Return the tables of one study of every folder."""
    made = []
    for label, studies in found.studies.items():
        study = studies.get(name)
        if study is None:
            continue
        apart_ = f" ({study['apart']}, not comparable with the tables above)" if study["apart"] else ""
        tag = f"{label}{apart_}: " if apart_ or len(found.studies) > 1 else ""
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


def render_evaluation(found: Findings, made: Sequence[Change], table2: Mapping[str, Any] | None = None) -> str:
    """Return the page as text.

    Args:
        table2: what ``star-rl ablate`` found, if the folders are its runs.
    """
    groups = choose(found, made)
    shown = {case.place: case.anchor for group in groups for case in group.cases}

    def links(places: Sequence[int]) -> str:
        """Return the number of the tasks and the first of them, linked where the page shows them."""
        words = []
        for place in places[:_LINKS]:
            task, anchor = found.tasks[place].task_id, shown.get(place)
            name = task if len(task) <= 40 else f"{task[:37]}..."
            words.append(Markup('<a href="#{}">{}</a>').format(anchor, name) if anchor else escape(name))
        more = f" and {len(places) - _LINKS} more" if len(places) > _LINKS else ""
        return Markup("{}{}{}{}").format(len(places), ": " if words else "", Markup(", ").join(words), more)

    return rendered(
        "evaluation.html.jinja",
        title=", ".join(one.label for one in found.compared.folders),
        found=found,
        verdict=verdict(found),
        named=_NAMED,
        facts=facts(found),
        methods=_methods(found),
        differences=_differences(found),
        difference_chart=differences(found),
        table1=_table1(found),
        published=published(found.compared),
        subtasks=subtasks(found),
        figures=figures(found, table2),
        chance=CHANCE,
        corpus=_studied(found, "corpus"),
        changes=changes_grid(made, links) if made else None,
        groups=groups,
        fingerprints={one.label: one.figures["tasks"]["fingerprint"] for one in found.compared.folders},
    )


def write_evaluation(
    folders: Sequence[Path], page: Path | None = None, table2: Mapping[str, Any] | None = None
) -> Path:
    """Write the page of one evaluation, or of several beside each other; return its path.

    Args:
        page: where it goes; by default ``report.html`` in the first folder, with ``tables.md`` and ``tables.tex``.

    Raises:
        StarError: a folder is not an evaluation or does not go with the others, or the page cannot be written.
    """
    found = gather(folders)
    if page is None:
        write(found.compared.folders[0].folder, "tables", tables(found))
    target = page or found.compared.folders[0].folder / PAGE_NAME
    write_text(target, render_evaluation(found, changes(found), table2))
    return target
