"""Keep secrets of the environment out of our messages and logs, and other processes' logs private.

Our own streams mask a secret's value. Engines and their workers write into a log through descriptors of their own, with
nothing between them and the file; only its owner can read such a log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

MASK = "***"
#: Names of the variables that were sent with a job (``--env``), separated by commas.
SENT = "STAR_RL_SENT"
_NAME = re.compile(r"(^|_)[A-Z]*(KEY|TOKEN|SECRET|PASSWORD|PASSWD)S?(_|$)", re.IGNORECASE)
#: Values that occur in any log (a number, an address, words), and paths.
_COMMON = re.compile(r"[\d.,:-]*|[A-Za-z]+([-_ ][A-Za-z]+)*")
_PATH = re.compile(r"[~.]?/")
_SHORTEST = 6


def is_secret(name: str, value: str, sent: bool = False) -> bool:
    """Return whether a variable's value is masked: its name says so or it was sent, and it is no common text."""
    named = bool(_NAME.search(name))
    if len(value) < _SHORTEST or _PATH.match(value) or not (sent or named):
        return False
    return not _COMMON.fullmatch(value) or (named and len(value) >= 2 * _SHORTEST)


def secret_values(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the values to mask of an environment (default this process's), longest first."""
    environment = os.environ if environment is None else environment
    sent = environment.get(SENT, "").split(",")
    found = {value for name, value in environment.items() if is_secret(name, value, name in sent)}
    return tuple(sorted(found, key=lambda value: (-len(value), value)))


def mask(text: str, values: tuple[str, ...] | None = None) -> str:
    """Replace each of ``values`` (default those of the environment) in ``text``."""
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


def open_log(path: Path) -> IO[bytes]:
    """Open a log for appending that only its owner can read (mode 0600); its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.fchmod(descriptor, 0o600)  # a log that is there already
    return os.fdopen(descriptor, "ab")
