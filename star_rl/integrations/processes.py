"""A training run's processes: started together, found again, ended together.

Ray's daemons and torchrun's workers leave the session of the process that starts them, and outlive a killed launcher.
So each process carries the run's folder in an environment variable, which children inherit: all that carry it belong
to the run.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from star_rl.masking import mask, open_log

MARK = "STAR_RL_RUN"
_TAIL_LINES = 25
#: The line of a traceback that names the exception; Ray puts the actor in brackets before it.
_CAUSE = re.compile(r"^(?:\(.*?\)\s*)?[\w.]*(?:Error|Exception)(?:: |$)")
_PR_SET_PDEATHSIG = 1  # prctl(2), Linux only


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    run: Path,
    log: Path,
    *,
    cwd: Path | None = None,
    dies_with_us: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, its output appended to ``log``.

    Args:
        command: the program and its arguments.
        environment: variables on top of this process's own.
        run: the run's folder.
        log: the log, which only its owner can read.
        cwd: working directory; default ``run``.
        dies_with_us: the kernel kills the process when this one is killed.
    """
    with open_log(log) as output:
        return subprocess.Popen(
            command,
            cwd=cwd or run,
            env={**os.environ, **environment, MARK: str(run.resolve())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent if dies_with_us else None,
        )


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], run: Path, log: Path, *, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, which dies with this process; when the block ends, end all processes of the run."""
    process = start(command, environment, run, log, cwd=cwd, dies_with_us=True)
    try:
        yield process
    finally:
        process.poll()  # the exit code, before `end` could take it
        end(run, 10.0)
        process.wait()


def members(run: Path) -> list[psutil.Process]:
    """Return the living processes of a run, without the caller's own."""
    mark, found = str(run.resolve()), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark and process.status() != "zombie":
                found.append(process)
    return found


def end(run: Path, grace_seconds: float = 5.0) -> int:
    """Terminate all processes of a run, kill those left after ``grace_seconds``; return how many there were."""
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


def read_log(log: Path, start: int = 0) -> list[str]:
    """Return the lines of a log from byte ``start`` on, without progress bars."""
    with log.open("rb") as handle:
        handle.seek(start)
        text = handle.read().decode("utf-8", "replace")
    rows = (row.split("\r")[-1].rstrip() for row in text.split("\n"))
    return [row for row in rows if row and "it/s]" not in row]


def tail(log: Path, start: int = 0) -> str:
    """Return the last lines of a log, after the first one that names an exception; secrets are masked."""
    lines = read_log(log, start)
    last = lines[-_TAIL_LINES:]
    cause = next((line for line in lines if _CAUSE.search(line)), None)
    return mask("\n".join(last if cause is None or cause in last else [cause, "..", *last]))


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
