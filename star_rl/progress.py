"""Progress of anything that takes long: the one type that a caller hands down, and a live line that shows it.

``rich`` has no line that turns into a heartbeat where the output is a log file, so the line is ours.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

_REFRESH = 0.25  # seconds between two looks of a live line
_HEARTBEAT = 15.0  # seconds between lines where the output is no terminal


class Progress(Protocol):
    """Called while something works: how far it is, of how much, and a few words."""

    def __call__(self, done: float, total: float | None = None, note: str = "") -> None: ...


class ProgressLine:
    """A live line: rewritten in place on a terminal, a heartbeat elsewhere. It is a :class:`Progress`.

    A thread keeps the clock going, for an engine may take a minute to start before it has anything to say.
    """

    def __init__(self, label: str, out: Any = None) -> None:
        self._label, self._out = label, out or sys.stdout
        self._live = self._out.isatty()
        self._began = time.monotonic()
        self._now = ""
        self._width = 0
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._tick, daemon=True)
        self._clock.start()

    def __call__(self, done: float, total: float | None = None, note: str = "") -> None:
        share = f"{100 * done / total:3.0f} %  " if total else f"{done:,.0f}  " if done else ""
        self._now = f"{share}{note}  "

    def say(self, text: str) -> None:
        """Write a line of its own; the live one goes on below it."""
        self._out.write(("\r" + text + " " * max(0, self._width - len(text)) if self._live else text) + "\n")
        self._out.flush()

    def end(self, text: str) -> None:
        """Write the last line in the place of the live one."""
        self._ended.set()
        self._clock.join()
        self.say(f"{self._label}{text}")

    def _tick(self) -> None:
        while not self._ended.wait(_REFRESH if self._live else _HEARTBEAT):
            text = f"{self._label}{self._now}{time.monotonic() - self._began:.0f} s"
            if self._live:
                text = text[: os.get_terminal_size(self._out.fileno()).columns - 1]
                self._out.write("\r" + text + " " * max(0, self._width - len(text)))
                self._width = len(text)
            else:
                self._out.write(text + "\n")
            self._out.flush()


@contextlib.contextmanager
def progress_line(label: str) -> Iterator[ProgressLine]:
    """Yield a live line on stderr; its last words are ``done``, or ``stopped`` where the block raises."""
    line, ended = ProgressLine(f"{label}  ", sys.stderr), "stopped"
    try:
        yield line
        ended = "done"
    finally:
        line.end(ended)
