"""Stage ``neighbours``: ItemCF of every visible item, UserCF of the users of tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from star_rl.files import atomic_path
from star_rl.neighbours import Graph, Neighbours, item_neighbours, liked_items, user_neighbours
from star_rl.pipeline.stage import Context
from star_rl.records import PARTS, read_table, read_tasks

#: Keys of a row group.
_KEYS = 1 << 16


def build(context: Context) -> dict[str, Any]:
    """Write ``items.parquet`` and ``users.parquet`` (key, neighbours, weights, support)."""
    options = context.config["neighbours"]
    folder = context.inputs["tasks"]
    columns = ["user_id", "item_id", *(["timestamp"] if options["window"] else [])]
    visible = read_table(folder / "visible.parquet", "interactions", columns)
    graph = Graph.from_table(visible, times=bool(options["window"]))
    # Only the rows that are asked for: at scale that saves more than any kernel.
    users = sorted({task.user_id for part in PARTS for task in read_tasks(folder, part)})
    shared = {"weight": options["weight"], "threads": options["threads"]}
    context.progress(0, 3, "ItemCF")
    items = item_neighbours(graph, None, options["items_k"], window=options["window"], **shared)
    _write(context, "items", items)
    n_items = len(items)
    del items
    context.progress(1, 3, "UserCF")
    similar = user_neighbours(graph, users, options["users_k"], **shared)
    context.progress(2, 3, "what similar users like")
    liked = liked_items(graph, similar, options["liked_k"], threads=options["threads"])
    _write(context, "users", liked)
    summary = f"{n_items:,} items, {len(liked):,} users asked for"
    return {"summary": summary, "items": n_items, "users": len(liked)}


def _write(context: Context, name: str, found: Neighbours) -> None:
    """Write in blocks of keys: as a table of strings the whole is several times as large as its numbers."""
    schema = _part(found, 0, 0).to_arrow().schema
    file = atomic_path(context.folder / f"{name}.parquet")
    with file as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for start in range(0, len(found), _KEYS):
            writer.write_table(_part(found, start, min(len(found), start + _KEYS)).to_arrow(), _KEYS)
    pa.default_memory_pool().release_unused()


def _part(found: Neighbours, start: int, stop: int) -> Neighbours:
    low, high = (int(edge) for edge in found.indptr[[start, stop]])
    return replace(
        found,
        codes=found.codes[start:stop],
        indptr=found.indptr[start : stop + 1] - low,
        indices=found.indices[low:high],
        weights=found.weights[low:high],
        support=found.support[low:high],
        keys=None if found.keys is None else found.keys[start:stop],
    )
