"""Content fingerprints of a method's inputs, so that a cached answer is never reused for other inputs.

A file up to :data:`WHOLE` bytes is hashed whole; of a larger one its size and :data:`BLOCKS` blocks at even distances,
both ends among them: a checkpoint of 28 GB takes a fraction of a second, and training changes weights everywhere.
Neither path nor time counts: a copy has the fingerprint of its original.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

#: Bytes up to which a file is hashed whole; bytes of a block of a larger file, and how many blocks.
WHOLE, BLOCK, BLOCKS = 64 << 20, 256 << 10, 64
#: Files of a Hugging Face folder that decide what its model writes.
_MODEL = (".safetensors", ".bin", ".pt", ".json", ".jinja", ".txt", ".model")
#: Parts of a run's data that a method may read, and the file of each.
DATA = {
    "interactions": "tables/interactions.parquet",
    "items": "tables/items.parquet",
    "users": "tables/users.parquet",
    "kept": "tasks/kept.parquet",  # absent where histories are of all interactions
    "visible": "tasks/visible.parquet",
    "memory": "memory/store/manifest.json",
    "summaries": "summaries/store/manifest.json",  # it holds the store's checksums
}


def of_file(path: Path) -> str:
    """Return 16 hexadecimal digits for a file, ``absent`` if it does not exist."""
    if not path.is_file():
        return "absent"
    size, digest = path.stat().st_size, hashlib.sha256()
    digest.update(str(size).encode())
    with open(path, "rb") as handle:
        if size <= WHOLE:
            while block := handle.read(1 << 20):
                digest.update(block)
        else:
            for number in range(BLOCKS):
                handle.seek(number * (size - BLOCK) // (BLOCKS - 1))
                digest.update(handle.read(BLOCK))
    return digest.hexdigest()[:16]


def of_model(folder: Path) -> str:
    """Return 16 hexadecimal digits for a checkpoint: weights, configuration, tokenizer and chat template."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix in _MODEL:
            digest.update(f"{file.name} {of_file(file)}\n".encode())
    return digest.hexdigest()[:16]


def of_data(run: Path, parts: Iterable[str] = tuple(DATA)) -> dict[str, str]:
    """Return :func:`of_file` of parts of a run's data (:data:`DATA`)."""
    return {part: of_file(run / DATA[part]) for part in parts}
