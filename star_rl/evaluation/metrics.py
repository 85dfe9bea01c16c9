"""Metrics of rankings with one ground truth each, equal to AgentRecBench's official evaluator.

``HR@k = |{tasks: ground_truth in prediction[:k]}| / |all tasks|`` for k = 1, 3, 5, and ``HR_avg`` their mean
(``websocietysimulator`` 1.0.0a30, tools/evaluation_tool.py, ``RecommendationEvaluator.calculate_hr_at_n``). The list is
scored as it is: duplicates and foreign ids keep their places. A task that failed is a miss and stays in the
denominator. The official code would search a string for the truth as a substring; here an answer that is no list is a
failure.

All metrics are computed from one array of ranks, so that a million lists are read once.

Notation: n tasks, m methods, B bootstrap resamples. A rank counts from 1; 0 = the truth is not in the list, -1 = the
task failed, -2 = the task was not asked, which is not a miss: such a task is in no mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from star_rl.errors import StarError

#: Cut-offs of the hit rate.
CUTS = (1, 3, 5)
#: Cut-offs of NDCG.
NDCG_CUTS = (1, 5, 10, 20)
ABSENT, FAILED, NOT_ASKED = 0, -1, -2

Ranks = NDArray[np.int32]
Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A mean and its percentile bootstrap interval."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """Mean of ``a - b`` over the same tasks, its interval, and the two-sided bootstrap p-value of "no difference"."""

    mean: float
    low: float
    high: float
    p: float


def rank_of(prediction: Any, truth: str) -> int:
    """Return the position of the truth from 1; 0 if it is absent, -1 if the prediction is no list.

    An entry matches only if it is equal as a string: ``12`` is not ``"12"``.
    """
    if not isinstance(prediction, (list, tuple)):
        return FAILED
    try:
        return prediction.index(truth) + 1
    except ValueError:
        return ABSENT


def ranks(predictions: Sequence[Any], truths: Sequence[str]) -> Ranks:
    """Return the ranks of all truths. Shape: (n,).

    Args:
        predictions: one list of ids a task; anything else (None, a string, an error) is a failure.
        truths: one id a task.

    Raises:
        StarError: different lengths, or a truth that is no id: both would change the denominator unseen.
    """
    if len(predictions) != len(truths):
        raise StarError(
            f"{len(predictions)} predictions for {len(truths)} tasks", "give None for a task that has no prediction"
        )
    for position, truth in enumerate(truths):
        if not isinstance(truth, str) or not truth:
            raise StarError(
                f"task {position} has the ground truth {truth!r}", "a task has one non-empty string as truth"
            )
    return np.fromiter(map(rank_of, predictions, truths), np.int32, len(truths))


def is_valid(prediction: Any, candidates: Sequence[str], top: int | None = None) -> bool:
    """Return whether the list holds the candidates and nothing else, each as often as they do, or each once.

    Four official tasks name a candidate twice, so a list of the distinct ones is valid as well.

    Args:
        top: how many ids are asked for, None for all; of fewer candidates, all of them.
    """
    if not isinstance(prediction, (list, tuple)) or not all(isinstance(entry, str) for entry in prediction):
        return False
    if prediction and sorted(prediction) == sorted(candidates):
        return True
    distinct, known = set(prediction), set(candidates)
    least = max(1, len(known) if top is None else min(top, len(known)))
    return len(distinct) == len(prediction) >= least and distinct <= known


def hits(found: ArrayLike, k: int) -> Floats:
    """Return 1 where the truth is among the first ``k``. Shape: as ``found``."""
    found = np.asarray(found)
    return ((found >= 1) & (found <= k)).astype(np.float64)


def hr_avg(found: ArrayLike) -> Floats:
    """Return HR_avg of each single list: 1, 2/3, 1/3 or 0. Shape: as ``found``."""
    return sum((hits(found, k) for k in CUTS[1:]), start=hits(found, CUTS[0])) / len(CUTS)


def by_task(found: ArrayLike) -> Floats:
    """Return HR_avg of each task over its samples; NaN if a sample was not asked. Shapes: (samples, n) -> (n,)."""
    found = np.asarray(found)
    return np.where((found == NOT_ASKED).any(axis=0), np.nan, hr_avg(found).mean(axis=0))


def ndcg(found: ArrayLike, k: int) -> Floats:
    """Return NDCG@k with one relevant item: ``1 / log2(1 + rank)`` up to ``k``, else 0. Shape: as ``found``."""
    found = np.asarray(found)
    return np.where((found >= 1) & (found <= k), 1.0 / np.log2(1.0 + np.maximum(found, 1)), 0.0)


def reciprocal(found: ArrayLike) -> Floats:
    """Return ``1 / rank``, 0 where absent; its mean is MRR. Shape: as ``found``."""
    found = np.asarray(found)
    return np.where(found >= 1, 1.0 / np.maximum(found, 1), 0.0)


def official(found: ArrayLike) -> dict[str, float]:
    """Return ``hr1``, ``hr3``, ``hr5``, ``hr_avg`` equal to the official evaluator's bit for bit; 0 without tasks."""
    found = np.asarray(found)
    rates = [int(hits(found, k).sum()) / found.size if found.size else 0.0 for k in CUTS]
    return {**{f"hr{k}": rate for k, rate in zip(CUTS, rates, strict=True)}, "hr_avg": sum(rates) / len(CUTS)}


