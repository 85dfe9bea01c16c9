"""Stage ``evidence``: neighbours into words, sealed in a store."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq

from data_builders.tasks import visible_fingerprint
from star_rl.evidence import EvidenceStore, EvidenceWriter
from star_rl.evidence.model import Catalogue
from star_rl.evidence.template import Template
from star_rl.records import items_from, read_table
from star_rl.scenarios import Histories
from star_rl.stage import Context

#: Tool -> the neighbours it is answered from.
_TABLES = {"ItemCF": "items", "UserCF": "users"}


def build(context: Context) -> dict[str, Any]:
    """Write ``store/``: every visible item, every user that a task asks for."""
    tables, tasks, found = (context.inputs[name] for name in ("tables", "tasks", "neighbours"))
    visible = read_table(tasks / "visible.parquet", "interactions")
    template = Template(Catalogue(items_from(read_table(tables, "items"))), **context.config["evidence"])
    histories = Histories(visible)
    writer = EvidenceWriter(
        context.folder / "store",
        scenario=context.config["split"]["options"].get("scenario", "classic"),
        fingerprint=visible_fingerprint(visible),
        about=template.about(),
    )
    rows = {tool: pq.read_table(found / f"{name}.parquet") for tool, name in _TABLES.items()}
    total, done = sum(map(len, rows.values())), 0
    with writer:
        for tool, table in rows.items():
            for row in table.to_pylist():
                done += 1
                if (tool, row["key"]) in writer:
                    continue
                near = list(zip(row["neighbours"], row["weights"], row["support"], strict=True))
                past = [event[0] for event in histories.of_user(row["key"])] if tool == "UserCF" else ()
                words = template(tool, row["key"], near, past)
                writer.put(tool, row["key"], words.text, near, words.evidence.as_json())
                if done % 256 == 0:
                    context.progress(done, total, tool)
        writer.seal()
    with EvidenceStore.open(context.folder / "store") as store:
        checked = store.verify()
    return {"summary": f"{total:,} entries in words, sealed and verified", "entries": total, "checked": checked}
