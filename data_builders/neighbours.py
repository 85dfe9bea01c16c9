"""Stage ``neighbours``: ItemCF of every visible item, UserCF of the users that some task asks for."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq

from data_builders.tasks import PARTS, read_tasks
from star_rl.files import atomic_path
from star_rl.neighbours import Graph, Neighbours, item_neighbours, kernel_available, liked_items, user_neighbours
from star_rl.records import read_table
from star_rl.stage import Context


def build(context: Context) -> dict[str, Any]:
    """Write ``items.parquet`` and ``users.parquet`` (key, neighbours, weights, support)."""
    options = context.config["neighbours"]
    folder = context.inputs["tasks"]
    graph = Graph.from_table(read_table(folder / "visible.parquet", "interactions"))
    # Only the rows that are asked for: at scale that saves more than any kernel.
    users = sorted({task.user_id for part in PARTS for task in read_tasks(folder, part)})
    shared = {"weight": options["weight"], "threads": options["threads"]}
    context.progress(0, 3, "ItemCF")
    items = item_neighbours(graph, None, options["items_k"], **shared)
    context.progress(1, 3, "UserCF")
    similar = user_neighbours(graph, users, options["users_k"], **shared)
    context.progress(2, 3, "what similar users like")
    liked = liked_items(graph, similar, options["liked_k"], threads=options["threads"])
    for name, found in (("items", items), ("users", liked)):
        _write(context, name, found)
    return {
        "summary": f"{len(items):,} items, {len(liked):,} users asked for",
        "items": len(items),
        "users": len(liked),
        "kernel": "compiled" if kernel_available() else "numpy",
    }


def _write(context: Context, name: str, found: Neighbours) -> None:
    with atomic_path(context.folder / f"{name}.parquet") as temporary:
        pq.write_table(found.to_arrow(), temporary, compression="zstd")
