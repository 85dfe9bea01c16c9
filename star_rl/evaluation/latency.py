"""What one request costs: methods on the same engine and the same tasks, one task at a time.

Seconds are wall time from the task to its ranking, with nothing else in flight. ``calls`` wait for one another. Tokens
in are those of every call's prompt, for a student, whose turns go on in one context, each token once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from star_rl.errors import StarError
from star_rl.evaluation import metrics
from star_rl.evaluation.methods import Method, Ranking, TaskContext, as_ranking, blind
from star_rl.evaluation.paper import LATENCY, PAPER
from star_rl.records import Task

#: Requests before those that count: engines compile and caches fill.
WARM = 3


async def measure(
    method: Method,
    tasks: Sequence[Task],
    context_of: Callable[[Task, int], TaskContext],
    warm: int = WARM,
    progress: Callable[[float, float | None, str], None] | None = None,
) -> list[Ranking]:
    """Rank tasks one after the other with an open method; the first ``warm`` are asked once more before.

    Raises:
        StarError: there are no tasks.
    """
    if not tasks:
        raise StarError("there are no tasks to time", "give 1 or more")
    found = []
    for number, task in enumerate([*tasks[:warm], *tasks]):
        context = context_of(task, 0)
        began = time.perf_counter()
        answer = as_ranking(await method.rank(blind(task), context))
        if answer.seconds is None:
            answer.seconds = time.perf_counter() - began
        if number >= min(warm, len(tasks)):
            found.append(answer)
        if progress is not None:
            progress(number + 1, len(tasks) + min(warm, len(tasks)), method.name)
    return found


def row(name: str, found: Sequence[Ranking], tasks: Sequence[Task], scripted: bool = False) -> dict[str, Any]:
    """Figures of one method; what it has not is ``None``.

    Args:
        scripted: the words were another's, so the quality is not this model's (:mod:`star_rl.evaluation.scripted`).
    """
    seconds = np.array([answer.seconds for answer in found], float)
    ranks = np.array(
        [metrics.rank_of(answer.ids, task.ground_truth) for answer, task in zip(found, tasks, strict=True)]
    )
    result: dict[str, Any] = {"name": name, "n": len(found), "scripted": scripted}
    result |= {f"p{q}": float(np.percentile(seconds, q)) for q in (50, 95, 99)}
    result["mean"] = float(seconds.mean())
    for field in ("calls", "tokens_in", "tokens_out", "tool_calls", "tool_seconds"):
        values = [value for answer in found if (value := getattr(answer, field)) is not None]
        result[field] = float(np.mean(values)) if values else None
    result["hr_avg"] = 100 * float(metrics.hr_avg(ranks).mean())
    result["failed"] = int((ranks == metrics.FAILED).sum())
    return result


def ratios(rows: Sequence[dict[str, Any]], base: str) -> dict[str, float]:
    """Median seconds of every method over those of ``base``."""
    whole = next(row["p50"] for row in rows if row["name"] == base)
    return {row["name"]: row["p50"] / whole for row in rows if row["name"] != base}


def markdown(rows: Sequence[dict[str, Any]], base: str) -> str:
    """The table, the ratios, and the paper's."""
    heads = ["method", "n", "p50 s", "p95 s", "p99 s", "calls", "tokens in", "tokens out", "tool ms", "HR_avg %"]
    lines = [heads, ["---", *("---:" for _ in heads[1:])]]
    for one in rows:
        tool = None if one["tool_seconds"] is None else 1000 * one["tool_seconds"]
        numbers = [(one[q], 3) for q in ("p50", "p95", "p99")]
        numbers += [(one["calls"], 1), (one["tokens_in"], 0), (one["tokens_out"], 0), (tool, 2)]
        cells = ["\u2013" if value is None else f"{value:,.{digits}f}" for value, digits in numbers]
        quality = f"({one['hr_avg']:.1f})" if one["scripted"] else f"{one['hr_avg']:.1f}"
        lines.append([one["name"], str(one["n"]), *cells, quality])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n"
    text += "".join(
        f"{name} takes {ratio:.1f} times as long as {base}.\n" for name, ratio in ratios(rows, base).items()
    )
    if any(one["scripted"] for one in rows):
        text += "In brackets: words from the rules, at the length they have; the quality is not this model's.\n"
    slow, fast = LATENCY["MARS"], LATENCY["STAR"]
    return (
        text
        + f"The paper: MARS {slow:.0f} s, STAR {fast:.0f} s, {slow / fast:.1f} times, on other hardware ({PAPER}).\n"
    )
