"""Stage ``evidence``: neighbours into words, sealed in a store."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from star_rl.evidence import EvidenceStore
from star_rl.evidence.build import build_store
from star_rl.evidence.leak import contains_of, visible_fingerprint
from star_rl.evidence.model import Catalogue
from star_rl.evidence.template import Template
from star_rl.pipeline.stage import Context
from star_rl.records import INTERACTIONS, PARTS, ItemTable, read_interactions, read_table, read_tasks, rows_of_users
from star_rl.scenarios import Histories

_COLUMNS = INTERACTIONS.names[:-1]


def build(context: Context) -> dict[str, Any]:
    """Write ``store/``: every visible item, every user of a task, and the proof that no target was seen."""
    tables, tasks, found = (context.inputs[name] for name in ("tables", "tasks", "neighbours"))
    every = [task for part in PARTS for task in read_tasks(tasks, part)]
    # Only what is asked for: every worker that is forked holds it too.
    visible = rows_of_users(
        read_interactions(tasks / "visible.parquet", _COLUMNS), {task.user_id for task in every}, _COLUMNS
    )
    histories = Histories(visible)
    pa.default_memory_pool().release_unused()
    scenario = context.config["split"]["options"].get("scenario", "classic")
    fingerprint = visible_fingerprint(tasks / "visible.parquet")
    manifest = build_store(
        context.folder / "store",
        {"ItemCF": found / "items.parquet", "UserCF": found / "users.parquet"},
        Template(Catalogue(ItemTable(read_table(tables, "items"))), **context.config["evidence"]),
        scenario=scenario,
        fingerprint=fingerprint,
        histories=lambda user: [event[0] for event in histories.of_user(user)],
        tasks=every,
        contains=contains_of(visible, every),
        workers=None,
        progress=context.progress,
    )
    with EvidenceStore.open(context.folder / "store", scenario, fingerprint, every) as store:
        checked = store.verify()
    return {
        "summary": f"{manifest['entries']:,} entries in words, sealed and verified",
        "tools": manifest["tools"],
        "fingerprint": manifest["fingerprint"],
        "targets": manifest["targets"],
        "checked": checked,
    }
