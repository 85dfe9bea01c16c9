"""Stage ``tasks``: tables to training, validation and test tasks, and the interactions that neighbours may see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from star_rl.evidence.leak import visible_fingerprint
from star_rl.files import atomic_path
from star_rl.pipeline.stage import Context
from star_rl.records import INTERACTIONS, PARTS, interaction_batches, read_table, tasks_to, write_table
from star_rl.scenarios import Tables, split

#: Rows that are copied at once, at most a row group of ``visible.parquet``.
_ROWS = 1 << 18


def build(context: Context) -> dict[str, Any]:
    """Write ``train``, ``valid`` and ``test`` tasks and ``visible`` interactions; the split refuses a leak itself.

    Where ``core`` or ``max_history`` is set, ``kept`` holds the interactions that histories are made of.
    """
    made = split(Tables.read(context.inputs["tables"]), context.config["split"]["options"], context.seed)
    for part in PARTS:
        write_table(context.folder / f"{part}.parquet", tasks_to(getattr(made, part)), "tasks")
    counts = {part: len(getattr(made, part)) for part in PARTS}
    shown, kept, dropped = made.shown, made.kept, made.dropped
    del made  # while texts are copied, the split's tables and tasks need not be held
    pa.default_memory_pool().release_unused()
    _write_rows(context.inputs["tables"], shown, context.folder / "visible.parquet")
    if kept is not None:
        _write_rows(context.inputs["tables"], kept, context.folder / "kept.parquet")
    pa.default_memory_pool().release_unused()
    return {
        "summary": ", ".join(f"{count:,} {part}" for part, count in counts.items())
        + f" tasks, {len(shown):,} interactions visible"
        + (f" of {len(kept):,} kept" if kept is not None else ""),
        "tasks": counts,
        "visible": len(shown),
        "kept": None if kept is None else len(kept),
        "visible_fingerprint": visible_fingerprint(context.folder / "visible.parquet"),
        "dropped": dropped,
    }


def _write_rows(tables: Path, shown: np.ndarray, path: Path) -> None:
    """Copy the rows with these numbers, texts included, a piece at a time if they are in the table's order."""
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, INTERACTIONS, compression="zstd") as writer:
        if (np.diff(shown) < 0).any():  # the table was not sorted: only its whole can be put in order
            writer.write_table(read_table(tables, "interactions").take(pa.array(shown)))
            return
        start = 0
        for batch in interaction_batches(tables, _ROWS):
            low, high = np.searchsorted(shown, [start, start + len(batch)])
            writer.write_batch(batch.take(pa.array(shown[low:high] - start)))
            start += len(batch)
