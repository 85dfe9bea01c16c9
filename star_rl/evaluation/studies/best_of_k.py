"""Best of k: how much k samples a task improve HR_avg, by the paper's oracle and by choices that can be deployed.

best         the best of k samples by HR_avg (paper, appendix C, tables 6 to 8). An oracle: it has to know the truth.
             Over K stored samples it is exact: the mean over all subsets of k, which order statistics give without
             drawing any, ``E[max] = sum_i v_(i) C(i - 1, k - 1) / C(K, k)``.
borda        the k rankings as one, each giving 1 - (place - 1) / longest to what it names (self-consistency)
reciprocal   the same with 1 / (60 + place) (reciprocal rank fusion)
confidence   the sample whose own tokens were likeliest, where log-probabilities are stored. Exact like ``best``.

Aggregation is no function of single samples, so ``borda`` and ``reciprocal`` are means over subsets drawn with a seed
(all K choose k of them where they are few). Intervals are bootstraps over tasks.

Notation: n tasks, K samples.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_rl.errors import StarError
from star_rl.evaluation import metrics, results
from star_rl.evaluation.metrics import Floats
from star_rl.records import Task
from star_rl.report.grid import Cell, Grid, Row

#: Subsets of k samples drawn for each task, where there are more.
SUBSETS = 16
_FUSION = 60.0  # Cormack, Clarke, Buettcher (2009), section 3
Rankings = Sequence[Sequence[str | None] | None]


def subset_weights(samples: int, k: int) -> Floats:
    """Probability that the i-th smallest of ``samples`` values is the largest of a random subset of k. Shape: (K,).

    Raises:
        StarError: k is not within 1..K.
    """
    if not 1 <= k <= samples:
        raise StarError(f"k={k} of {samples} samples", f"give 1 to {samples}, or take more samples")
    whole = math.comb(samples, k)
    return np.array([math.comb(place, k - 1) / whole for place in range(samples)])


def best_of(values: Floats, k: int) -> Floats:
    """Expected largest of k values drawn without replacement. Shapes: (K, n) -> (n,)."""
    return subset_weights(len(values), k) @ np.sort(values, axis=0)


def most_confident(values: Floats, confidence: Floats, k: int) -> Floats:
    """Expected value of the surest of k samples. Shapes: (K, n), (K, n) -> (n,). Equal confidences share their places;
    a sample without one (NaN) is the least sure."""
    sure = np.where(np.isnan(confidence), -np.inf, confidence)
    weights = subset_weights(len(values), k)
    out = np.zeros(values.shape[1])
    for task in range(values.shape[1]):
        _, groups = np.unique(sure[:, task], return_inverse=True)
        order = np.argsort(groups, kind="stable")
        sums = np.bincount(groups[order], weights=weights)  # what falls to each level of confidence
        means = np.bincount(groups, weights=values[:, task]) / np.bincount(groups)
        out[task] = sums @ means
    return out


def borda(place: int, longest: int) -> float:
    """What a ranking gives to the id at a place (from 1)."""
    return 1.0 - (place - 1) / longest


def reciprocal(place: int, longest: int) -> float:
    """As :func:`borda`, by reciprocal rank fusion."""
    return 1.0 / (_FUSION + place)


def aggregate(
    rankings: Rankings, candidates: Sequence[str], points: Callable[[int, int], float], seed: str
) -> list[str]:
    """Several rankings as one over the task's candidates.

    An id counts once a ranking, at its first place; what is no candidate is left out, and candidates that nobody names
    come last. Equals stand in an order that ``seed`` decides.
    """
    known = set(candidates)
    scores: dict[str, float] = defaultdict(float)
    for ranking in rankings:
        kept = [entry for entry in dict.fromkeys(ranking or ()) if entry in known]
        for place, entry in enumerate(kept, 1):
            scores[str(entry)] += points(place, len(candidates))
    order = sorted(known)
    random.Random(seed).shuffle(order)
    return sorted(order, key=lambda entry: -scores[entry])


def subsets(samples: int, k: int, seed: str) -> list[tuple[int, ...]]:
    """All subsets of k of the samples where there are at most :data:`SUBSETS`, else as many drawn ones, distinct."""
    if math.comb(samples, k) <= SUBSETS:
        return list(itertools.combinations(range(samples), k))
    source = random.Random(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < SUBSETS:
        found[tuple(sorted(source.sample(range(samples), k)))] = None
    return list(found)


def curves(table: pa.Table, tasks: Sequence[Task], method: str, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """HR_avg in percent by k = 1..K and way of choosing, with 95 % intervals.

    Args:
        table: answers (:data:`star_rl.evaluation.results.SCHEMA`).

    Returns:
        ``method``, ``n``, ``samples`` and ``curves``: way -> rows of ``k``, ``hr_avg``, ``low``, ``high``.

    Raises:
        StarError: no answers of the method, an answer to another task, or a task with fewer samples than another.
    """
    own = table.filter(pc.equal(table["method"], method))
    if not len(own):
        named = ", ".join(dict.fromkeys(table["method"].to_pylist()))
        raise StarError(f"there are no answers of {method}", f"there are those of {named or 'nobody'}")
    rankings, confidence = _by_task(own, method, tasks)
    samples = len(rankings[0])
    found = np.array(
        [[metrics.rank_of(one, task.ground_truth) for one in own_] for task, own_ in zip(tasks, rankings, strict=True)]
    ).T
    values = metrics.hr_avg(found)
    chosen: dict[str, Callable[[int], Floats]] = {
        "best": lambda k: best_of(values, k),
        "borda": lambda k: _aggregated(rankings, tasks, k, borda, seed),
        "reciprocal": lambda k: _aggregated(rankings, tasks, k, reciprocal, seed),
    }
    if not np.isnan(confidence).all():
        chosen["confidence"] = lambda k: most_confident(values, confidence, k)

    def row(k: int, values: Floats) -> dict[str, float]:
        mean, low, high = (100 * value for value in metrics.bootstrap(values, resamples, seed)[0])
        return {"k": k, "hr_avg": mean, "low": low, "high": high}

    made = {name: [row(k, choose(k)) for k in range(1, samples + 1)] for name, choose in chosen.items()}
    return {"method": method, "n": len(tasks), "samples": samples, "curves": made}


def _by_task(own: pa.Table, method: str, tasks: Sequence[Task]) -> tuple[list[list[Any]], Floats]:
    """Rankings by task and sample, and the confidences. Shapes: (n, K), (K, n)."""
    samples = int(pc.max(own["sample"]).as_py()) + 1
    asked = results.ranks_by_task(own, method, tasks, samples) != metrics.NOT_ASKED
    if not asked.all():
        short = tasks[int(np.flatnonzero(~asked.all(axis=0))[0])].task_id
        raise StarError(
            f"task {short} has fewer than {samples} samples of {method}", f"star-rl evaluate .. --samples {samples}"
        )
    place = {task.task_id: index for index, task in enumerate(tasks)}
    rankings: list[list[Any]] = [[None] * samples for _ in tasks]
    confidence = np.full((samples, len(tasks)), np.nan)
    columns = (own[name].to_pylist() for name in ("task_id", "sample", "ranking", "confidence"))
    for task_id, sample, ranking, sure in zip(*columns, strict=True):
        rankings[place[task_id]][sample] = ranking
        confidence[sample, place[task_id]] = np.nan if sure is None else sure
    return rankings, confidence


def _aggregated(
    rankings: Sequence[Rankings], tasks: Sequence[Task], k: int, points: Callable[[int, int], float], seed: int
) -> Floats:
    """HR_avg of the aggregate of k samples, mean over subsets. Shape: (n,)."""
    out = np.zeros(len(tasks))
    for place, (task, own) in enumerate(zip(tasks, rankings, strict=True)):
        drawn = subsets(len(own), k, f"{seed}:{task.task_id}:{k}")
        ranks = [
            metrics.rank_of(
                aggregate([own[s] for s in chosen], task.candidates, points, f"{seed}:{task.task_id}:{chosen}"),
                task.ground_truth,
            )
            for chosen in drawn
        ]
        out[place] = metrics.hr_avg(np.array(ranks)).mean()
    return out


def grid(found: dict[str, Any]) -> Grid:
    """Ways by k, HR_avg with intervals; k = 1, 2, 4, 8, 16 and the last."""
    shown = [k for k in range(1, found["samples"] + 1) if k & (k - 1) == 0 or k == found["samples"]]

    def cell(row: dict[str, float]) -> Cell:
        return row["hr_avg"], f"{row['hr_avg']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"

    lines = [Row(name, [cell(rows[k - 1]) for k in shown]) for name, rows in found["curves"].items()]
    title = f"{found['method']}: HR_avg % of {found['n']} tasks"
    notes = ["best is an oracle, the others can be deployed"]
    return Grid(title, ["choice", *(f"k = {k}" for k in shown)], lines, notes=notes)
