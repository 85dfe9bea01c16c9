"""Draw an evaluation: differences, subtasks, and the paper's figures beside our measurements.

A figure is drawn only if the folders hold its data. What the paper printed stands beside it, dimmed, and its label says
whether it comes from the same tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from star_rl.errors import StarError
from star_rl.evaluation import paper
from star_rl.evaluation.studies import latency
from star_rl.records import SCENARIOS
from star_rl.report.charts import Bar, Chart, Point, Trace, interval_chart, number, xy_chart
from star_rl.report.findings import Findings
from star_rl.report.grid import fixed, spread

_HR = "HR_avg, %"
#: Width of a subtask's small chart.
_NARROW = 300
#: Methods of an evaluation -> their names in the paper's table 2.
_ROWS = {
    **dict.fromkeys(("mars", "teacher"), "MARS"),
    **dict.fromkeys(("mars-planner", "teacher-planner"), "MARS-Planner"),
    paper.RULES: paper.RULES,
    "star": "STAR",
    "sft": "STAR w/o GRPO",
}


def differences(found: Findings) -> Chart | None:
    """Draw each method's paired difference to the best, the smallest first."""
    rows = [(one.name, one.difference) for one in found.methods.values() if one.difference is not None]
    if not rows:
        return None
    bars = [Bar(name, *difference[:3]) for name, difference in sorted(rows, key=lambda row: -row[1].mean)]
    return interval_chart("differences", f"Difference to {found.best}", bars, "HR_avg, points", (-1.0, 1.0))


def subtasks(found: Findings) -> list[Chart]:
    """Draw a small chart for each subtask, all on one scale; none for a single subtask."""
    columns, cells, beside = found.compared.columns, found.compared.methods, ("MARS", "STAR")
    if len(columns) < 2:
        return []
    ends = [row[key] for rows in cells.values() for row in rows.values() for key in ("hr_avg_low", "hr_avg_high")]
    ends += [paper.TABLE1[name][column.cell] for name in beside for column in columns if column.comparable]
    order = [one.name for one in found.ordered if one.name in cells]
    made = []
    for place, column in enumerate(columns):
        rows = [(name, cells[name][column.cell]) for name in order if column.cell in cells[name]]
        bars = [Bar(name, *_interval(row)) for name, row in rows]
        if column.comparable:
            bars += [Bar(f"{name} (paper)", paper.TABLE1[name][column.cell], paper=True) for name in beside]
        title = f"{column.head}, {column.n:,} tasks"
        made.append(interval_chart(f"cell-{place}", title, bars, _HR, (min(ends), max(ends)), _NARROW))
    return made


def figures(found: Findings, table2: Mapping[str, Any] | None = None) -> list[Chart]:
    """Draw all figures of the paper that there are data for.

    Args:
        table2: what ``star-rl ablate`` found; without it, the ablations among the methods.

    Raises:
        StarError: a study's file is not of this version.
    """
    ours = _ablations(found) if table2 is None else {k: _interval(v["overall"]) for k, v in table2["rows"].items()}
    made = [_ablation(found, ours), _scaling(found)]
    for place, (label, beside) in enumerate(found.studies.items()):
        tag = f" ({label})" if len(found.studies) > 1 else ""
        try:
            chosen = beside.get("best_of_k") or {}
            for nth, one in enumerate(chosen.get("methods", ())):
                made.append(_best_of_k(found, one, tag + _apart(chosen), f"study-k-{place}-{nth}"))
            made.append(_trade_off(found, beside.get("latency") or {}, tag, f"study-latency-{place}"))
        except (KeyError, TypeError, IndexError) as error:
            raise StarError(
                f"what best-of-k or latency left in {label} is not of this version ({error!r})", "measure again"
            ) from error
    return [chart for chart in made if chart is not None]


def _remark(found: Findings, where: str, source: str = "goodreads") -> tuple[str, str]:
    """Return the label of the paper's part and the sentence under the figure."""
    columns, label = found.compared.columns, f"paper, {source.capitalize()}"
    same = {column.cell for column in columns} == {(source, scenario) for scenario in SCENARIOS}
    if same and all(column.comparable for column in columns):
        return label, f"Dimmed: {paper.PAPER}, {where}, on the same tasks."
    words = f"Dimmed: {paper.PAPER}, {where}, on {source.capitalize()} and other tasks: not comparable."
    return f"{label}, other tasks", words


def _interval(row: Mapping[str, Any]) -> tuple[float, float, float]:
    return row["hr_avg"], row["hr_avg_low"], row["hr_avg_high"]


def _ablations(found: Findings) -> dict[str, tuple[float, float, float]]:
    """Return the rows of table 2 among the methods, by their plain names."""
    rows = {}
    for name, one in found.methods.items():
        base, *lacks = name.split(" w/o ")
        row = _ROWS.get(base)
        if row and one.whole and (not lacks or row in ("MARS", paper.RULES)):
            key = row + "".join(f" w/o {part.capitalize()}" for part in lacks)
            if paper.row_of(key):
                rows[key] = _interval(one.figures)
    return rows


