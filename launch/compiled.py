"""The compiled parts on a cluster: those of the node's own image, never the submitter's.

The tree that is sent shadows the installed project, and a library built elsewhere may want another Python or libc.
So none is sent, and the job takes over what its image built of the same sources.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Path without suffix; the C file beside it is what it is built of.
PARTS = ("star_rl/neighbours/_kernel", "star_rl/sources/_scan")


def installed(name: str = "star-rl") -> Iterator[Path]:
    """Folders that hold the installed project: site-packages, or the checkout of an editable installation."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return
    url = json.loads(found.read_text("direct_url.json") or "{}").get("url", "")
    if url.startswith("file://"):
        yield Path(unquote(urlsplit(url).path))
    yield Path(str(found.locate_file("")))


def adopt(root: Path, sources: Iterator[Path] | None = None) -> list[str]:
    """Put the image's compiled parts into the tree at ``root``.

    Returns:
        the parts that stay absent, for which the slower path in Python is taken.
    """
    suffix, absent = sysconfig.get_config_var("EXT_SUFFIX"), []
    folders = [folder for folder in (installed() if sources is None else sources) if folder != root]
    for part in PARTS:
        target = root / f"{part}{suffix}"
        for folder in folders:
            code, library = folder / f"{part}.c", folder / f"{part}{suffix}"
            same = code.is_file() and code.read_bytes() == (root / f"{part}.c").read_bytes()
            if same and library.is_file() and not target.exists():
                shutil.copy2(library, target)
        if not target.exists():
            absent.append(part)
    return absent
