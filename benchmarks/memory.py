"""Memory of a contender and all its processes while it runs, looked at from outside.

Counted is what belongs to the processes alone or is shared between them in memory: ``RssAnon + RssShmem`` of each, read
from ``/proc`` every few milliseconds. Pages of files that are mapped (the libraries, a spill file) are the system's
cache, which takes them back when others need memory; they are told apart as ``file``.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MIB = 1024.0
_INTERVAL = 0.02


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                found += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
        except (OSError, ValueError):
            continue
    return found


def memory(pids: Sequence[int]) -> tuple[float, float]:
    """MiB that are the processes' own, and MiB of mapped files."""
    own = mapped = 0.0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue  # it has just ended
        sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
        own += (int(sizes.get("RssAnon", 0)) + int(sizes.get("RssShmem", 0))) / MIB
        mapped += int(sizes.get("RssFile", 0)) / MIB
    return own, mapped


def watched(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    look: Callable[[float, float], None] | None = None,
) -> dict[str, Any]:
    """Run a command to its end.

    Args:
        look: called with seconds since the start and MiB of the moment.

    Returns:
        ``seconds``, ``peak`` and ``file`` in MiB, and ``out``, what it printed.

    Raises:
        SystemExit: it failed; the message is the end of what it wrote.
    """
    began, peak, file = time.perf_counter(), 0.0, 0.0
    with tempfile.TemporaryFile("w+") as log:
        with subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT) as process:
            while process.poll() is None:
                own, mapped = memory(tree(process.pid))
                peak, file = max(peak, own), max(file, mapped)
                if look:
                    look(time.perf_counter() - began, own)
                time.sleep(_INTERVAL)
            seconds = time.perf_counter() - began
        log.seek(0)
        out = log.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{out[-3000:]}")
    return {"seconds": seconds, "peak": peak, "file": file, "out": out}
