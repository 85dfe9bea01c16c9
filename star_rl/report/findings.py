"""Read evaluations task by task: scores, paired differences, studies, and what changed from one to another.

Notation: n tasks of all folders together; a task that several folders evaluated counts once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_rl.errors import StarError
from star_rl.evaluation import metrics, results
from star_rl.evaluation.compare import Compared, Evaluation, compare
from star_rl.evaluation.metrics import FAILED, Difference, Floats
from star_rl.evaluation.scores import score
from star_rl.evaluation.tasks import strangers
from star_rl.files import read_json
from star_rl.records import Task
from star_rl.report.grid import Cell, Grid, Row, read, signed, spread, worded

#: Studies that write ``NAME.json`` into an evaluation's folder.
STUDIES = ("best_of_k", "latency", "corpus")
#: Reasons of failure that are named for a method.
_REASONS = 3


@dataclass(slots=True)
class Found:
    """One method."""

    name: str
    figures: dict[str, Any]  #: its row over all its tasks (:func:`star_rl.evaluation.scores.score`)
    values: Floats  #: HR_avg of each task, a share, mean over samples; NaN where it was not asked. Shape: (n,)
    ranks: np.ndarray  #: of the first sample; 0 = absent, -1 = failed. Shape: (n,)
    sources: list[tuple[Evaluation, str]] = field(default_factory=list)  #: folders of its answers, its name there
    difference: Difference | None = None  #: this method minus the best, in percentage points
    problems: list[str] = field(default_factory=list)  #: sentences on failures and rankings that are not valid

    @property
    def whole(self) -> bool:
        """Return whether it was asked every task."""
        return not np.isnan(self.values).any()

    @property
    def writes(self) -> bool:
        """Return whether it writes trajectories, so that a break of their grammar is a fault."""
        return self.figures["format_rate"] is not None


@dataclass(slots=True)
class Findings:
    """Evaluations, read.

    In ``studies``, label of the folder -> name of :data:`STUDIES` -> its file, ``apart`` says why a study must not be
    compared with the folder's figures; it is empty where it may.
    """

    compared: Compared
    tasks: list[Task]  #: in the order of the columns. Shape: (n,)
    methods: dict[str, Found]
    best: str | None  #: the method with the highest HR_avg of those that were asked everything
    studies: dict[str, dict[str, Any]]
    seeds: list[int]
    versions: dict[str, str]
    scores: dict[tuple[str, str], Floats]  #: (label of the folder, name there) -> HR_avg of its tasks, shares

    @property
    def ordered(self) -> list[Found]:
        """Return the methods, the best first."""
        return sorted(self.methods.values(), key=lambda one: -one.figures["hr_avg"])


@dataclass(slots=True)
class Change:
    """One method, from one evaluation to another."""

    method: str
    before: Evaluation
    after: Evaluation
    n: int  #: tasks in both
    difference: Difference  #: after minus before, HR_avg in percentage points
    gained: list[int]  #: places (among the findings' tasks) of the tasks whose HR_avg rose, the largest change first
    lost: list[int]
    values: dict[int, tuple[float, float]]  #: HR_avg before and after of each of these tasks, in percent


def gather(folders: Sequence[Path], resamples: int = 2000) -> Findings:
    """Read evaluations with their answers.

    Raises:
        StarError: as :func:`star_rl.evaluation.compare.compare`; a file is damaged.
    """
    compared = compare(folders)
    order = {column.cell: place for place, column in enumerate(compared.columns)}
    unique = {key_of(task): task for one in compared.folders for task in one.tasks}
    tasks = sorted(unique.values(), key=lambda task: order[task.source, task.scenario])
    place = {key_of(task): index for index, task in enumerate(tasks)}
    methods: dict[str, Found] = {}
    scores: dict[tuple[str, str], Floats] = {}
    for one in compared.folders:
        table = results.read(one.folder / "answers.parquet")
        where = np.array([place[key_of(task)] for task in one.tasks])
        candidates = {task.task_id: set(task.candidates) for task in one.tasks}
        for row in one.figures["methods"]:
            name = one.names.get(row["name"], row["name"])
            ranks = results.ranks_by_task(table, row["name"], one.tasks, row["samples"])
            blank = np.full(len(tasks), np.nan), np.full(len(tasks), FAILED, np.int32)
            known = methods.setdefault(name, Found(name, row, *blank))
            known.sources.append((one, row["name"]))
            known.values[where] = scores[one.label, row["name"]] = metrics.by_task(ranks)
            known.ranks[where] = ranks[0]
            said = (f"{name}: {words}" for words in problems(table, row["name"], candidates))
            known.problems += [words for words in said if words not in known.problems]
    for entry in methods.values():
        if len({own.folder for own, _ in entry.sources}) > 1 and entry.figures["n"] < np.isfinite(entry.values).sum():
            entry.figures = _together(entry, resamples)
    whole = [entry for entry in methods.values() if entry.whole]
    best = max(whole, key=lambda entry: float(entry.values.mean()), default=None)
    for entry in whole:
        if best is not None and entry is not best:
            entry.difference = _recorded(compared, entry, best) or difference(entry.values, best.values)
    return Findings(
        compared,
        tasks,
        methods,
        best.name if best else None,
        {one.label: _studies(one) for one in compared.folders},
        sorted({one.figures["seed"] for one in compared.folders if "seed" in one.figures}),
        {key: value for one in compared.folders for key, value in one.figures.get("versions", {}).items()},
        scores,
    )


def _recorded(compared: Compared, one: Found, best: Found) -> Difference | None:
    """Return the difference as the evaluation's own figures have it, so that a pair has one interval everywhere."""
    if len(compared.folders) > 1:
        return None
    for pair in compared.folders[0].figures.get("pairs", ()):
        if (pair["a"], pair["b"]) == (one.name, best.name):
            return Difference(pair["difference"], pair["low"], pair["high"], pair["p"])
        if (pair["a"], pair["b"]) == (best.name, one.name):
            return Difference(-pair["difference"], -pair["high"], -pair["low"], pair["p"])
    return None


