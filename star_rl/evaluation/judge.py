"""From answers to figures: every method over all tasks and over each sub-task, and paired differences.

HR, NDCG and MRR in percent, rates as shares. A missing answer is a failure, a failure is a miss, and n stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_rl.evaluation import metrics, results
from star_rl.evaluation.tasks import Cell
from star_rl.records import Task

Pairs = Sequence[tuple[str, str]]


def judge(
    table: pa.Table, tasks: Sequence[Task], samples: int, resamples: int, seed: int, pairs: Pairs | None = None
) -> dict[str, Any]:
    """Metrics of every method with 95 % intervals, and paired differences of HR_avg.

    Samples of one task are averaged within it: the tasks are what is resampled.

    Args:
        samples: of each task at most; a method that has fewer is judged by those.
        pairs: which methods are set against each other; without it, the best against every other.

    Returns:
        ``n``, ``methods`` (a row a method), ``cells`` (a row a method and sub-task), ``pairs``.

    Raises:
        StarError: an answer belongs to none of the tasks.
    """
    methods: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    per_task: dict[str, np.ndarray] = {}
    places: dict[Cell, list[int]] = {}
    for place, task in enumerate(tasks):
        places.setdefault((task.source, task.scenario), []).append(place)
    for name in dict.fromkeys(table["method"].to_pylist()):
        own = table.filter(pc.equal(table["method"], name))
        several = min(samples, int(pc.max(own["sample"]).as_py()) + 1)
        found = results.ranks_by_task(own, name, tasks, several)
        per_task[name] = metrics.hr_avg(found).mean(axis=0)
        methods.append({"name": name, **_row(own, name, found, resamples, seed)})
        for (source, scenario), where in places.items():
            part = own
            if len(places) > 1:
                part = own.filter(pc.and_(pc.equal(own["source"], source), pc.equal(own["scenario"], scenario)))
            row = _row(part, name, found[:, where], resamples, seed)
            cells.append({"name": name, "source": source, "scenario": scenario, **row})
    wanted = _against_best(per_task) if pairs is None else pairs
    return {
        "n": len(tasks),
        "methods": methods,
        "pairs": [_pair(a, b, per_task, seed) for a, b in wanted if a in per_task and b in per_task],
        "cells": cells,
    }


def _row(own: pa.Table, name: str, found: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    """Figures of one method over the tasks of ``found``. Shape: (samples, n)."""
    values = np.stack([metrics.hits(found, k).mean(axis=0) for k in metrics.CUTS])
    interval = metrics.bootstrap(values.mean(axis=0), resamples, seed)[0]
    times = own["seconds"].drop_null().to_numpy()
    p50, p95 = (float(np.percentile(times, q)) for q in (50, 95)) if len(times) else (None, None)
    row: dict[str, Any] = {"n": found.shape[1]}
    row |= {f"hr{k}": 100 * float(mean) for k, mean in zip(metrics.CUTS, values.mean(axis=1), strict=True)}
    row |= {"hr_avg": 100 * interval.mean, "hr_avg_low": 100 * interval.low, "hr_avg_high": 100 * interval.high}
    row |= {f"ndcg{k}": 100 * float(metrics.ndcg(found, k).mean()) for k in (5, 10)}
    row["mrr"] = 100 * float(metrics.reciprocal(found).mean())
    means = {
        column: results.mean_of(own, name, column)
        for column in ("well_formed", "valid", "tool_calls", "calls", "tokens_in", "tokens", "tool_seconds")
    }
    row |= {"format_rate": means.pop("well_formed"), "valid_rate": means.pop("valid"), **means}
    row |= {"latency_p50": p50, "latency_p95": p95, "failed": int((found == metrics.FAILED).sum())}
    row["samples"] = found.shape[0]
    return row


def _against_best(per_task: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    if not per_task:
        return []
    best = max(per_task, key=lambda name: float(per_task[name].mean()))
    return [(best, name) for name in per_task if name != best]


def _pair(a: str, b: str, per_task: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    found = metrics.paired(per_task[a], per_task[b], seed=seed)
    scaled = {"difference": 100 * found.mean, "low": 100 * found.low, "high": 100 * found.high}
    return {"a": a, "b": b, **scaled, "p": found.p}
