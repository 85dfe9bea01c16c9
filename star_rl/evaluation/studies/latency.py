"""Latency: the cost of one request, methods on the same engine and the same tasks, one task at a time.

Seconds are wall time from the task to its ranking, with nothing else in flight. ``calls`` wait for one another: of
calls that run at once the longest chain counts. How tokens are counted: :data:`COUNTED`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from star_rl.errors import StarError
from star_rl.evaluation import metrics, paper
from star_rl.evaluation.methods import Method, Ranking, as_ranking, make
from star_rl.evaluation.runner import ContextOf
from star_rl.evaluation.tasks import TaskSet
from star_rl.progress import Progress
from star_rl.records import Task
from star_rl.report.grid import DASH, Grid, Row

#: Requests before the measured ones: engines compile and caches fill.
WARM = 3
#: Requests from which on a 99th percentile is more than the slowest of them.
ENOUGH = 100
#: How tokens in are counted.
COUNTED = (
    "Tokens in: of every call's whole prompt for methods of several calls; for a student, whose turns go on in one "
    "context, each token once."
)


async def measure(
    method: Method,
    tasks: Sequence[Task],
    context_of: ContextOf,
    warm: int = WARM,
    progress: Progress | None = None,
) -> list[Ranking]:
    """Rank tasks one after the other with an open method. The first ``warm`` are asked once before, as another sample,
    so that no cache of answers makes the measured ones fast.

    Raises:
        StarError: there are no tasks.
    """
    if not tasks:
        raise StarError("there are no tasks to time", "give 1 or more")
    found = []
    for number, task in enumerate([*tasks[:warm], *tasks]):
        context = context_of(task, int(number < min(warm, len(tasks))))
        began = time.perf_counter()
        answer = as_ranking(await method.rank(context))
        if answer.seconds is None:
            answer.seconds = time.perf_counter() - began
        if number >= min(warm, len(tasks)):
            found.append(answer)
        if progress is not None:
            progress(number + 1, len(tasks) + min(warm, len(tasks)), method.name)
    return found


def row(
    name: str, found: Sequence[Ranking], tasks: Sequence[Task], scripted: bool = False, prompt: str = ""
) -> dict[str, Any]:
    """Return the figures of one method; ``None`` for what it does not have.

    Args:
        scripted: the rules wrote the words, so the quality is not the model's
            (:mod:`star_rl.evaluation.studies.scripted`).
        prompt: a phrase on what its prompts show.
    """
    seconds = np.array([answer.seconds for answer in found], float)
    ranks = np.array(
        [metrics.rank_of(answer.ids, task.ground_truth) for answer, task in zip(found, tasks, strict=True)]
    )
    result: dict[str, Any] = {"name": name, "n": len(found), "scripted": scripted, "prompt": prompt}
    result |= {f"p{q}": float(np.percentile(seconds, q)) for q in (50, 95)}
    result["p99"] = float(np.percentile(seconds, 99)) if len(found) >= ENOUGH else None
    result["seconds"] = seconds.tolist()
    result["mean"] = float(seconds.mean())
    for field in ("calls", "tokens_in", "tokens_out", "tool_calls", "tool_seconds"):
        values = [value for answer in found if (value := getattr(answer, field)) is not None]
        result[field] = float(np.mean(values)) if values else None
    result["hr_avg"] = 100 * float(metrics.hr_avg(ranks).mean())
    result["failed"] = int((ranks == metrics.FAILED).sum())
    return result


def ratios(
    rows: Sequence[dict[str, Any]], base: str, resamples: int = 2000, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Return every method's median seconds over those of ``base``, with a 95 % interval; tasks are resampled."""
    whole = np.array(next(row["seconds"] for row in rows if row["name"] == base))
    drawn = np.random.default_rng(seed).integers(0, len(whole), (resamples, len(whole)))
    below = np.median(whole[drawn], axis=1)
    found = {}
    for row in rows:
        if row["name"] != base:
            own = np.array(row["seconds"])
            low, high = np.percentile(np.median(own[drawn], axis=1) / below, [2.5, 97.5])
            ratio = float(np.median(own) / np.median(whole))
            found[row["name"]] = {"ratio": ratio, "low": float(low), "high": float(high)}
    return found


