"""One process at a time, on any file system.

``flock`` goes with its process, however that ends, and on most shared file systems it holds between machines. Some have
none (Lustre mounted without ``flock``, a few FUSE mounts). There a mark takes its place: a file that only one process
can create, with its host and process id in it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.files import writing_error

#: What ``flock`` says where there is none (flock(2); ENOLCK: an NFS server without its lock service).
_NONE = frozenset((errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK))


class Lock:
    """A lock that is held, until :meth:`close` or the end of its block."""

    def __init__(self, descriptor: int, mark: Path | None) -> None:
        self._descriptor, self._mark, self._owner = descriptor, mark, os.getpid()

    def close(self) -> None:
        """Let others in. Harmless when called again, and in a fork of the holder."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        os.close(descriptor)
        if self._mark is not None and self._owner == os.getpid():
            self._mark.unlink(missing_ok=True)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hold(path: Path, what: str, remedy: str) -> Lock:
    """Lock ``path``, which is created where it is not; its content is left alone.

    Args:
        path: the file; its folder exists.
        what: what to say where another process holds it.
        remedy: what to do then.

    Raises:
        StarError: another process holds it, or the file cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise writing_error(path, error) from error
    mark = None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StarError(what, remedy) from error
        except OSError as error:
            if error.errno not in _NONE:
                raise StarError(f"cannot lock {path}: {error.strerror}", "see to its file system") from error
            mark = path.with_name(f"{path.name}.held")
            _claim(mark, what)
            print(f"star-rl: no flock for {path} ({error.strerror}): {mark.name} stands for it", file=sys.stderr)
    except BaseException:
        os.close(descriptor)
        raise
    return Lock(descriptor, mark)


def _claim(mark: Path, what: str) -> None:
    """Create the mark; one that a process of this machine left behind is taken away first."""
    me = {"host": socket.gethostname(), "pid": os.getpid(), "since": _since(os.getpid())}
    for _ in range(2):
        try:
            descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            holder = _holder(mark)
            if holder.get("host") != me["host"] or holder.get("since") == _since(int(holder["pid"])):
                break
            mark.unlink(missing_ok=True)
        except OSError as error:
            raise writing_error(mark, error) from error
        else:
            with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
                json.dump(me, handle)
            return
    else:
        holder = _holder(mark)
    who = f"process {holder['pid']} on {holder['host']}" if holder else "whoever wrote it"
    raise StarError(what, f"{mark} says so; delete it if {who} is gone")


def _holder(mark: Path) -> dict[str, Any]:
    """What a mark says: ``host``, ``pid``, ``since``; nothing where it is being written, or is gone."""
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))
        return found if {"host", "pid", "since"} <= set(found) else {}
    except (OSError, ValueError, TypeError):
        return {}


def _since(pid: int) -> str:
    """When a process of this machine began, so that another with its number is not taken for it; empty if it is gone.

    Clock ticks since the machine's start, field 22 of proc(5)'s ``stat``; the second, in brackets, may hold anything.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
