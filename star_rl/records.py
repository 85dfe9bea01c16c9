"""The Arrow schemas of the four tables, and the records that code works with.

Ids are strings throughout. ``timestamp`` counts seconds since 1970 (UTC); a source that knows only the order of a
user's interactions stores the position instead, and says so in its manifest (``time = "position"``).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from star_rl.errors import StarError
from star_rl.files import atomic_path

#: The five scenarios of AgentRecBench (paper, section 4.1).
Scenario = Literal["classic", "user_cold_start", "item_cold_start", "long_term", "short_term"]
SCENARIOS: tuple[str, ...] = get_args(Scenario)

#: Rows that are decoded at once.
_PIECE, _ITEMS = 1 << 18, 1 << 12

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


def read_table(path: str | Path, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one of the four tables and check it against its schema.

    Args:
        path: a Parquet file, or the folder that holds ``<name>.parquet``.
        name: ``interactions``, ``items``, ``users`` or ``tasks``.
        columns: those that are wanted, all by default; the texts of interactions are most of their bytes.

    Raises:
        StarError: the file is absent, is not Parquet, or lacks a column.
    """
    with _reading(path, name) as file:
        schema = _chosen(name, columns)
        return file.read(schema.names).select(schema.names).cast(schema)


def read_interactions(path: str | Path, columns: Sequence[str] = INTERACTIONS.names[:-1]) -> pa.Table:
    """Read interactions with their ids as dictionary codes (numbered by first sight), without the texts.

    At 10^7 rows this is a quarter of the memory of the strings. Arguments but ``name`` as of :func:`read_table`.

    Raises:
        StarError: as :func:`read_table`.
    """
    with _reading(path, "interactions") as file:
        schema = _chosen("interactions", columns)
        pieces: list[pa.Table] = []
        for batch in file.iter_batches(_PIECE, columns=schema.names):
            piece = pa.table(batch).select(schema.names).cast(schema)
            for place, column in enumerate(schema.names):
                if column in ("user_id", "item_id"):
                    coded = piece[column].combine_chunks().dictionary_encode()
                    piece = piece.set_column(place, pa.field(column, coded.type, nullable=False), coded)
            pieces.append(piece)
        if not pieces:
            return schema.empty_table()
        whole = pa.concat_tables(pieces).unify_dictionaries()
    del pieces, piece
    whole = whole.combine_chunks()
    pa.default_memory_pool().release_unused()
    return whole


def count_of(path: str | Path, name: str) -> int:
    """Count the rows of a table; arguments and errors as :func:`read_table`."""
    with _reading(path, name) as file:
        return int(file.metadata.num_rows)