def _ablation(found: Findings, rows: Mapping[str, tuple[float, float, float]]) -> Chart | None:
    if len(rows) < 2:
        return None
    label, remark = _remark(found, "table 2")
    bars, numbers = [], []
    for theirs, printed in paper.TABLE2_AVERAGE.items():
        for name in (own for own in rows if paper.row_of(own) == theirs):
            value, low, high = rows[name]
            other = "paper" if theirs == name else f"{theirs} (paper)"
            bars += [Bar(name, value, low, high), Bar(other, printed, paper=True)]
            numbers.append([name, fixed(value), f"{fixed(low)} to {fixed(high)}", fixed(printed)])
    chart = interval_chart("study-ablation", "Ablation", bars, _HR)
    chart.heads, chart.rows = ["method", "HR_avg %", "95 %", label], numbers
    chart.remark = f"Filled: here, with 95 % intervals. {remark}"
    return chart


def _scaling(found: Findings) -> Chart | None:
    sized = [one for one in found.methods.values() if one.whole and one.figures.get("parameters")]
    if len({one.figures["parameters"] for one in sized}) < 2:
        return None
    label, remark = _remark(found, "figure 5")
    sized.sort(key=lambda one: one.figures["parameters"])
    ours = [Point(one.figures["parameters"], *_interval(one.figures), one.name) for one in sized]
    theirs = [Point(size, value) for size, value in paper.SCALING.items()]
    traces = [Trace("here", ours, joined=False), Trace(label, theirs, paper=True)]
    chart = xy_chart("study-scaling", "Sizes of the student", traces, "parameters", _HR, log=True)
    chart.heads = ["student", "parameters", "HR_avg %"]
    chart.rows = [[point.label, number(point.x), fixed(point.y)] for point in ours]
    chart.remark = remark
    return chart


def _best_of_k(found: Findings, one: Mapping[str, Any], tag: str, name: str) -> Chart:
    sources = {column.source for column in found.compared.columns}
    source = next((known for known in paper.BEST_OF_K if {known} == sources), "goodreads")
    table, printed = paper.BEST_OF_K[source]
    label, remark = _remark(found, table, source)
    traces = [
        Trace(way, [Point(row["k"], row["hr_avg"], row["low"], row["high"]) for row in rows])
        for way, rows in one["curves"].items()
    ]
    theirs = [Point(k, value) for k, value in zip(paper.BEST_OF, printed["STAR"], strict=True)]
    title = f"Best of k: {one['method']}{tag}, {one['n']:,} tasks"
    drawn, places = [*traces, Trace(label, theirs, paper=True)], [float(k) for k in paper.BEST_OF]
    chart = xy_chart(name, title, drawn, "samples k", _HR, log=True, places=places)
    chart.heads = ["k", *(trace.name for trace in traces)]
    for k in range(one["samples"]):
        points = [trace.points[k] for trace in traces]
        chart.rows.append([str(k + 1), *(spread(point.y, point.low, point.high) for point in points)])
    chart.remark = f"best has to know the truth; the other choices can be deployed. {remark}"
    return chart


def _apart(study: Mapping[str, Any]) -> str:
    return f" ({study['apart']})" if study.get("apart") else ""


def _trade_off(found: Findings, study: Mapping[str, Any], tag: str, name: str) -> Chart | None:
    rows: Sequence[dict[str, Any]] = study.get("rows", ())
    if not rows:
        return None
    traces, whole = [], []
    for row in rows:
        point = Point(row["p50"], row["hr_avg"], label=row["name"])
        method = found.methods.get(row["name"])
        if method is not None and method.whole and not row["scripted"] and not study["apart"]:  # more tasks than timed
            point = Point(row["p50"], *_interval(method.figures), row["name"])
            whole.append(row["name"])
        rules = " (quality of the rules)" if row["scripted"] else ""
        traces.append(Trace(row["name"] + rules, [point], joined=False))
    theirs = [Point(paper.LATENCY[who], paper.TABLE2_AVERAGE[who], label=f"{who} (paper)") for who in paper.LATENCY]
    traces.append(Trace("paper, Goodreads, other tasks and hardware", theirs, paper=True, joined=False))
    title = f"Quality against latency{tag}{_apart(study)}, {rows[0]['n']:,} requests each"
    chart = xy_chart(name, title, traces, "seconds a request, median", _HR, log=True)
    table = latency.grid(rows, study.get("ratios") or {}, study.get("base") or "")
    chart.heads, chart.rows = table.heads, table.lines
    remarks = ["One request at a time, the same engine and tasks.", *table.notes[:-1]]
    if whole:
        remarks.append(f"The quality of {', '.join(whole)} is that of all {len(found.tasks):,} tasks.")
    remarks.append(f"Dimmed: {paper.PAPER}, figure 4, on other tasks and hardware: not comparable.")
    chart.remark = " ".join(remarks)
    return chart
