"""Tell whether a folder lies on a local disk."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

#: Linux's own disks and memory. A network file system may hang while a file is read.
_DISKS = ("bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "overlay", "squashfs", "xfs", "zfs")
LOCAL = frozenset((*_DISKS, "ramfs", "tmpfs"))
_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")  # how it writes a blank, a tab, a newline and a backslash


@functools.lru_cache(maxsize=64)
def on_local_disk(folder: str | Path) -> bool:
    """Return whether the folder's file system is one of :data:`LOCAL`; False if that is unknown."""
    try:
        path = os.path.realpath(folder, strict=True)
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    best, kind = "", ""
    for line in lines:  # proc(5): the mount point is the fifth field, the type the first after a lone hyphen
        fields = line.split(" ")
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # the last of those mounted on one point hides the others
            best, kind = point, fields[fields.index("-") + 1]
    return kind in LOCAL
