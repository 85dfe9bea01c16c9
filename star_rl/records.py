"""The four tables that everything is built from, their Arrow schemas, and the task as the code sees it.

Ids are strings throughout. ``timestamp`` counts seconds since 1970 (UTC); a source that knows only the order of a
user's interactions stores the position instead, and says so in its manifest (``time = "position"``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from star_rl.errors import StarError
from star_rl.files import atomic_path

#: The five scenarios of AgentRecBench (paper, section 4.1).
SCENARIOS = ("classic", "user_cold_start", "item_cold_start", "long_term", "short_term")

#: Candidates of one task: the ground truth and 19 negatives.
CANDIDATES = 20

INTERACTIONS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
        pa.field("rating", pa.float32()),
        pa.field("text", pa.string()),
    ]
)
ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("categories", pa.list_(pa.string()), nullable=False),
        pa.field("attributes", pa.string(), nullable=False),
    ]
)
USERS = pa.schema(
    [pa.field("user_id", pa.string(), nullable=False), pa.field("attributes", pa.string(), nullable=False)]
)
TASKS = pa.schema(
    [
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("scenario", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("candidates", pa.list_(pa.string()), nullable=False),
        pa.field("ground_truth", pa.string(), nullable=False),
        pa.field("cutoff", pa.int64(), nullable=False),
    ]
)
SCHEMAS = {"interactions": INTERACTIONS, "items": ITEMS, "users": USERS, "tasks": TASKS}


@dataclass(frozen=True, slots=True)
class Task:
    """One recommendation instance (paper, section 3.1).

    The visible history is every interaction of ``user_id`` with ``timestamp < cutoff``.
    """

    task_id: str
    source: str
    scenario: str
    user_id: str
    candidates: tuple[str, ...]
    ground_truth: str
    cutoff: int


@dataclass(frozen=True, slots=True)
class Item:
    """One row of ``items``; ``attributes`` decoded."""

    item_id: str
    title: str
    categories: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)


def read_table(path: str | Path, name: str) -> pa.Table:
    """Read one of the four tables and hold it to its schema.

    Args:
        path: a Parquet file, or the folder that holds ``<name>.parquet``.
        name: ``interactions``, ``items``, ``users`` or ``tasks``.

    Raises:
        StarError: the file is absent, is not Parquet, or lacks a column.
    """
    schema = SCHEMAS[name]
    file = Path(path)
    if file.is_dir():
        file = file / f"{name}.parquet"
    if not file.exists():
        raise StarError(f"there is no table {file}", "check the path, or write it with: star-rl tables")
    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise StarError(f"{file} is not a readable Parquet file ({error})", "write the table again") from error
    missing = [column for column in schema.names if column not in table.column_names]
    if missing:
        raise StarError(
            f"{file} lacks the column(s) {', '.join(missing)}", f"a table of {name} has {', '.join(schema.names)}"
        )
    return table.select(schema.names).cast(schema)


def write_table(path: str | Path, table: pa.Table, name: str) -> None:
    """Write one table atomically, cast to its schema."""
    with atomic_path(path) as temporary:
        pq.write_table(table.select(SCHEMAS[name].names).cast(SCHEMAS[name]), temporary, compression="zstd")


def tasks_from(table: pa.Table) -> Iterator[Task]:
    """Rows of ``tasks`` as :class:`Task`."""
    for row in table.to_pylist():
        yield Task(
            row["task_id"],
            row["source"],
            row["scenario"],
            row["user_id"],
            tuple(row["candidates"]),
            row["ground_truth"],
            row["cutoff"],
        )


def tasks_to(tasks: Iterable[Task]) -> pa.Table:
    """:class:`Task` objects as a table of ``tasks``."""
    rows = [
        {name: (list(task.candidates) if name == "candidates" else getattr(task, name)) for name in TASKS.names}
        for task in tasks
    ]
    return pa.Table.from_pylist(rows, schema=TASKS)


def items_from(table: pa.Table) -> dict[str, Item]:
    """Rows of ``items`` by id."""
    return {
        row["item_id"]: Item(
            row["item_id"], row["title"], tuple(row["categories"]), json.loads(row["attributes"] or "{}")
        )
        for row in table.to_pylist()
    }
