"""Tasks as AgentSociety and AgentRecBench lay them out: a JSON file each, its ground truth in another."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from star_rl.errors import StarError
from star_rl.files import read_json
from star_rl.records import CANDIDATES, SCENARIOS, Task
from star_rl.sources.cleaning import clean_id

DOMAINS = ("amazon", "goodreads", "yelp")
#: Scenarios that belong to each set of tables.
SCENARIOS_OF: dict[str, tuple[str, ...]] = {
    "all": ("classic", "user_cold_start", "item_cold_start"),
    "long": ("long_term",),
    "short": ("short_term",),
}
_NUMBER = re.compile(r"^task_(\d+)\.json$")


def read_tasks(
    root: Path, domain: str = "all", scenario: str = "classic", wanted: Sequence[str] | None = None
) -> tuple[list[Task], Counter[str]]:
    """Read every ``tasks/task_N.json`` below ``root`` with its ``groundtruth/groundtruth_N.json``.

    Candidates keep the order of the file, which is known to betray the ground truth: shuffle them before use (the split
    does). A candidate may stand twice, as in four official tasks. Cutoffs are set by :func:`with_cutoffs`.

    Args:
        scenario: of tasks whose path names none.
        wanted: scenarios to keep; all by default.

    Returns:
        the tasks in the order of their path and number, and dropped ones by reason.

    Raises:
        StarError: there is no task file at all.
    """
    if scenario not in SCENARIOS:
        raise StarError(f"scenario={scenario!r} is no choice", f"choose one of {', '.join(SCENARIOS)}")
    files = [(path.parent, int(m[1])) for path in root.rglob("task_*.json") if (m := _NUMBER.match(path.name))]
    if not files:
        raise StarError(f"no task_N.json below {root}", "give the folder that holds {domain}/tasks and /groundtruth")
    tasks: list[Task] = []
    dropped: Counter[str] = Counter()
    for folder, number in sorted(files):
        parts = folder.relative_to(root).parts
        where = next((part for part in (*parts, *root.parts[::-1]) if part in DOMAINS), "agentsociety")
        kind = next((part for part in parts if part in SCENARIOS), scenario)
        if (domain != "all" and where != domain) or (wanted is not None and kind not in wanted):
            continue
        try:
            row = read_json(folder / f"task_{number}.json")
            truth = read_json(folder.parent / "groundtruth" / f"groundtruth_{number}.json")
        except StarError:
            dropped["task or ground truth absent or no JSON"] += 1
            continue
        task = _task(f"{where}-{kind}-{number}", where, kind, row, truth)
        if isinstance(task, Task):
            tasks.append(task)
        else:
            dropped[task] += 1
    return tasks, dropped


def _task(name: str, source: str, scenario: str, row: Any, truth: Any) -> Task | str:
    """One task, or the reason why it is none."""
    if not isinstance(row, dict) or not isinstance(truth, dict):
        return "not a JSON object"
    user, answer = clean_id(row.get("user_id")), clean_id(truth.get("ground truth", truth.get("ground_truth")))
    listed = row.get("candidate_list")
    if user is None or answer is None or not isinstance(listed, list):
        return "no user, candidates or ground truth"
    candidates = [clean_id(item) for item in listed]
    ids = tuple(item for item in candidates if item is not None)
    if len(ids) != CANDIDATES or len(candidates) != CANDIDATES:
        return f"not {CANDIDATES} candidates"
    if answer not in ids:
        return "ground truth not among the candidates"
    return Task(name, source, scenario, user, ids, answer, 0)


def with_cutoffs(tasks: Sequence[Task], interactions: Path) -> list[Task]:
    """Cut each task at its user's first contact with the ground truth.

    Where the reviews hold no such contact (it has been taken out already), the cutoff follows the user's last one.
    """
    users = sorted({task.user_id for task in tasks})
    table = pq.read_table(
        interactions, columns=["user_id", "item_id", "timestamp"], filters=pc.field("user_id").isin(users)
    )
    first: dict[tuple[str, str], int] = {}
    last: dict[str, int] = {}
    wanted = {(task.user_id, task.ground_truth) for task in tasks}
    for user, item, stamp in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        last[user] = max(stamp, last.get(user, stamp))
        if (user, item) in wanted:
            first[user, item] = min(stamp, first.get((user, item), stamp))
    return [
        dataclasses.replace(task, cutoff=first.get((task.user_id, task.ground_truth), last.get(task.user_id, -1) + 1))
        for task in tasks
    ]
