"""Write, read and check the manifest of a sealed store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.files import fingerprint

FORMAT = 4
KIND = "star-rl evidence store"
MANIFEST = "manifest.json"


def shard_name(number: int) -> str:
    return f"shard-{number:05d}"


def building_folder(path: str | Path) -> Path:
    """Return the folder of the store's unsealed entries."""
    path = Path(path)
    return path.with_name(path.name + ".building")


def manifest_text(fields: dict[str, Any]) -> str:
    """Return the manifest's text: the fields, and a checksum over them."""
    whole = {"kind": KIND, "format": FORMAT, **fields}
    whole["checksum"] = fingerprint(whole)
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def read_manifest(path: str | Path, scenario: str | None = None, data: str | None = None) -> dict[str, Any]:
    """Return the manifest of the sealed store at ``path``.

    Args:
        scenario: refuse a store of another scenario.
        data: refuse a store that was built from data of another fingerprint.

    Raises:
        StarError: there is no store, it was never sealed, it is damaged, of another format, scenario or data.
    """
    folder = Path(path)
    file = folder / MANIFEST
    if not file.exists() and (building := building_folder(folder)).exists():
        raise StarError(
            f"the evidence store {folder} is not sealed yet",
            f"run the command that builds it again (it resumes), or delete {building}",
        )
    # Sealing moves the store to its place and then removes what it was built in: it may just have happened.
    if not file.exists() and folder.exists():
        raise StarError(f"{folder} is not a sealed evidence store (no {MANIFEST})", "delete it and build it again")
    if not file.exists():
        raise StarError(f"there is no evidence store {folder}", "check the path, or run: star-rl evidence build")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if manifest.pop("checksum", None) != fingerprint(manifest):
            raise ValueError("it fails its checksum")
    except (ValueError, OSError, AttributeError, TypeError) as error:
        raise StarError(f"the evidence store is damaged: {file}", "copy the store again, or build it again") from error
    if manifest.get("kind") != KIND or manifest.get("format") != FORMAT:
        raise StarError(
            f"{folder} has format {manifest.get('format')!r}, this version reads {FORMAT}",
            "build the store again",
        )
    if scenario is not None and manifest["scenario"] != scenario:
        raise StarError(
            f"the evidence store {folder} is of scenario {manifest['scenario']!r}, not {scenario!r}",
            "open the store of that scenario: another one may hold what must not be seen",
        )
    if data is not None and manifest["fingerprint"] != data:
        raise StarError(
            f"the evidence store {folder} was built from data {manifest['fingerprint']}, the tables here are {data}",
            "build the store again from these tables",
        )
    return manifest