def interaction_batches(path: str | Path, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the interactions of a file or folder in batches of at most ``rows``; errors as :func:`read_table`."""
    with _reading(path, "interactions") as file:
        schema = _chosen("interactions", columns)
        for batch in file.iter_batches(rows, columns=schema.names):
            yield from pa.table(batch).select(schema.names).cast(schema).to_batches()


def rows_of_users(interactions: pa.Table, users: Collection[str], columns: Sequence[str]) -> pa.Table:
    """Select these users' rows, of strings or of dictionary codes."""
    wanted = pa.array(sorted(users), pa.string())
    column = interactions["user_id"]
    if pa.types.is_dictionary(column.type):
        chunks = [pc.is_in(chunk.dictionary, value_set=wanted).take(chunk.indices) for chunk in column.chunks]
        mask = pa.chunked_array(chunks, pa.bool_())
    else:
        mask = pc.is_in(column, value_set=wanted)
    return interactions.select(list(columns)).filter(mask)


@contextlib.contextmanager
def _reading(path: str | Path, name: str) -> Iterator[pq.ParquetFile]:
    """Open one of the four tables and check its columns; an unreadable file is an error with a remedy."""
    file = Path(path)
    if file.is_dir():
        file = file / f"{name}.parquet"
    if not file.exists():
        raise StarError(f"there is no table {file}", "check the path, or write it with: star-rl tables")
    try:
        with pq.ParquetFile(file) as opened:
            missing = [column for column in SCHEMAS[name].names if column not in opened.schema_arrow.names]
            if missing:
                raise StarError(
                    f"{file} lacks the column(s) {', '.join(missing)}",
                    f"a table of {name} has {', '.join(SCHEMAS[name].names)}",
                )
            yield opened
    except (pa.ArrowInvalid, OSError) as error:
        raise StarError(f"{file} is not a readable Parquet file ({error})", "write the table again") from error


def _chosen(name: str, columns: Sequence[str] | None) -> pa.Schema:
    schema = SCHEMAS[name]
    return schema if columns is None else pa.schema([schema.field(column) for column in columns])


def write_table(path: str | Path, table: pa.Table, name: str) -> None:
    """Write one table atomically, cast to its schema."""
    with atomic_path(path) as temporary:
        pq.write_table(table.select(SCHEMAS[name].names).cast(SCHEMAS[name]), temporary, compression="zstd")


def tasks_from(table: pa.Table) -> Iterator[Task]:
    """Yield the rows of ``tasks`` as :class:`Task`."""
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


#: Parts of a split; the stage ``tasks`` writes one file for each.
PARTS = ("train", "valid", "test")


def read_tasks(folder: Path, part: str) -> list[Task]:
    """Read the tasks of one part (``train``, ``valid`` or ``test``) from the folder of stage ``tasks``."""
    return list(tasks_from(read_table(folder / f"{part}.parquet", "tasks")))


def tasks_to(tasks: Iterable[Task]) -> pa.Table:
    """:class:`Task` objects as a table of ``tasks``."""
    rows = [
        {name: (list(task.candidates) if name == "candidates" else getattr(task, name)) for name in TASKS.names}
        for task in tasks
    ]
    return pa.Table.from_pylist(rows, schema=TASKS)


def items_from(table: pa.Table) -> dict[str, Item]:
    """Return the rows of ``items`` by id."""
    return {item.item_id: item for batch in table.to_batches(_ITEMS) for item in map(_item, batch.to_pylist())}


class ItemTable(Mapping[str, Item]):
    """Rows of ``items`` by id, made into objects on access: a tenth of the memory of :func:`items_from`."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.select(ITEMS.names).combine_chunks()
        ids = (name for chunk in self._table["item_id"].chunks for name in chunk.to_pylist())
        self._row = {name: row for row, name in enumerate(ids)}

    def __getitem__(self, item_id: str) -> Item:
        return _item(self._table.slice(self._row[item_id], 1).to_pylist()[0])

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)

    def described(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """(id, title, categories) of each item, without decoding its attributes."""
        row = 0
        for batch in self._table.to_batches(_ITEMS):
            columns = (batch.column(name).to_pylist() for name in ("item_id", "title", "categories"))
            for item_id, title, categories in zip(*columns, strict=True):
                if self._row[item_id] == row:  # of several rows of one id the last counts
                    yield item_id, title, tuple(categories)
                row += 1


def _item(row: dict[str, Any]) -> Item:
    attributes = json.loads(row["attributes"] or "{}")
    return Item(row["item_id"], row["title"], tuple(row["categories"]), attributes)


class UserTable:
    """Attributes of users by id, decoded on access: most sources have none for most users."""

    def __init__(self, table: pa.Table) -> None:
        told = table.select(USERS.names).filter(pc.not_equal(table["attributes"], "{}"))
        self._ids, self._attributes = told["user_id"], told["attributes"]

    @classmethod
    def read(cls, folder: Path) -> UserTable:
        """Read the ``users`` of a folder of tables; without that table every user's attributes are empty."""
        file = folder / "users.parquet"
        return cls(read_table(file, "users") if file.is_file() else USERS.empty_table())

    def __call__(self, user_id: str) -> dict[str, Any]:
        """Return a user's attributes, empty if there are none."""
        place = pc.index(self._ids, user_id).as_py()
        return {} if place < 0 else dict(json.loads(self._attributes[place].as_py()))
