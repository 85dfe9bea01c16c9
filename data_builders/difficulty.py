"""How often a checkpoint solved each instance: the sampler's rollouts, read and counted (paper, section 3.5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from star_rl.errors import StarError
from star_rl.files import read_jsonl
from star_rl.policy.rollout_stats import FAILED
from star_rl.records import Task
from star_rl.trajectory import parse, ranking


def read_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """Rollout records of the sampler: JSON lines or Parquet.

    Raises:
        StarError: there is no such file, it is neither, or a line is no record.
    """
    file = Path(path)
    if not file.is_file():
        raise StarError(f"there are no rollouts at {file}", "sample the checkpoint first: star-rl sample")
    if file.suffix == ".parquet":
        try:
            for batch in pq.ParquetFile(file).iter_batches(1024):
                yield from batch.to_pylist()
        except pa.ArrowInvalid as error:
            raise StarError(f"{file} is no Parquet file ({error})", "give the sampler's output") from error
    elif file.suffix == ".jsonl":
        for record in read_jsonl(file):
            if not isinstance(record, dict):
                raise StarError(f"{file} holds {str(record)[:40]}, which is no rollout", "give the sampler's output")
            yield record
    else:
        raise StarError(f"{file} is neither .jsonl nor .parquet", "give the sampler's output")


def solved(record: Mapping[str, Any], task: Task) -> bool | None:
    """Was this rollout a success (HR@1)? None where it says nothing of the model: an engine or a tool failed.

    Reads ``stop`` (:data:`star_rl.policy.rollout_stats.FAILED` is neither success nor failure), then the first of
    ``hit`` (bool or None), ``ranking`` (a list), ``model_text``.

    Raises:
        StarError: the record has none of the three.
    """
    if record.get("stop") in FAILED:
        return None
    if "hit" in record:
        return None if record["hit"] is None else bool(record["hit"])
    if "ranking" in record:
        first = record["ranking"]
    elif "model_text" in record:
        text = record["model_text"]
        first = ranking(parse(text if isinstance(text, str) else ""))
    else:
        raise StarError(f"a rollout of task {task.task_id} has no hit, ranking or model_text", "sample again")
    return isinstance(first, (list, tuple)) and bool(first) and first[0] == task.ground_truth


def count_successes(
    records: Iterable[Mapping[str, Any]], tasks: Mapping[str, Task], samples: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Successes of every instance with all its samples, and how many records or instances were left out, by reason.

    A sample recorded twice (a sampler that was killed and resumed) counts once. An instance with fewer usable samples
    than ``samples`` is left out: its count would be compared with bounds that are not its own.

    Raises:
        StarError: a record of a task that is not in ``tasks``, without its number, or with more than ``samples``.
    """
    outcomes: dict[str, dict[int, bool]] = {}
    left_out = {"twice": 0, "failed": 0, "incomplete": 0, "not_sampled": 0}
    for record in records:
        task = tasks.get(str(record.get("task_id")))
        if task is None:
            raise StarError(
                f"a rollout belongs to task {record.get('task_id')!r}, which is not among the {len(tasks)} tasks",
                "give the tasks that were sampled",
            )
        number = record.get("sample")
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < samples:
            raise StarError(
                f"a rollout of task {task.task_id} is sample {number!r}", f"samples are numbered 0 to {samples - 1}"
            )
        found = outcomes.setdefault(task.task_id, {})
        if number in found:
            left_out["twice"] += 1
            continue
        success = solved(record, task)
        if success is None:
            left_out["failed"] += 1
        else:
            found[number] = success
    successes = {}
    for task_id in tasks:
        if task_id not in outcomes:
            left_out["not_sampled"] += 1
        elif len(outcomes[task_id]) < samples:
            left_out["incomplete"] += 1
        else:
            successes[task_id] = sum(outcomes[task_id].values())
    return successes, left_out