def grid(rows: Sequence[dict[str, Any]], found: Mapping[str, Mapping[str, float]], base: str) -> Grid:
    """Return the table, with notes on ratios, prompts, how tokens are counted, and the paper's seconds."""
    heads = ["method", "n", "p50 s", "p95 s", "p99 s", "calls", "tokens in", "tokens out", "tool ms", "HR_avg %"]
    lines = []
    for one in rows:
        tool = None if one["tool_seconds"] is None else 1000 * one["tool_seconds"]
        numbers = [(one["n"], 0), *((one[q], 3) for q in ("p50", "p95", "p99"))]
        numbers += [(one["calls"], 1), (one["tokens_in"], 0), (one["tokens_out"], 0), (tool, 2)]
        quality = f"({one['hr_avg']:.1f})" if one["scripted"] else f"{one['hr_avg']:.1f}"
        cells = [(value, DASH if value is None else f"{value:,.{digits}f}") for value, digits in numbers]
        lines.append(Row(one["name"], [*cells, (one["hr_avg"], quality)]))
    notes = [
        f"{name} takes {one['ratio']:.1f} times as long as {base} (median, 95 % {one['low']:.1f} to {one['high']:.1f})."
        for name, one in found.items()
    ]
    notes += [f"{one['name']} reads {one['prompt']}." for one in rows if one["prompt"]]
    notes.append(COUNTED)
    if any(one["p99"] is None for one in rows):
        notes.append(f"p99: from {ENOUGH} requests on; of fewer it would be the slowest.")
    if any(one["scripted"] for one in rows):
        notes.append("In brackets: words from the rules, at the length they have; the quality is not this model's.")
    slow, fast = paper.LATENCY["MARS"], paper.LATENCY["STAR"]
    notes.append(
        f"The paper: MARS {slow:.0f} s, STAR {fast:.0f} s, {slow / fast:.1f} times, on other hardware ({paper.PAPER})."
    )
    return Grid("Latency of one request", heads, lines, notes=notes)


async def measure_all(
    run: Any, student: Method, against: Sequence[str], tasks: TaskSet, seed: int, progress: Progress
) -> list[dict[str, Any]]:
    """Return the rows of the student, of MARS and MARS-Planner on its engine, and of further methods."""
    from star_rl.evaluation.methods.student import StudentMethod
    from star_rl.evaluation.runner import context_of
    from star_rl.evaluation.studies.scripted import ScriptedTeacher

    if not isinstance(student, StudentMethod):
        raise StarError(f"{student.name} is no student", "give star, star:sft or star:FOLDER")
    student.widen()  # the agents' prompts are longer than the student's own
    contexts, prompt = context_of(run), run.prompt
    shows = (
        f"its own prompt: profile {prompt.profile}, the last {prompt.history} items, {prompt.budget:,} tokens at most"
    )
    async with student:
        found = await measure(student, tasks.tasks, contexts, progress=progress)
        rows = [row(student.name, found, tasks.tasks, prompt=shows)]
        for name, planner in (("MARS", False), ("MARS-Planner", True)):
            team = ScriptedTeacher(run, name, student, seed, planner)
            found = await measure(team, tasks.tasks, contexts, progress=progress)
            rows.append(row(name, found, tasks.tasks, True, team.shows))
    with tempfile.TemporaryDirectory() as folder:  # an empty cache, so that every call is made
        for text in against:
            async with make(text, run, seed, Path(folder)) as method:
                found = await measure(method, tasks.tasks, contexts, progress=progress)
                rows.append(row(method.name, found, tasks.tasks))
    return rows
