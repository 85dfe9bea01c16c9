"""Write tables the way the official simulator reads them: the inverse of :mod:`star_rl.sources.agentrecbench`.

``item.json``, ``user.json`` and ``review.json`` (JSON lines), and a folder per sub-task,
``task/<scenario>/<source>/tasks/task_N.json`` with ``../groundtruth/groundtruth_N.json``. The simulator has no cutoff:
its agents see whatever reviews stand in the file. So the file holds only those reviews of a task's user
that precede the task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from star_rl.errors import StarError
from star_rl.files import read_json, write_json, write_jsonl
from star_rl.prompts import Event, flavour_of
from star_rl.records import Item, Task

#: Seconds from which a number of milliseconds can be told from a number of seconds; smaller ones are positions.
_FIRST_SECOND = 100_000_000
_NUMBER = re.compile(r"^task_(\d+)\.json$")

#: ``(user id, history) -> texts`` by item and timestamp.
TextsOf = Callable[[str, Sequence[Event]], Mapping[tuple[str, int], str]]


@dataclass(frozen=True, slots=True)
class Group:
    """One sub-task as the simulator takes it: two folders, and the truths in the order of the task files."""

    name: str
    tasks: Path
    groundtruth: Path
    truths: tuple[str, ...]


def write_layout(
    folder: Path,
    tasks: Sequence[Task],
    visible: pa.Table,
    history: Callable[[Task], Sequence[Event]],
    items: Mapping[str, Item],
    users: Callable[[str], Mapping[str, Any]] = lambda user: {},
    reviews: TextsOf = lambda user, history: {},
) -> list[Group]:
    """Write data and tasks below ``folder``.

    Args:
        visible: interactions that anybody may see; those of the tasks' users are taken from ``history`` instead.
        history: what a task's user did before it, oldest first.
        users: attributes of a user.
        reviews: what the tasks' users wrote of their histories (``star_rl.scenarios.Reviews.of``).

    Raises:
        StarError: no tasks, or a user whose tasks see different histories: one file cannot hold both.
    """
    if not tasks:
        raise StarError("there are no tasks for the simulator", "choose a part of the run that has some")
    seen: dict[str, Sequence[Event]] = {}
    for task in tasks:
        events = history(task)
        if seen.setdefault(task.user_id, events) != events:
            raise StarError(
                f"user {task.user_id} has tasks with different histories, task {task.task_id} among them",
                "run the simulator on one scenario at a time",
            )
    source = tasks[0].source
    write_jsonl(folder / "item.json", (item_row(item, source) for item in items.values()))
    known = dict.fromkeys([*visible["user_id"].to_pylist(), *seen])
    write_jsonl(folder / "user.json", ({"source": source, **users(name), "user_id": name} for name in known))
    write_jsonl(folder / "review.json", _reviews(visible, seen, source, reviews))
    return _tasks(folder / "task", tasks)


def _reviews(
    visible: pa.Table, seen: Mapping[str, Sequence[Event]], source: str, reviews: TextsOf
) -> Iterable[dict[str, Any]]:
    number = 0
    others = visible.filter(pc.invert(pc.is_in(visible["user_id"], pa.array(list(seen), pa.string()))))
    rows = (others[name].to_pylist() for name in ("user_id", "item_id", "timestamp", "rating", "text"))
    texts = {user: reviews(user, events) for user, events in seen.items()}
    own = ((user, *event, texts[user].get(event[:2])) for user, events in seen.items() for event in events)
    for part in (zip(*rows, strict=True), own):
        for user, item, stamp, rating, text in part:
            number += 1
            row = {"review_id": f"r{number}", "user_id": user, "item_id": item, "text": text or "", "source": source}
            if rating is not None and rating == rating:
                row["stars"] = rating
            yield {**row, "timestamp": stamp * 1000 if stamp >= _FIRST_SECOND else stamp}


def item_row(item: Item, source: str) -> dict[str, Any]:
    """Return an item with the names that its source gives to title and categories."""
    about = {"source": source, **item.attributes, "item_id": item.item_id}
    if about["source"] == "yelp":
        return {**about, "name": item.title, "categories": ", ".join(item.categories)}
    if about["source"] == "goodreads":
        authors = [{"author_id": name} for name in about.pop("author_ids", [])]
        shelves = [{"name": name} for name in item.categories]
        return {**about, "title": item.title, "popular_shelves": shelves, "authors": authors}
    return {**about, "title": item.title, "categories": list(item.categories)}


def _tasks(root: Path, tasks: Sequence[Task]) -> list[Group]:
    cells: dict[tuple[str, str], list[Task]] = {}
    for task in tasks:
        cells.setdefault((task.scenario, task.source), []).append(task)
    groups = []
    for (scenario, source), members in cells.items():
        folder = root / scenario / source
        for number, task in enumerate(members):
            row = {
                "type": "recommendation",
                "user_id": task.user_id,
                "candidate_category": flavour_of(source).item,
                "candidate_list": list(task.candidates),
                "loc": [-1, -1],
            }
            write_json(folder / "tasks" / f"task_{number}.json", row)
            write_json(folder / "groundtruth" / f"groundtruth_{number}.json", {"ground truth": task.ground_truth})
        truths = tuple(task.ground_truth for task in members)
        groups.append(Group(f"{source} {scenario}", folder / "tasks", folder / "groundtruth", truths))
    return groups


def groups_below(root: Path) -> list[Group]:
    """Return the sub-tasks of a benchmark's own download: every folder with ``tasks`` and ``groundtruth``.

    Truths are in the order in which the simulator takes the tasks: by number, simulated ones first.

    Raises:
        StarError: there is none.
    """
    groups = []
    for folder in sorted(path.parent for path in root.rglob("tasks") if (path.parent / "groundtruth").is_dir()):
        truths: dict[bool, list[str]] = {True: [], False: []}
        found = {int(match[1]): path for path in (folder / "tasks").iterdir() if (match := _NUMBER.match(path.name))}
        for number in sorted(found):
            answer = folder / "groundtruth" / f"groundtruth_{number}.json"
            if answer.is_file():
                task = read_json(found[number])
                simulated = isinstance(task, dict) and task.get("data type") == "sim"
                truths[simulated].append(_truth(answer))
        if found:
            name = " ".join(folder.relative_to(root).parts) or folder.name
            groups.append(Group(name, folder / "tasks", folder / "groundtruth", (*truths[True], *truths[False])))
    if not groups:
        raise StarError(f"no folder below {root} holds tasks and groundtruth", "name the folder of the tasks")
    return groups


def _truth(path: Path) -> str:
    row = read_json(path)
    truth = row.get("ground truth") if isinstance(row, dict) else None
    if not isinstance(truth, str) or not truth:
        raise StarError(f"{path} holds no ground truth", 'the simulator reads {"ground truth": "<item id>"}')
    return truth
