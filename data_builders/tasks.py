"""Stage ``tasks``: tables to training, validation and test tasks, and the interactions that neighbours may see."""

from __future__ import annotations

from typing import Any

from star_rl.files import fingerprint
from star_rl.records import tasks_from, tasks_to, write_table
from star_rl.scenarios import Tables, split
from star_rl.stage import Context

PARTS = ("train", "valid", "test")


def build(context: Context) -> dict[str, Any]:
    """Write ``train``, ``valid`` and ``test`` tasks and ``visible`` interactions; the split refuses a leak itself."""
    made = split(Tables.read(context.inputs["tables"]), context.config["split"]["options"], context.seed)
    for part in PARTS:
        write_table(context.folder / f"{part}.parquet", tasks_to(getattr(made, part)), "tasks")
    write_table(context.folder / "visible.parquet", made.visible, "interactions")
    counts = {part: len(getattr(made, part)) for part in PARTS}
    return {
        "summary": ", ".join(f"{count:,} {part}" for part, count in counts.items())
        + f" tasks, {len(made.visible):,} interactions visible",
        "tasks": counts,
        "visible": len(made.visible),
        "visible_fingerprint": visible_fingerprint(made.visible),
        "dropped": made.dropped,
    }


def visible_fingerprint(visible: Any) -> str:
    """What a store records of the interactions it was built from: hash of the (user, item, timestamp) rows."""
    columns = (visible[name].to_pylist() for name in ("user_id", "item_id", "timestamp"))
    return fingerprint(list(zip(*columns, strict=True)))


def read_tasks(folder: Any, part: str) -> list[Any]:
    """Tasks of one part as :class:`star_rl.records.Task`."""
    from star_rl.records import read_table

    return list(tasks_from(read_table(folder / f"{part}.parquet", "tasks")))