def bootstrap(
    values: ArrayLike, resamples: int = 2000, seed: int = 0, confidence: float = 0.95, sizes: ArrayLike | None = None
) -> list[Interval]:
    """Return percentile bootstrap intervals of the means over tasks. Every row is resampled with the same tasks.

    Tasks that are all misses, or all hits, resample to themselves, as if they were certain. There the far end is
    Wilson's for that many equal tasks: of 10 misses the share may still be 28 % (0.278).

    Args:
        values: per-task values. Shape: (m, n), or (n,) for one method.
        sizes: how many tasks each column stands for, 1 unless given. Shape: (n,).

    Raises:
        StarError: no tasks, or a value that is not finite.
    """
    rows = _rows(values)
    each = np.ones(rows.shape[1], np.int64) if sizes is None else np.asarray(sizes, np.int64)
    means = _resampled_means(rows, resamples, seed, None if sizes is None else each)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(means, [tail, 100 - tail], axis=0)
    square = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    high = np.where((rows == 0.0).all(axis=1), square / (each.sum() + square), high)
    low = np.where((rows == 1.0).all(axis=1), each.sum() / (each.sum() + square), low)
    return [Interval(*map(float, entry)) for entry in zip(rows @ each / each.sum(), low, high, strict=True)]


def paired(a: ArrayLike, b: ArrayLike, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95) -> Difference:
    """Return the paired bootstrap of ``mean(a) - mean(b)`` over the same n tasks in the same order. Shapes: (n,).

    The p-value is twice the smaller share of resamples on either side of 0 (ties to both), never below 1 / (B + 1).

    Raises:
        StarError: different lengths, no tasks, or a value that is not finite.
    """
    first, second = _rows(a), _rows(b)
    if first.shape != second.shape or len(first) != 1:
        raise StarError(
            f"shapes {first.shape} and {second.shape} cannot be paired", "compare two methods on the same tasks"
        )
    difference = first - second
    means = _resampled_means(difference, resamples, seed)[:, 0]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    slack = 1e-12  # means of exact zeros may differ in the last bit
    side = min(int((means <= slack).sum()), int((means >= -slack).sum()))
    p = min(1.0, 2.0 * (side + 1) / (resamples + 1))
    return Difference(float(difference.mean()), float(low), float(high), p)


def _rows(values: ArrayLike) -> Floats:
    rows = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise StarError(f"no tasks to average over (shape {rows.shape})", "check the filter that chose the tasks")
    if not np.isfinite(rows).all():
        raise StarError("a per-task value is not finite", "count a failed task as a miss")
    return rows


def _resampled_means(rows: Floats, resamples: int, seed: int, sizes: NDArray[np.int64] | None = None) -> Floats:
    """Return the means of B resamples. Shape: (B, m).

    Tasks with the same values are one kind of task. To draw n tasks with replacement is to draw how many of each kind,
    a multinomial variable, and hit rates have so few kinds that a million tasks cost no more than ten.
    """
    rng = np.random.default_rng(seed)
    if sizes is None and len(rows) == 1:
        kinds, found = np.unique(rows[0], return_counts=True)
        if 8 * kinds.size <= rows.size:
            rows, sizes = kinds[None], found
    if sizes is not None:
        return rng.multinomial(sizes.sum(), sizes / sizes.sum(), size=resamples) @ rows.T / sizes.sum()
    tasks = rows.shape[1]
    return np.concatenate([counts @ rows.T for counts in _draws(tasks, resamples, rng)]) / tasks


def _draws(tasks: int, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield how often each task is drawn, in blocks of at most 2 M numbers. Shape of each: (b, n)."""
    block = max(1, min(resamples, 2_000_000 // tasks))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, tasks, (size, tasks))
        drawn += np.arange(size)[:, None] * tasks
        yield np.bincount(drawn.ravel(), minlength=size * tasks).reshape(size, tasks).astype(np.float64)
