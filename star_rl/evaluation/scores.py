"""Score answers: every method over all tasks and over each sub-task, and paired differences.

HR, NDCG and MRR in percent, rates as shares. A failure is a miss and stays in n. A method that was not asked every task
is scored over those it was asked, with an n of its own, and is compared with nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_rl.evaluation import metrics, results
from star_rl.evaluation.metrics import FAILED, NOT_ASKED
from star_rl.evaluation.tasks import Cell
from star_rl.records import Task

Pairs = Sequence[tuple[str, str]]
#: Columns of answers that are averaged -> the name of the mean.
_MEANS = {
    "well_formed": "format_rate",
    "valid": "valid_rate",
    **{name: name for name in ("tool_calls", "calls", "tokens_in", "tokens", "tool_seconds")},
}


def score(
    table: pa.Table,
    tasks: Sequence[Task],
    samples: int | None,
    resamples: int,
    seed: int,
    pairs: Pairs | None = None,
    against: str | None = None,
) -> dict[str, Any]:
    """Return the metrics of every method with 95 % intervals, and paired differences of HR_avg.

    Samples of one task are averaged within it; the tasks are resampled. Only samples that all tasks of a method have
    are counted, so that no task weighs more than another; costs are those of the answers that are counted.

    Args:
        samples: of each task at most, None for all; a method that has fewer is scored by those.
        pairs: which methods are compared; without it, the best with every other.
        against: a method that every other is compared with, beside those.

    Returns:
        ``n``, ``methods`` (a row a method), ``cells`` (a row a method and sub-task), ``pairs``, ``notes``.

    Raises:
        StarError: an answer belongs to none of the tasks.
    """
    methods, cells, notes = list[dict[str, Any]](), list[dict[str, Any]](), list[str]()
    per_task: dict[str, np.ndarray] = {}
    places: dict[Cell, list[int]] = {}
    for place, task in enumerate(tasks):
        places.setdefault((task.source, task.scenario), []).append(place)
    for name in dict.fromkeys(table["method"].to_pylist()):
        own = table.filter(pc.equal(table["method"], name))
        most = int(pc.max(own["sample"]).as_py()) + 1
        found = results.ranks_by_task(own, name, tasks, most)
        several = results.complete_samples(found)
        notes += _gaps(name, found, several)
        found = found[: several if samples is None else min(samples, several)]
        asked = found[0] != NOT_ASKED
        if not asked.any():  # further samples alone: of an answer whose first sample is still to come
            continue
        ids = pa.array([task.task_id for task, yes in zip(tasks, asked, strict=True) if yes])
        counted = own.filter((pc.field("sample") < len(found)) & pc.field("task_id").isin(ids))
        if asked.all():
            per_task[name] = metrics.by_task(found)
        methods.append({"name": name, **_row(counted, found, resamples, seed)})
        for (source, scenario), where in places.items():
            if asked[where].any():
                part = counted.filter((pc.field("source") == source) & (pc.field("scenario") == scenario))
                row = _row(part, found[:, where], resamples, seed)
                cells.append({"name": name, "source": source, "scenario": scenario, **row})
    whole = max(len(task.candidates) for task in tasks)
    for row in (*methods, *cells):
        if row["longest"] is not None and row["longest"] >= whole:  # no metric looks further
            row["longest"] = None
    if pairs is None:
        best = max(per_task, key=lambda name: float(per_task[name].mean()), default="")
        pairs = [(best, name) for name in per_task if name != best]
    wanted = list(pairs)
    wanted += [(name, against) for name in per_task if against not in (None, name) and (name, against) not in wanted]
    return {
        "n": len(tasks),
        "methods": methods,
        "pairs": [pair(a, b, per_task, seed) for a, b in wanted if a in per_task and b in per_task],
        "cells": cells,
        "notes": notes,
    }


def _gaps(name: str, found: metrics.Ranks, several: int) -> list[str]:
    """Return sentences on what a method has not answered."""
    asked, total, notes = int((found[0] != NOT_ASKED).sum()), found.shape[1], []
    if asked < total:
        notes.append(
            f"{name} has answered {asked:,} of {total:,} tasks so far: its figures are of these alone, and it is "
            "compared with no other method"
        )
    if several < len(found):
        notes.append(
            f"{name} has {several} of {len(found)} samples of all its tasks, and more of some, which are not counted"
        )
    return [f"{note}; give the same star-rl evaluate again" for note in notes]


def _row(own: pa.Table, found: metrics.Ranks, resamples: int, seed: int) -> dict[str, Any]:
    """Return one method's figures. Shape of ``found``: (samples, n); ``own`` are the answers that are counted."""
    total = found.shape[1]
    found = found[:, found[0] != NOT_ASKED]
    row: dict[str, Any] = {"n": found.shape[1], "missing": total - found.shape[1]}
    for name, interval in _intervals(found, resamples, seed).items():
        row[name], row[f"{name}_low"], row[f"{name}_high"] = (100 * value for value in interval)
    row |= {shown: results.mean_of(own, column) for column, shown in _MEANS.items()}
    row["longest"] = pc.max(pc.list_value_length(own["ranking"])).as_py()
    times = own["seconds"].drop_null().to_numpy()
    p50, p95 = (float(np.percentile(times, q)) for q in (50, 95)) if len(times) else (None, None)
    row |= {"latency_p50": p50, "latency_p95": p95, "failed": int((found == FAILED).any(axis=0).sum())}
    row["samples"] = found.shape[0]
    return row


def _intervals(found: metrics.Ranks, resamples: int, seed: int) -> dict[str, metrics.Interval]:
    """Return the means over tasks of every metric as shares, with intervals. Shape: (samples, n)."""
    sizes = None
    alone = metrics.bootstrap(metrics.hr_avg(found).mean(axis=0), resamples, seed)[0]
    if len(found) == 1:  # lists have so few ranks that a million tasks cost no more than a hundred
        kinds, sizes = np.unique(found[0], return_counts=True)
        found = kinds[None]
    values = {f"hr{k}": metrics.hits(found, k) for k in metrics.CUTS}
    values |= {f"ndcg{k}": metrics.ndcg(found, k) for k in metrics.NDCG_CUTS} | {"mrr": metrics.reciprocal(found)}
    rows = np.stack([value.mean(axis=0) for value in values.values()])
    others = dict(zip(values, metrics.bootstrap(rows, resamples, seed, sizes=sizes), strict=True))
    hits = {name: others.pop(name) for name in [f"hr{k}" for k in metrics.CUTS]}
    return {**hits, "hr_avg": alone, **others}


def pair(a: str, b: str, per_task: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Return the paired difference of two methods in points, from HR_avg by task. Shape of each: (n,)."""
    mean, low, high, p = metrics.paired(per_task[a], per_task[b], seed=seed)
    return {"a": a, "b": b, "difference": 100 * mean, "low": 100 * low, "high": 100 * high, "p": p}
