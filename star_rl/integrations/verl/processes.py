"""A training run's processes: started together, found again, ended together.

Ray's daemons leave the group of the process that starts them, and a killed launcher leaves everything running. So
each process carries the run's folder in an environment variable, which children inherit; whoever carries it belongs
to the run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

MARK = "STAR_RL_RUN"


def start(command: Sequence[str], environment: Mapping[str, str], run: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, its output appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            cwd=run,
            env={**os.environ, **environment, MARK: str(run.resolve())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def members(run: Path) -> list[psutil.Process]:
    """The living processes of a run, without the caller's own."""
    mark, found = str(run.resolve()), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark and process.status() != "zombie":
                found.append(process)
    return found


def end(run: Path, grace_seconds: float = 5.0) -> int:
    """End all processes of a run, gently first. Returns how many there were."""
    found = members(run)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    _, stubborn = psutil.wait_procs(found, timeout=grace_seconds)
    for process in {*stubborn, *members(run)}:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(stubborn), timeout=grace_seconds)
    return len(found)
