"""A set of tasks to evaluate: read, checked, shuffled, and told apart from other sets by fingerprints.

A task without a ground truth, or with two, is refused: its score would be undefined. What the official evaluator counts
is counted, with a note: a ground truth that is no candidate is a miss for every method that ranks the candidates, and
fewer than 20 candidates are scored like any other (websocietysimulator 1.0.0a30, tools/evaluation_tool.py).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from star_rl.errors import StarError
from star_rl.files import fingerprint
from star_rl.records import CANDIDATES, TASKS, Task, tasks_to, write_table

#: A sub-task: source and scenario.
Cell = tuple[str, str]


@dataclass(frozen=True)
class TaskSet:
    """Tasks that belong together.

    Attributes:
        tasks: candidates shuffled.
        official: the benchmark's own tasks and ground truths, so that figures may be set beside the paper's.
        part: of the run's tasks (train, valid, test); empty where they come from elsewhere.
        notes: sentences a reader must see beside the figures.
    """

    tasks: tuple[Task, ...]
    official: bool = False
    notes: tuple[str, ...] = field(default=())
    part: str = ""

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def fingerprint(self) -> str:
        """Return :func:`fingerprint_of` these tasks."""
        return fingerprint_of(self.tasks)

    @property
    def cells(self) -> dict[Cell, list[Task]]:
        """Tasks by sub-task, in order of appearance."""
        found: dict[Cell, list[Task]] = {}
        for task in self.tasks:
            found.setdefault((task.source, task.scenario), []).append(task)
        return found


def fingerprint_of(tasks: Iterable[Task]) -> str:
    """Return a fingerprint that is equal for equal tasks, in whatever order they or their candidates stand."""
    rows = [[t.task_id, t.source, t.scenario, t.user_id, sorted(t.candidates), t.ground_truth, t.cutoff] for t in tasks]
    return fingerprint(sorted(rows))


def digest_of(task: Task) -> str:
    """Return the fingerprint of one task, 12 hexadecimal digits; the order of its candidates does not count."""
    return fingerprint([task.user_id, task.cutoff, sorted(task.candidates), task.ground_truth])[:12]


def digest(tasks: Iterable[Task]) -> dict[str, str]:
    """Return :func:`digest_of` by task id. Ids alone tell nothing: every run calls its tasks ``test-000000`` and so on.

    A digest for each task, and not one for the set, lets a set grow, and a study use a part of it.
    """
    return {task.task_id: digest_of(task) for task in tasks}


def strangers(known: Mapping[str, str], tasks: Iterable[Task]) -> list[str]:
    """Return ids of ``known`` (of :func:`digest`) that are not among ``tasks``, or are another task there."""
    own = digest(tasks)
    return [name for name, value in known.items() if own.get(name) != value]


def shuffled(task: Task, seed: int) -> Task:
    """Return the task with its candidates in an order that only seed and task decide.

    The order in which official tasks name their candidates betrays the ground truth.
    """
    order = sorted(task.candidates)
    random.Random(f"{seed}:{task.task_id}").shuffle(order)
    return replace(task, candidates=tuple(order))


def task_set(
    tasks: Sequence[Task], seed: int, official: bool = False, limit: int | None = None, part: str = ""
) -> TaskSet:
    """Check tasks and shuffle their candidates; ``limit`` keeps the first so many of each sub-task.

    Raises:
        StarError: there are none, two share an id, or one has no ground truth.
    """
    truths: dict[str, str] = {}
    for task in tasks:
        if not isinstance(task.ground_truth, str) or not task.ground_truth:
            raise StarError(f"task {task.task_id} has no ground truth", "a task has one id as ground truth")
        if task.task_id in truths:
            two = truths[task.task_id] != task.ground_truth
            raise StarError(
                f"task {task.task_id} " + ("has two ground truths" if two else "stands twice"),
                "give each task an id of its own and one ground truth",
            )
        truths[task.task_id] = task.ground_truth
    taken = Counter[Cell]()
    kept: list[Task] = []
    for task in tasks:
        taken[task.source, task.scenario] += 1
        if limit is None or taken[task.source, task.scenario] <= limit:
            kept.append(shuffled(task, seed))
    if not kept:
        raise StarError("there are no tasks to evaluate", "check the file, and a limit of 1 or more")
    return TaskSet(tuple(kept), official, (*_SEEN.get(part, ()), *_notes(kept)), part)


#: Notes on tasks that are not held out.
_SEEN = {
    "train": ("These are the training tasks: students were trained on them, and figures on them are no result.",),
    "valid": ("These are the validation tasks: what was chosen by them looks better on them than elsewhere.",),
}


def already_had(tasks: Sequence[Task], history: Callable[[Task], Sequence[Any]]) -> dict[str, int]:
    """Count candidates that the user has in the history before the task: ``tasks``, ``candidates``, ``truths``."""
    found = [(task, _had(task, history)) for task in tasks]
    return {
        "tasks": sum(bool(had) for _, had in found),
        "candidates": sum(len(had) for _, had in found),
        "truths": sum(task.ground_truth in had for task, had in found),
    }


def _had(task: Task, history: Callable[[Task], Sequence[Any]]) -> list[str]:
    known = {event[0] for event in history(task)}
    return [item for item in dict.fromkeys(task.candidates) if item in known]


def strange(tasks: Sequence[Task], history: Callable[[Task], Sequence[Any]], items: Container[str]) -> list[str]:
    """Return sentences on users and items of the tasks that the tables do not know, or that the user already has.

    Args:
        history: a user's interactions before the task, each with the item's id first.
        items: ids in the table of items.
    """
    found = []
    if old := [task for task in tasks if _had(task, history)]:
        count = already_had(old, history)
        truths = f"; {count['truths']:,} of them the ground truth" if count["truths"] else ""
        found.append(
            f"{_tasks(old)} candidates that the user already has ({count['candidates']:,} candidates, such as "
            f"{_had(old[0], history)[0]} of {old[0].task_id}{truths}): scored as they are"
        )
    if new := [task for task in tasks if not history(task)]:
        found.append(f"{_tasks(new)} a user without any interaction before it (such as {new[0].task_id})")
    if unknown := [task for task in tasks if any(item not in items for item in task.candidates)]:
        item = next(item for item in unknown[0].candidates if item not in items)
        found.append(
            f"{_tasks(unknown)} candidates that no table of items knows (such as {item} of {unknown[0].task_id}): "
            "methods see their ids alone"
        )
    return found


def _notes(tasks: Sequence[Task]) -> Iterable[str]:
    as_is = "scored as they are"
    missed = "counted as a miss, as the official evaluator does"
    kinds: tuple[tuple[str, str, Callable[[Task], bool]], ...] = (
        ("a ground truth that is no candidate", missed, lambda task: task.ground_truth not in task.candidates),
        (f"fewer than {CANDIDATES} candidates", as_is, lambda task: len(task.candidates) < CANDIDATES),
        (f"more than {CANDIDATES} candidates", as_is, lambda task: len(task.candidates) > CANDIDATES),
        ("a candidate twice", as_is, lambda task: len(set(task.candidates)) < len(task.candidates)),
    )
    for kind, counted, holds in kinds:
        if found := [task for task in tasks if holds(task)]:
            yield f"{_tasks(found)} {kind} (such as {found[0].task_id}): {counted}"


def _tasks(found: Sequence[Task]) -> str:
    return f"{len(found)} task has" if len(found) == 1 else f"{len(found)} tasks have"


def read_tasks(path: str | Path) -> list[Task]:
    """Read the tasks of a Parquet or JSON-lines file with the columns of ``records.TASKS``.

    Raises:
        StarError: no such file, not of this form, cut short, or no ground truth; names the task or the line.
    """
    file = Path(path)
    if not file.is_file():
        raise StarError(f"there is no file of tasks {file}", "give a run's folder, or a Parquet or JSON-lines file")
    try:
        rows = list(_lines(file)) if file.suffix == ".jsonl" else pq.read_table(file).to_pylist()
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise StarError(f"{file} holds no tasks ({error})", "give a Parquet or JSON-lines file of tasks") from error
    return [_task(row, number, file) for number, row in enumerate(rows)]


def _lines(file: Path) -> Iterable[Any]:
    """Yield every line, a last one without a line break too: a file cut short must not pass for a whole one."""
    with open(file, encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise StarError(
                        f"{file} holds no tasks from line {number} on: damaged or cut short ({error})",
                        "write the file of tasks again",
                    ) from error


def _task(row: Any, number: int, file: Path) -> Task:
    where = f"row {number} of {file}"
    if not isinstance(row, Mapping):
        raise StarError(f"{where} is no task", f"a task has {', '.join(TASKS.names)}")
    name, truth, one = row.get("task_id") or where, row.get("ground_truth"), "a task has one id as ground truth"
    if truth in (None, "", []):
        raise StarError(f"task {name} has no ground truth", one)
    if isinstance(truth, list):
        raise StarError(f"task {name} has {len(truth)} ground truths in a list", one)
    for column in ("task_id", "source", "scenario", "user_id", "ground_truth"):
        if not isinstance(row.get(column), str):
            raise StarError(f"task {name} has {column} = {row.get(column)!r}", "ids and names are strings")
    listed, cutoff = row.get("candidates"), row.get("cutoff")
    if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
        raise StarError(f"the candidates of task {name} are no list of ids", "give 20 ids as strings")
    if not isinstance(cutoff, int) or isinstance(cutoff, bool):
        raise StarError(f"task {name} has cutoff = {cutoff!r}", "give seconds since 1970, or the position")
    return Task(**{column: row[column] for column in TASKS.names} | {"candidates": tuple(listed)})


def write_tasks(path: str | Path, tasks: Sequence[Task]) -> None:
    """Write the evaluated tasks beside their answers."""
    write_table(path, tasks_to(tasks), "tasks")
