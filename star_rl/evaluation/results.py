"""Answers as a table: one Parquet row an answer, from which every figure is made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from star_rl.errors import StarError
from star_rl.evaluation.metrics import NOT_ASKED, Ranks, rank_of
from star_rl.failure import Failure
from star_rl.files import atomic_path
from star_rl.records import Task

_REQUIRED = dict.fromkeys(("method", "task_id", "source", "scenario"), pa.string())
_REQUIRED |= dict.fromkeys(("sample", "rank"), pa.int32())
_OPTIONAL = {"ranking": pa.list_(pa.string()), "well_formed": pa.bool_(), "valid": pa.bool_()}
_OPTIONAL |= dict.fromkeys(("tool_calls", "calls", "tokens", "tokens_in"), pa.int32())
_OPTIONAL |= dict.fromkeys(("seconds", "tool_seconds", "confidence"), pa.float32())
_FAILURE = dict.fromkeys(("failure_kind", "failure"), pa.string())
SCHEMA = pa.schema(
    [pa.field(name, kind, name not in _REQUIRED) for name, kind in (_REQUIRED | _OPTIONAL | _FAILURE).items()]
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One method's answer to one task. ``None``: the method has no such thing, or it was not measured.

    Attributes:
        ranking: best first, as the method wrote it; ``None`` is a failure and counts as a miss.
        valid: whether the list names the task's candidates and nothing else, as many as were asked for.
        tokens: written by the language model.
        others: as of :class:`star_rl.evaluation.methods.Ranking`.
    """

    method: str
    task: Task
    ranking: Sequence[str | None] | None
    sample: int = 0
    well_formed: bool | None = None
    valid: bool | None = None
    tool_calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    calls: int | None = None
    tokens_in: int | None = None
    tool_seconds: float | None = None
    confidence: float | None = None
    failure: Failure | None = None

    @property
    def rank(self) -> int:
        """Position of the truth from 1; see :func:`star_rl.evaluation.metrics.rank_of`."""
        return rank_of(self.ranking, self.task.ground_truth)


def table_of(answers: Iterable[Answer]) -> pa.Table:
    """Return answers as a table of :data:`SCHEMA`."""
    rows = []
    for answer in answers:
        row = {name: getattr(answer, name) for name in ("method", "sample", "rank", *_OPTIONAL)}
        row |= {name: getattr(answer.task, name) for name in ("task_id", "source", "scenario")}
        row["ranking"] = None if answer.ranking is None else list(answer.ranking)
        if answer.failure:
            row |= {"failure_kind": answer.failure.kind, "failure": str(answer.failure)}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write(path: str | Path, table: pa.Table) -> None:
    """Write a table of answers atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(table.cast(SCHEMA), temporary, compression="zstd")


def read(path: str | Path) -> pa.Table:
    """Read a table of answers."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise StarError(f"{path} holds no answers ({error})", "write it with: star-rl evaluate") from error
    for name in SCHEMA.names:
        if name not in table.column_names:
            raise StarError(f"{path} has no column {name}", "write it with: star-rl evaluate")
    return table.select(SCHEMA.names).cast(SCHEMA)


def foreign(whose: object, task_id: str, tasks: Sequence[Task]) -> StarError:
    """Return the error of an answer that belongs to none of the tasks."""
    return StarError(
        f"{whose} has an answer to task {task_id}, which is not among the {len(tasks)} tasks",
        "evaluate each task set in a folder of its own",
    )


def ranks_by_task(table: pa.Table, method: str, tasks: Sequence[Task], samples: int = 1) -> Ranks:
    """Return the ranks of one method over tasks, ``metrics.NOT_ASKED`` where it has no answer. Shape: (samples, n).

    Raises:
        StarError: an answer belongs to none of the tasks.
    """
    place = {task.task_id: index for index, task in enumerate(tasks)}
    found = np.full((samples, len(tasks)), NOT_ASKED, np.int32)
    own = table.filter(pc.equal(table["method"], method))
    for task_id, sample, rank in zip(*(own[name].to_pylist() for name in ("task_id", "sample", "rank")), strict=True):
        if task_id not in place:
            raise foreign(method, task_id, tasks)
        if sample < samples:
            found[sample, place[task_id]] = rank
    return found


def complete_samples(found: Ranks) -> int:
    """Return how many samples every task has that has the first one: a mean over tasks takes these.

    Args:
        found: as of :func:`ranks_by_task`. Shape: (samples, n).
    """
    whole = (found[:, found[0] != NOT_ASKED] != NOT_ASKED).all(axis=1)
    return len(whole) if whole.all() else int(np.argmin(whole))


def mean_of(table: pa.Table, column: str) -> float | None:
    """Return the mean of a column over answers; ``None`` if it was never measured."""
    mean: float | None = pc.mean(table[column].cast(pa.float64())).as_py()
    return mean
