"""Keep titles of candidates and the end of each history beside an evaluation's answers.

So the page can be made wherever the folder goes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from star_rl.errors import StarError
from star_rl.files import atomic_path
from star_rl.records import Item, Task
from star_rl.report.model import ExampleTask, HistoryItem
from star_rl.report.viewer import WORDS
from star_rl.scenarios.histories import Event

FILE = "contexts.parquet"
#: Latest items of a history that are kept.
LATEST = 8

_TITLED = pa.struct([pa.field("item_id", pa.string()), pa.field("title", pa.string())])
_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("source", "scenario", "task_id")),
        *(pa.field(name, pa.list_(_TITLED), nullable=False) for name in ("candidates", "history")),
        pa.field("earlier", pa.int32(), nullable=False),
    ]
)


def write(
    folder: Path, tasks: Sequence[Task], history_of: Callable[[Task], Sequence[Event]], items: Mapping[str, Item]
) -> None:
    """Write ``contexts.parquet`` beside the answers to these tasks."""

    def titled(ids: Sequence[str]) -> list[dict[str, str]]:
        return [{"item_id": one, "title": items[one].title[:WORDS] if one in items else ""} for one in ids]

    rows = []
    for task in tasks:
        history = [event[0] for event in history_of(task)]
        row: dict[str, Any] = {"source": task.source, "scenario": task.scenario, "task_id": task.task_id}
        row |= {"candidates": titled(task.candidates), "history": titled(history[-LATEST:])}
        rows.append(row | {"earlier": max(0, len(history) - LATEST)})
    with atomic_path(folder / FILE) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary, compression="zstd")


def read(folder: Path, tasks: Collection[Task]) -> dict[Task, ExampleTask]:
    """Return the tasks as the page shows them, without titles and histories if the folder keeps none.

    Raises:
        StarError: the file is damaged.
    """
    found = {
        task: ExampleTask(task.task_id, task.scenario, task.user_id, task.ground_truth, list(task.candidates))
        for task in tasks
    }
    file = folder / FILE
    if not file.is_file() or not found:
        return found
    try:
        table = pq.read_table(file).cast(_SCHEMA)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise StarError(f"{file} holds no contexts ({error})", "delete it, or evaluate again") from error
    wanted = pa.array([task.task_id for task in found], pa.string())
    by_key = {
        (row["source"], row["scenario"], row["task_id"]): row
        for row in table.filter(pc.is_in(table["task_id"], wanted)).to_pylist()
    }
    for task, about in found.items():
        row = by_key.get((task.source, task.scenario, task.task_id))
        if row is not None:
            about.titles = {one["item_id"]: one["title"] for one in row["candidates"] if one["title"]}
            about.history = [HistoryItem(one["item_id"], one["title"] or "") for one in row["history"]]
            about.earlier = row["earlier"]
    return found
