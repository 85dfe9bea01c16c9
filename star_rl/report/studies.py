"""The paper's figures, drawn with our measurements: ablation, sizes of the student, best of k, quality against latency.

A figure is drawn only where its data lie in the folders. What the paper printed stands beside it, dimmed, and its label
says whether it comes from the same tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from star_rl.errors import StarError
from star_rl.evaluation import paper
from star_rl.evaluation.studies import latency
from star_rl.records import SCENARIOS
from star_rl.report import plots
from star_rl.report.figure import number
from star_rl.report.findings import Findings
from star_rl.report.page import Chart, fixed
from star_rl.report.plots import Bar, Point, Trace

_HR = "HR_avg, %"
#: Methods of an evaluation -> what they are called beside the paper's table 2.
_ROWS = {
    **dict.fromkeys(("mars", "teacher"), "MARS"),
    **dict.fromkeys(("mars-planner", "teacher-planner"), "MARS-Planner"),
    paper.RULES: paper.RULES,
    "star": "STAR",
    "sft": "STAR w/o GRPO",
}


def charts(found: Findings, table2: Mapping[str, Any] | None = None) -> list[Chart]:
    """All figures that there are data for.

    Args:
        table2: what ``star-rl ablate`` found; without it, the ablations among the methods.

    Raises:
        StarError: a study's file is not of this version.
    """
    made = [_ablation(found, _measured(found) if table2 is None else _of_runs(table2)), _scaling(found)]
    for place, (label, beside) in enumerate(found.studies.items()):
        tag = f" ({label})" if len(found.studies) > 1 else ""
        try:
            chosen, timed = beside.get("best_of_k") or {}, beside.get("latency") or {}
            for nth, one in enumerate(chosen.get("methods", ())):
                made.append(_best_of_k(found, one, tag + _apart(chosen), f"study-k-{place}-{nth}"))
            made.append(_trade_off(found, timed, tag, f"study-latency-{place}"))
        except (KeyError, TypeError, IndexError) as error:
            raise StarError(
                f"what best-of-k or latency left in {label} is not of this version ({error!r})", "measure again"
            ) from error
    return [chart for chart in made if chart is not None]


def same_tasks(found: Findings, source: str) -> bool:
    """Are the tasks those of the paper's figures on this source: all five sub-tasks, and nothing else?"""
    cells = {column.cell for column in found.compared.columns}
    wanted = {(source, scenario) for scenario in SCENARIOS}
    return cells == wanted and all(column.comparable for column in found.compared.columns)


def _remark(found: Findings, where: str, source: str = "goodreads") -> tuple[str, str]:
    """How the paper's part is labelled, and the sentence under the figure."""
    if same_tasks(found, source):
        return f"paper, {source.capitalize()}", f"Dimmed: {paper.PAPER}, {where}, on the same tasks."
    words = f"Dimmed: {paper.PAPER}, {where}, on {source.capitalize()} and other tasks: not comparable."
    return f"paper, {source.capitalize()}, other tasks", words


def _measured(found: Findings) -> dict[str, tuple[float, float, float]]:
    """Rows of table 2 among the methods, by their plain names."""
    rows = {}
    for name, one in found.methods.items():
        base, *lacks = name.split(" w/o ")
        row = _ROWS.get(base)
        if row and one.whole and (not lacks or row in ("MARS", paper.RULES)):
            key = row + "".join(f" w/o {part.capitalize()}" for part in lacks)
            if paper.row_of(key):
                rows[key] = _interval(one.figures)
    return rows


