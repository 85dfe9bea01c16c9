"""Stage ``tables``: raw files to the four tables."""

from __future__ import annotations

from typing import Any

from star_rl.pipeline.stage import Context
from star_rl.sources import write_tables


def build(context: Context) -> dict[str, Any]:
    """Write ``interactions``, ``items`` and ``users`` of the recipe's source.

    Raises:
        StarError: the source, its root, an option or the data as a whole is unusable.
    """
    source = context.config["source"]
    manifest = write_tables(source["name"], source["root"], context.folder, source["options"], context.progress)
    kept = manifest["kept"]
    dropped = sum(sum(reasons.values()) for reasons in manifest["dropped"].values())
    counts = ", ".join(f"{kept[name]:,} {name}" for name in ("users", "items", "interactions"))
    said = [f"{number:,} {what}" for what, number in manifest.get("repaired", {}).items()] + manifest.get("doubts", [])
    return {"summary": ", ".join([f"{source['name']}: {counts}, {dropped:,} rows dropped", *said]), **manifest}
