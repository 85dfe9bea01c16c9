"""What stands for the files that decide an answer, so that an answer of other files is never taken for one of these.

A small file is hashed whole. Of a large one (over :data:`WHOLE`) its size, its ends and blocks at even distances are:
a checkpoint of 28 GB takes a fraction of a second, and training changes weights everywhere. When a file was written and
where it lies is left out: a copy is the same file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

#: Bytes up to which a file is hashed whole; size of a block, and how many are taken of what is larger.
WHOLE, BLOCK, BLOCKS = 64 << 20, 256 << 10, 64
#: What a Hugging Face folder holds that decides what its model writes.
_MODEL = (".safetensors", ".bin", ".pt", ".json", ".jinja", ".txt", ".model")
#: What a method may read of a run's data, and the file of each.
DATA = {
    "interactions": "tables/interactions.parquet",
    "items": "tables/items.parquet",
    "users": "tables/users.parquet",
    "visible": "tasks/visible.parquet",
}


def of_file(path: Path) -> str:
    """16 hexadecimal digits for a file; ``absent`` where there is none."""
    if not path.is_file():
        return "absent"
    size, found = path.stat().st_size, hashlib.sha256()
    found.update(str(size).encode())
    with open(path, "rb") as handle:
        if size <= WHOLE:
            while block := handle.read(1 << 20):
                found.update(block)
        else:
            for number in range(BLOCKS):
                handle.seek(number * (size - BLOCK) // (BLOCKS - 1))
                found.update(handle.read(BLOCK))
    return found.hexdigest()[:16]


def of_model(folder: Path) -> str:
    """16 hexadecimal digits for a checkpoint: weights, configuration, tokenizer and chat template."""
    found = hashlib.sha256()
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix in _MODEL:
            found.update(f"{file.name} {of_file(file)}\n".encode())
    return found.hexdigest()[:16]


def of_data(run: Path, parts: Iterable[str] = tuple(DATA)) -> dict[str, str]:
    """:func:`of_file` of the parts of a run's data (:data:`DATA`)."""
    return {part: of_file(run / DATA[part]) for part in parts}
