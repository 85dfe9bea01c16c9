"""What one request costs: methods on the same engine and the same tasks, one task at a time.

Seconds are wall time from the task to its ranking, with nothing else in flight. ``calls`` wait for one another: of
those that run at once the longest row counts. Tokens in are those of every call's prompt, for a student, whose turns go
on in one context, each token once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from star_rl.errors import StarError
from star_rl.evaluation import metrics, paper
from star_rl.evaluation.methods import Method, Ranking, TaskContext, as_ranking, blind
from star_rl.records import Task
from star_rl.report.grid import DASH, Grid, Row

#: Requests before those that count: engines compile and caches fill.
WARM = 3
#: Requests from which a 99th percentile is more than the slowest of them.
ENOUGH = 100
#: How tokens in are counted.
COUNTED = (
    "Tokens in: of every call's whole prompt for methods of several calls; for a student, whose turns go on in one "
    "context, each token once."
)


async def measure(
    method: Method,
    tasks: Sequence[Task],
    context_of: Callable[[Task, int], TaskContext],
    warm: int = WARM,
    progress: Callable[[float, float | None, str], None] | None = None,
) -> list[Ranking]:
    """Rank tasks one after the other with an open method; the first ``warm`` are asked before, as
    another sample, so that no store of answers makes the measured ones fast.

    Raises:
        StarError: there are no tasks.
    """
    if not tasks:
        raise StarError("there are no tasks to time", "give 1 or more")
    found = []
    for number, task in enumerate([*tasks[:warm], *tasks]):
        context = context_of(task, int(number < min(warm, len(tasks))))
        began = time.perf_counter()
        answer = as_ranking(await method.rank(blind(task), context))
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
    """Figures of one method; what it has not is ``None``.

    Args:
        scripted: the words were another's, so the quality is not this model's (:mod:`star_rl.evaluation.scripted`).
        prompt: what its prompts show, in words.
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
    """Median seconds of every method over those of ``base``, with a 95 % interval; the tasks are what is resampled."""
    whole = np.array(next(row["seconds"] for row in rows if row["name"] == base))
    drawn = np.random.default_rng(seed).integers(0, len(whole), (resamples, len(whole)))
    below = np.median(whole[drawn], axis=1)
    found = {}
    for row in rows:
        if row["name"] != base:
            own = np.array(row["seconds"])
            low, high = np.percentile(np.median(own[drawn], axis=1) / below, [2.5, 97.5])
            found[row["name"]] = {
                "ratio": float(np.median(own) / np.median(whole)),
                "low": float(low),
                "high": float(high),
            }
    return found


def grid(rows: Sequence[dict[str, Any]], found: Mapping[str, Mapping[str, float]], base: str) -> Grid:
    """The table; its notes are the ratios, what the prompts show, how tokens are counted, and the paper's seconds."""
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