def difference(a: Floats, b: Floats) -> Difference:
    """Return the paired bootstrap of ``a - b`` over the same tasks, in percentage points. Shapes: (n,)."""
    found = metrics.paired(a, b)
    return Difference(100 * found.mean, 100 * found.low, 100 * found.high, found.p)


def key_of(task: Task) -> tuple[str, str, str]:
    """Return what identifies a task among several folders."""
    return task.source, task.scenario, task.task_id


def _together(entry: Found, resamples: int) -> dict[str, Any]:
    """Return figures of a method whose subtasks are spread over folders."""
    tables, tasks = [], []
    for one, name in entry.sources:
        table = results.read(one.folder / "answers.parquet")
        own = table.filter(pc.equal(table["method"], name)).to_pydict()
        own["task_id"] = [f"{one.label}/{task_id}" for task_id in own["task_id"]]  # ids are a folder's own
        own["method"] = [entry.name] * len(own["method"])
        tables.append(pa.table(own, schema=results.SCHEMA))
        tasks += [replace(task, task_id=f"{one.label}/{task.task_id}") for task in one.tasks]
    seed = entry.sources[0][0].figures.get("seed", 0)
    samples = max(
        row["samples"] for one, name in entry.sources for row in one.figures["methods"] if row["name"] == name
    )
    return dict(score(pa.concat_tables(tables), tasks, samples, resamples, seed, pairs=())["methods"][0])


def _studies(one: Evaluation) -> dict[str, Any]:
    found = {}
    for name in STUDIES:
        file = one.folder / f"{name}.json"
        if not file.is_file():
            continue
        value = read_json(file)
        if not isinstance(value, dict):
            raise StarError(f"{file} is not a result of star-rl {name.replace('_', '-')}", "measure again or delete it")
        value["apart"] = _apart(value.get("tasks"), one.tasks)
        found[name] = value
    return found


def _apart(known: Any, tasks: Sequence[Task]) -> str:
    """Return why a study must not be compared with the evaluation beside it; empty where it may."""
    if not isinstance(known, dict):
        return "tasks unknown"
    return "other tasks" if strangers(known, tasks) else ""


