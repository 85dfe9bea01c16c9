"""What a method answered to each task: one Parquet row an answer, from which every table is made."""

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

SCHEMA = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("scenario", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("ranking", pa.list_(pa.string())),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("well_formed", pa.bool_()),
        pa.field("valid", pa.bool_()),
        pa.field("tool_calls", pa.int32()),
        pa.field("tokens", pa.int32()),
        pa.field("seconds", pa.float32()),
        pa.field("calls", pa.int32()),
        pa.field("tokens_in", pa.int32()),
        pa.field("tool_seconds", pa.float32()),
        pa.field("confidence", pa.float32()),
        pa.field("failure_kind", pa.string()),
        pa.field("failure", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One method's answer to one task.

    Attributes:
        ranking: best first, as it stands; ``None`` where there is none, which counts as a miss.
        well_formed: for methods that write trajectories.
        valid: whether the list names the task's candidates and nothing else, as many as were asked for; ``None`` where
            that was not looked at.
        tool_calls: of this answer, ``None`` where the method has none; so for all that follow.
        tokens: written by the language model; ``tokens_in`` read by it, over all its calls.
        seconds: wall time of this answer; ``tool_seconds`` of these in tools.
        calls: calls of a language model that wait for one another.
        confidence: the model's own, higher = surer.
        failure: why there is no ranking.
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
    """Answers as a table of :data:`SCHEMA`."""
    rows = [
        {
            "method": answer.method,
            "task_id": answer.task.task_id,
            "source": answer.task.source,
            "scenario": answer.task.scenario,
            "sample": answer.sample,
            "ranking": None if answer.ranking is None else list(answer.ranking),
            "rank": answer.rank,
            "well_formed": answer.well_formed,
            "valid": answer.valid,
            "tool_calls": answer.tool_calls,
            "tokens": answer.tokens,
            "seconds": answer.seconds,
            "calls": answer.calls,
            "tokens_in": answer.tokens_in,
            "tool_seconds": answer.tool_seconds,
            "confidence": answer.confidence,
            "failure_kind": answer.failure and answer.failure.kind,
            "failure": answer.failure and str(answer.failure),
        }
        for answer in answers
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write(path: str | Path, table: pa.Table) -> None:
    """Write a table of answers atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(table.cast(SCHEMA), temporary, compression="zstd")


def read(path: str | Path) -> pa.Table:
    """A table of answers; columns that an earlier version did not write are empty.

    Raises:
        StarError: there is no such file, or it is none of answers.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise StarError(f"{path} holds no answers ({error})", "write it with: star-rl evaluate") from error
    for column in SCHEMA:
        if column.name not in table.column_names:
            if not column.nullable:
                raise StarError(f"{path} has no column {column.name}", "write it with: star-rl evaluate")
            table = table.append_column(column, pa.nulls(len(table), column.type))
    return table.select(SCHEMA.names).cast(SCHEMA)


def ranks_by_task(table: pa.Table, method: str, tasks: Sequence[Task], samples: int = 1) -> Ranks:
    """Ranks of one method over tasks in their order, ``metrics.NOT_ASKED`` where it has none. Shape: (samples, n).

    Raises:
        StarError: an answer belongs to no task of the set: results of another set were mixed in.
    """
    place = {task.task_id: index for index, task in enumerate(tasks)}
    found = np.full((samples, len(tasks)), NOT_ASKED, np.int32)
    own = table.filter(pc.equal(table["method"], method))
    for task_id, sample, rank in zip(*(own[name].to_pylist() for name in ("task_id", "sample", "rank")), strict=True):
        if task_id not in place:
            raise StarError(
                f"{method} has an answer to task {task_id}, which is not among the {len(tasks)} tasks",
                "judge each task set in a folder of its own",
            )
        if sample < samples:
            found[sample, place[task_id]] = rank
    return found


def complete_samples(found: Ranks) -> int:
    """How many samples every task has that has the first one: those that a mean over tasks may be taken over.

    Args:
        found: as of :func:`ranks_by_task`. Shape: (samples, n).
    """
    whole = (found[:, found[0] != NOT_ASKED] != NOT_ASKED).all(axis=1)
    return len(whole) if whole.all() else int(np.argmin(whole))


def mean_of(table: pa.Table, column: str) -> float | None:
    """Mean of a column over answers; ``None`` where it was never measured."""
    values = table[column].drop_null()
    if not len(values):
        return None
    return float(np.mean(values.to_numpy(zero_copy_only=False).astype(np.float64)))
