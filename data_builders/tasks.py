"""Stage ``tasks``: tables to training, validation and test tasks, and the interactions that neighbours may see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from star_rl.evidence.leak import visible_fingerprint
from star_rl.records import Task, read_table, tasks_from, tasks_to, write_table
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


def read_tasks(folder: Path, part: str) -> list[Task]:
    """Tasks of one part, as this stage wrote them."""
    return list(tasks_from(read_table(folder / f"{part}.parquet", "tasks")))
