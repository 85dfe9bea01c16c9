"""Secrets of the environment, kept out of logs and of the terminal.

Engines and their workers write into a log through a descriptor of their own, so nothing stands between them and the
file, and nothing should: a pump in between would hold up a trainer when its driver is slow, and end it with its driver.
The values are overwritten in the file instead, length for length, a moment after they were written.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MASK = "***"
#: Names of the variables that were sent along with a job (``--env``), separated by commas.
SENT = "STAR_RL_SENT"
_NAME = re.compile(r"(^|_)[A-Z]*(KEY|TOKEN|SECRET|PASSWORD|PASSWD)S?(_|$)", re.IGNORECASE)
#: What occurs in any log: a number, an address, a word or several; and a place on the disk.
_COMMON = re.compile(r"[\d.,:-]*|[A-Za-z]+([-_ ][A-Za-z]+)*")
_PLACE = re.compile(r"[~.]?/")
_SHORTEST = 6
_EVERY = 0.5  # seconds between two looks at a log
_BLOCK = 1 << 20


def is_secret(name: str, value: str, sent: bool = False) -> bool:
    """Whether a variable's value is to be masked: its name says so or it was sent along, and it is no common text."""
    named = bool(_NAME.search(name))
    if len(value) < _SHORTEST or _PLACE.match(value) or not (sent or named):
        return False
    return not _COMMON.fullmatch(value) or (named and len(value) >= 2 * _SHORTEST)


def secret_values(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The values to mask of an environment (this process's), longest first."""
    environment = os.environ if environment is None else environment
    sent = environment.get(SENT, "").split(",")
    found = {value for name, value in environment.items() if is_secret(name, value, name in sent)}
    return tuple(sorted(found, key=lambda value: (-len(value), value)))


def mask(text: str, values: tuple[str, ...] | None = None) -> str:
    """``text`` with every one of ``values`` (those of the environment) replaced."""
    for value in secret_values() if values is None else values:
        text = text.replace(value, MASK)
    return text


class MaskedStream:
    """A text stream that writes no secret of the environment."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(mask(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def masking(log: Path) -> Iterator[None]:
    """Overwrite secrets in ``log`` while others write to it, for the length of the block. What stands there
    already is masked as well."""
    values = [value.encode() for value in secret_values()]
    if not values:
        yield
        return
    over, place = threading.Event(), 0

    def follow() -> None:
        nonlocal place
        while not over.wait(_EVERY):
            place = _overwrite(log, values, place)

    thread = threading.Thread(target=follow, name="star-masking", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _overwrite(log, values, place)


def _overwrite(log: Path, values: list[bytes], place: int) -> int:
    """Mask what stands behind ``place``, and a value that began shortly before it; returns the end."""
    longest = max(map(len, values))
    with contextlib.suppress(OSError), open(log, "r+b", buffering=0) as handle:
        if handle.seek(0, os.SEEK_END) < place:
            place = 0  # the file was begun anew
        while True:
            start = max(0, place - longest + 1)
            handle.seek(start)
            block = handle.read(_BLOCK + longest)
            for value in values:
                at = block.find(value)
                while at >= 0:
                    handle.seek(start + at)
                    handle.write(b"*" * len(value))
                    block = block[:at] + b"*" * len(value) + block[at + len(value) :]
                    at = block.find(value, at)
            if start + len(block) <= place:
                break
            place = start + len(block)
    return place