def _of_runs(table2: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    return {name: _interval(row["overall"]) for name, row in table2["rows"].items()}


def _interval(row: Mapping[str, Any]) -> tuple[float, float, float]:
    return row["hr_avg"], row["hr_avg_low"], row["hr_avg_high"]


def _ablation(found: Findings, rows: Mapping[str, tuple[float, float, float]]) -> Chart | None:
    if len(rows) < 2:
        return None
    label, remark = _remark(found, "table 2")
    bars, numbers = [], []
    for theirs, printed in paper.TABLE2_AVERAGE.items():
        for name in (own for own in rows if paper.row_of(own) == theirs):
            value, low, high = rows[name]
            bars += [
                Bar(name, value, low, high),
                Bar(f"{theirs} (paper)" if theirs != name else "paper", printed, paper=True),
            ]
            numbers.append([name, fixed(value), f"{fixed(low)} to {fixed(high)}", fixed(printed)])
    return Chart(
        "Ablation",
        plots.interval_chart("study-ablation", "Ablation", bars, _HR),
        [(plots.swatch(0, joined=False), "here, 95 % interval"), (plots.swatch(2, True, False), label)],
        ["method", "HR_avg %", "95 %", "paper"],
        numbers,
        remark=remark,
    )


def _scaling(found: Findings) -> Chart | None:
    sized = [one for one in found.methods.values() if one.whole and one.figures.get("parameters")]
    if len({one.figures["parameters"] for one in sized}) < 2:
        return None
    label, remark = _remark(found, "figure 5")
    sized.sort(key=lambda one: one.figures["parameters"])
    ours = [Point(one.figures["parameters"], *_interval(one.figures), one.name) for one in sized]
    theirs = [Point(size, value) for size, value in paper.SCALING.items()]
    traces = [Trace("here", ours, joined=False), Trace(label, theirs, paper=True)]
    return Chart(
        "Sizes of the student",
        plots.xy_chart("study-scaling", "Sizes of the student", traces, "parameters", _HR, log=True),
        _legend(traces),
        ["student", "parameters", "HR_avg %"],
        [[point.label, number(point.x), fixed(point.y)] for point in ours],
        remark=remark,
    )


def _best_of_k(found: Findings, one: Mapping[str, Any], tag: str, name: str) -> Chart:
    sources = {column.source for column in found.compared.columns}
    source = next((known for known in paper.BEST_OF_K if {known} == sources), "goodreads")
    table, printed = paper.BEST_OF_K[source]
    label, remark = _remark(found, table, source)
    traces = [
        Trace(way, [Point(row["k"], row["hr_avg"], row["low"], row["high"]) for row in rows])
        for way, rows in one["curves"].items()
    ]
    numbers = [
        [
            str(k + 1),
            *(
                f"{fixed(trace.points[k].y)} [{fixed(trace.points[k].low)}, {fixed(trace.points[k].high)}]"
                for trace in traces
            ),
        ]
        for k in range(one["samples"])
    ]
    traces.append(
        Trace(label, [Point(k, value) for k, value in zip(paper.BEST_OF, printed["STAR"], strict=True)], True)
    )
    title = f"Best of k: {one['method']}{tag}, {one['n']:,} tasks"
    places = [float(k) for k in paper.BEST_OF]
    return Chart(
        title,
        plots.xy_chart(name, title, traces, "samples k", _HR, log=True, places=places),
        _legend(traces),
        ["k", *(trace.name for trace in traces[:-1])],
        numbers,
        remark=f"best has to know the truth; the other choices can be deployed. {remark}",
    )


def _apart(study: Mapping[str, Any]) -> str:
    return f" ({study['apart']})" if study.get("apart") else ""


def _trade_off(found: Findings, study: Mapping[str, Any], tag: str, name: str) -> Chart | None:
    rows: Sequence[Mapping[str, Any]] = study.get("rows", ())
    if not rows:
        return None
    traces, judged = [], []
    for row in rows:
        point = Point(row["p50"], row["hr_avg"], label=row["name"])
        whole = found.methods.get(row["name"])
        if whole is not None and whole.whole and not row["scripted"] and not study["apart"]:  # more tasks than timed
            point = Point(row["p50"], *_interval(whole.figures), row["name"])
            judged.append(row["name"])
        traces.append(
            Trace(row["name"] + (" (quality of the rules)" if row["scripted"] else ""), [point], joined=False)
        )
    theirs = [Point(paper.LATENCY[who], paper.TABLE2_AVERAGE[who], label=f"{who} (paper)") for who in paper.LATENCY]
    traces.append(Trace("paper, Goodreads, other tasks and hardware", theirs, paper=True, joined=False))
    title = f"Quality against latency{tag}{_apart(study)}, {rows[0]['n']:,} requests each"
    return Chart(
        title,
        plots.xy_chart(name, title, traces, "seconds a request, median", _HR, log=True),
        _legend(traces),
        ["method", "p50 s", "p95 s", "p99 s", "calls", "tokens in", "tokens out", "tool ms", "HR_avg %"],
        [
            [
                row["name"],
                *(fixed(row[key], 3) for key in ("p50", "p95", "p99")),
                *(fixed(row[key], digits) for key, digits in (("calls", 1), ("tokens_in", 0), ("tokens_out", 0))),
                fixed(None if row["tool_seconds"] is None else 1000 * row["tool_seconds"], 2),
                f"({fixed(row['hr_avg'])})" if row["scripted"] else fixed(row["hr_avg"]),
            ]
            for row in rows
        ],
        remark="One request at a time, the same engine and tasks. "
        + _ratios(study)
        + (f"The quality of {', '.join(judged)} is that of all {len(found.tasks):,} tasks. " if judged else "")
        + (
            "In brackets: the words, so the quality, are those of the rules. "
            if any(r["scripted"] for r in rows)
            else ""
        )
        + f"Dimmed: {paper.PAPER}, figure 4, on other tasks and hardware: not comparable.",
    )


def _ratios(study: Mapping[str, Any]) -> str:
    """The grid's notes on ratios, prompts and tokens, for the figure."""
    ratios = study.get("ratios") or {}
    if not study.get("base") or not all(isinstance(one, dict) for one in ratios.values()):
        return ""
    return " ".join(latency.grid(study["rows"], ratios, study["base"]).notes[:-1]) + " "


def _legend(traces: Sequence[Trace]) -> list[tuple[Any, str]]:
    return [(plots.swatch(index, one.paper, one.joined), one.name) for index, one in enumerate(traces)]
