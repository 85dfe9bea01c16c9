"""One process at a time in a folder or at a file, by ``filelock``, on any file system.

``flock`` ends with its process, however that ends, and on most shared file systems it holds between machines. Some file
systems have none: Lustre mounted without ``flock``, a few FUSE mounts, NFS without its lock service. There a marker
file takes its place, which one process can create. It holds between machines too, as far as the file system creates
files exclusively. The marker of a process that died is replaced on the machine where the process ran; on another
machine, where nobody can tell, a person deletes it.
"""

from __future__ import annotations

import errno
import sys
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from star_rl.errors import StarError
from star_rl.files import writing_error

#: Errors of ``flock`` on a file system that has none.
_NO_FLOCK = frozenset((errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK))
#: Seconds in which a stale marker is replaced: it takes two looks.
_TAKE_OVER = 0.25


def hold(path: Path, what: str, remedy: str) -> ExitStack:
    """Lock ``path`` and return what releases the lock: its ``close()``, the end of a ``with`` block, or its loss.

    Args:
        path: the file to lock. It is created if missing; its content stays.
        what: the error when another process holds the lock.
        remedy: the remedy of that error.

    Raises:
        StarError: another process holds the lock, or the file cannot be written.
    """
    lock: BaseFileLock = FileLock(path, mode=0o644, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise StarError(what, remedy) from error
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise writing_error(path, error) from error
        lock = _create_marker(path.with_name(f"{path.name}.held"), what)
        print(f"star-rl: no flock for {path} ({error.strerror}): using the marker {lock.lock_file}", file=sys.stderr)
    held = ExitStack()
    held.callback(lock.release)
    return held


def _create_marker(marker: Path, what: str) -> BaseFileLock:
    lock = SoftFileLock(marker, mode=0o644, thread_local=False)
    try:
        lock.acquire(timeout=_TAKE_OVER)
    except Timeout as error:
        raise StarError(what, f"delete {marker} if {_holder(marker)} is gone") from error
    except OSError as error:
        raise writing_error(marker, error) from error
    return lock


def _holder(marker: Path) -> str:
    """Return who wrote a marker and when, as words for a message."""
    try:
        since = datetime.fromtimestamp(marker.stat().st_mtime).isoformat(" ", "seconds")
        pid, host, *_ = marker.read_text(encoding="utf-8").splitlines()
        return f"process {pid} on {host}, there since {since},"
    except (OSError, ValueError):
        return "the process that wrote it"