def problems(table: pa.Table, name: str, candidates: Mapping[str, set[str]]) -> list[str]:
    """Return sentences on failures by reason and on invalid rankings; missing answers are in the notes."""
    own = table.filter(pc.equal(table["method"], name))
    total, found = len(own), []
    reasons = Counter(reason for reason in own["failure"].to_pylist() if reason)
    if reasons:
        shown = "; ".join(f"{count:,} x {reason[:120]}" for reason, count in reasons.most_common(_REASONS))
        more = f"; {len(reasons) - _REASONS} other reasons" if len(reasons) > _REASONS else ""
        found.append(f"{reasons.total():,} of {total:,} answers failed and count as misses ({shown}{more})")
    kinds = Counter[str]()
    for task_id, ranking, valid in zip(*(own[key].to_pylist() for key in ("task_id", "ranking", "valid")), strict=True):
        if valid is False and ranking is not None:
            kinds[_fault(ranking, candidates[task_id])] += 1
    if kinds:
        shown = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        found.append(f"{kinds.total():,} of {total:,} rankings are not valid ({shown}); they are scored as they are")
    return found


def _fault(ranking: Sequence[str | None], candidates: set[str]) -> str:
    if not ranking:
        return "empty"
    if any(entry not in candidates for entry in ranking):
        return "with a foreign id"
    return "with a repeated id" if len(set(ranking)) < len(ranking) else "shorter than asked for"


# ------------------------------------------------------------------------------------------------------- what changed


def changes(found: Findings) -> list[Change]:
    """Compare the first evaluation with each later one that shares tasks and methods with it."""
    first, *later = found.compared.folders
    made = [_change(found, name, first, other) for other in later for name in first.names if name in other.names]
    return [one for one in made if one is not None]


def _change(found: Findings, name: str, before: Evaluation, after: Evaluation) -> Change | None:
    old, new = _values(found, before, name), _values(found, after, name)
    both = [place for place, task in enumerate(found.tasks) if key_of(task) in old.keys() & new.keys()]
    if not both:
        return None
    a, b = (np.array([values[key_of(found.tasks[place])] for place in both]) for values in (old, new))
    changed = [int(k) for k in np.argsort(-np.abs(b - a), kind="stable") if abs(b[k] - a[k]) > 1e-12]
    return Change(
        name,
        before,
        after,
        len(both),
        difference(b, a),
        [both[k] for k in changed if b[k] > a[k]],
        [both[k] for k in changed if b[k] < a[k]],
        {both[k]: (100 * float(a[k]), 100 * float(b[k])) for k in changed},
    )


def _values(found: Findings, evaluation: Evaluation, name: str) -> dict[tuple[str, str, str], float]:
    """Return HR_avg by task that was asked, a share."""
    values = found.scores[evaluation.label, name]
    return {key_of(task): float(value) for task, value in zip(evaluation.tasks, values, strict=True) if value == value}


def changes_grid(
    made: Sequence[Change], shown: Callable[[Sequence[int]], str] = lambda places: str(len(places))
) -> Grid:
    """Return a row a method: the paired difference, and the tasks that rose and fell.

    Args:
        shown: tasks as a cell shows them, given their places.
    """
    rows = []
    for one in made:
        d = one.difference
        told: list[Cell] = [(0.0, "0.0"), (0.0, "the same on every task")]
        if one.values:
            told = [(d.mean, spread(d.mean, d.low, d.high, signed)), read(d, "better", "worse")]
        places: list[Cell] = [(len(own), shown(own)) for own in (one.gained, one.lost)]
        rows.append(
            Row(one.method, [*worded(one.before.label, one.after.label), (one.n, f"{one.n:,}"), *told, *places])
        )
    heads = ["method", "from", "to", "n", "difference [95 %]", "reading", "tasks gained", "tasks lost"]
    return Grid("What changed, HR_avg in percentage points", heads, rows, text=3)


def changes_data(made: Sequence[Change], tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Return the changes as plain data, the tasks by their ids."""
    return [
        {
            "method": one.method,
            "from": one.before.label,
            "to": one.after.label,
            "n": one.n,
            **one.difference._asdict(),
            "gained": [tasks[place].task_id for place in one.gained],
            "lost": [tasks[place].task_id for place in one.lost],
        }
        for one in made
    ]
