"""Difficulty of an instance: how often the SFT checkpoint solved it (paper, section 3.5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.files import read_jsonl
from star_rl.policy.rollout_stats import FAILED
from star_rl.records import Task
from star_rl.trajectory import parse, ranking


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Read the sampler's rollouts, one JSON line each.

    Raises:
        StarError: the file is missing, or a line holds no rollout.
    """
    if not path.is_file():
        raise StarError(f"there are no rollouts at {path}", "sample the checkpoint first: star-rl sample")
    for record in read_jsonl(path):
        if not isinstance(record, dict):
            raise StarError(f"{path} holds {str(record)[:40]}, which is no rollout", "give the sampler's output")
        yield record


def solved(record: Mapping[str, Any], task: Task) -> bool | None:
    """Return whether a rollout is a success (HR@1), None where an engine or a tool failed (``stop`` in FAILED).

    Raises:
        StarError: the record has no ``model_text``.
    """
    if record.get("stop") in FAILED:
        return None
    if "model_text" not in record:
        raise StarError(f"a rollout of task {task.task_id} has no model_text", "sample again")
    text = record["model_text"]
    found = ranking(parse(text if isinstance(text, str) else ""))
    return found is not None and found[:1] == [task.ground_truth]


def count_successes(
    records: Iterable[Mapping[str, Any]], tasks: Mapping[str, Task], samples: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Count the successes of each instance, and by reason the records and instances that were left out.

    A sample that a resumed sampler recorded twice counts once. An instance with fewer than ``samples`` usable samples
    is left out, since the bounds are for ``samples`` of them.

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
