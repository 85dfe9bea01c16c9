"""Stage ``tasks``: tables to training, validation and test tasks, and the interactions that neighbours may see."""

from __future__ import annotations

from collections.abc import Iterator
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

#: Rows of a row group of ``visible.parquet``, and rows that are read at once.
_GROUP, _PIECE = 1 << 20, 1 << 16


def build(context: Context) -> dict[str, Any]:
    """Write ``train``, ``valid`` and ``test`` tasks and ``visible`` interactions; the split refuses a leak itself."""
    made = split(Tables.read(context.inputs["tables"]), context.config["split"]["options"], context.seed)
    for part in PARTS:
        write_table(context.folder / f"{part}.parquet", tasks_to(getattr(made, part)), "tasks")
    counts = {part: len(getattr(made, part)) for part in PARTS}
    shown, dropped = made.shown, made.dropped
    del made  # while texts are copied, the split's tables and tasks need not be held
    pa.default_memory_pool().release_unused()
    _write_visible(context.inputs["tables"], shown, context.folder / "visible.parquet")
    pa.default_memory_pool().release_unused()
    return {
        "summary": ", ".join(f"{count:,} {part}" for part, count in counts.items())
        + f" tasks, {len(shown):,} interactions visible",
        "tasks": counts,
        "visible": len(shown),
        "visible_fingerprint": visible_fingerprint(context.folder / "visible.parquet"),
        "dropped": dropped,
    }


def _write_visible(tables: Path, shown: np.ndarray, path: Path) -> None:
    """Copy these rows with their texts, a row group at a time where they stand in the order of the table."""
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, INTERACTIONS, compression="zstd") as writer:
        held: list[pa.Table] = []
        for rows in _rows(tables, shown):
            while len(rows):
                held.append(rows.slice(0, _GROUP - sum(map(len, held))))
                rows = rows.slice(len(held[-1]))
                if sum(map(len, held)) == _GROUP:
                    writer.write_table(pa.concat_tables(held).combine_chunks(), _GROUP)
                    held = []
        if held:
            writer.write_table(pa.concat_tables(held).combine_chunks(), _GROUP)


def _rows(tables: Path, shown: np.ndarray) -> Iterator[pa.Table]:
    if (np.diff(shown) < 0).any():  # the table was not sorted: only its whole can be put in order
        yield read_table(tables, "interactions").take(pa.array(shown))
        return
    start = 0
    for batch in interaction_batches(tables, _PIECE):
        low, high = np.searchsorted(shown, [start, start + len(batch)])
        yield pa.Table.from_batches([batch.take(pa.array(shown[low:high] - start))])
        start += len(batch)
