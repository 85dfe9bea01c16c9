"""Raw files to the four tables: one module a source, all reached through :func:`write_tables`.

A source is a function ``write(root, out_dir, options, progress) -> manifest``. It streams its files into a
:class:`star_rl.sources.sink.Sink`, which checks, counts, sorts and writes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from star_rl.errors import StarError
from star_rl.files import import_file, sha256
from star_rl.progress import Progress

Source = Callable[[Path | None, Path, Mapping[str, Any], Progress | None], dict[str, Any]]

#: Name of each source and the module that holds its ``write``; imported when asked for.
SOURCES: dict[str, str] = {
    "synthetic": "star_rl.sources.synthetic",
    "movielens": "star_rl.sources.movielens",
    "sequences": "star_rl.sources.sequences",
    "columns": "star_rl.sources.columns",
    "agentrecbench": "star_rl.sources.agentrecbench",
    "amazon": "star_rl.sources.amazon",
    "goodreads": "star_rl.sources.goodreads",
    "yelp": "star_rl.sources.yelp",
}


def source(name: str) -> Source:
    """Return the ``write`` of a source, by its name or by the path of a Python file.

    Raises:
        StarError: there is no such source, or the file cannot be used.
    """
    if name.endswith(".py"):
        own = getattr(import_file(name), "write", None)
        if not callable(own):
            raise StarError(f"{name} has no function write", "define write(root, out_dir, options, progress)")
        return cast(Source, own)
    if name not in SOURCES:
        raise StarError(
            f"there is no source {name!r}", f"choose one of {', '.join(sorted(SOURCES))}, or the path of a .py file"
        )
    write: Source = importlib.import_module(SOURCES[name]).write
    return write


def reads_files(name: str) -> bool:
    """Return whether a source needs a root; one of a user's own file says so itself."""
    return name != "synthetic" and not name.endswith(".py")


def code_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of a user's own source file, which decides the stage ``tables`` too."""
    name = config["source"]["name"]
    return {"source": sha256(name)} if name.endswith(".py") else {}


def write_tables(
    name: str,
    root: str | Path | None,
    out_dir: str | Path,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write ``interactions``, ``items``, ``users`` (and ``tasks`` where the source has them) and ``tables.json``.

    Args:
        name: a key of :data:`SOURCES`, or the path of a Python file with a function ``write``.
        root: folder (or file) of the raw data; None for ``synthetic``, and where a user's own source needs none.
        out_dir: folder of the tables.
        options: the source's options; every source also takes ``max_bad_share`` (0.01) and ``memory_mb`` (64).
        progress: see :class:`star_rl.progress.Progress`.

    Returns:
        the manifest: ``source``, ``time`` (seconds or position), ``time_range``, ``read``, ``kept``, ``dropped`` by
        table and reason, ``repaired``, ``bad_rows`` (file, line, reason of the first), ``fingerprint``.

    Raises:
        StarError: a path, an option or the data as a whole is unusable.
    """
    write = source(name)
    if root is None and reads_files(name):
        raise StarError(f"source {name} needs root, the path of its files", "set source.root=PATH")
    if root is not None and not Path(root).exists():
        raise StarError(f"there is no folder {root}", f"set source.root to the files of source {name}")
    return write(None if root is None else Path(root), Path(out_dir), dict(options or {}), progress)
