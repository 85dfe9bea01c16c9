"""Environment variables that travel to a cluster by name.

Ray shows a job's runtime environment on its dashboard and writes it to its logs, so a value must not stand there. It is
split in two: a random pad in the job's environment, and the value XOR the pad in a module that travels. Either half
alone is noise. Each process of the job puts the two together when it starts (:func:`load`, Ray's
``worker_process_setup_hook``), so the values are in the processes' memory and nowhere else.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from star_rl import masking
from star_rl.errors import StarError

#: Variable with the pad, and the file of module :data:`MODULE` with the rest.
PAD = "STAR_RL_PAD"
FILE = "env.json"
#: Module that travels beside the code, as one of Ray's ``py_modules``.
MODULE = "star_rl_sent"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Secrets:
    """Values by name, shown nowhere: neither by ``repr`` nor by :meth:`mask`."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    @classmethod
    def from_environment(cls, names: Iterable[str]) -> Secrets:
        """The submitter's own values.

        Raises:
            StarError: a name is none (``NAME=value`` for instance), or the variable is not set.
        """
        values = {}
        for name in names:
            if not _NAME.fullmatch(name):
                shown = re.split(r"[^A-Za-z0-9_]", name, maxsplit=1)[0]
                raise StarError(
                    f"--env {shown}.. is no name of a variable", "export the variable and give its name alone"
                )
            if name not in os.environ:
                raise StarError(f"--env {name}: the variable is not set here", f"export {name}, or leave it out")
            values[name] = os.environ[name]
        return cls(values)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._values))

    def __repr__(self) -> str:
        return f"Secrets({', '.join(self.names)})"

    def mask(self, text: str) -> str:
        """``text`` with every value replaced that is one to hide (:func:`star_rl.masking.is_secret`)."""
        hidden = [value for name, value in self._values.items() if masking.is_secret(name, value, sent=True)]
        return masking.mask(text, tuple(sorted(hidden, key=len, reverse=True)))

    def split(self) -> tuple[str, bytes]:
        """(pad for the job's environment, content of :data:`FILE`)."""
        plain = json.dumps(self._values).encode()
        pad = secrets.token_bytes(len(plain))
        mixed = bytes(a ^ b for a, b in zip(plain, pad, strict=True))
        return pad.hex(), json.dumps({"names": self.names, "mixed": mixed.hex()}).encode()


def sent_folder() -> Path:
    """Return the folder of :data:`MODULE`, or an empty path where none was sent."""
    found = importlib.util.find_spec(MODULE)
    return Path(found.origin).parent if found is not None and found.origin else Path()


def load(folder: str | Path | None = None) -> Secrets:
    """Put the submitted variables into this process's environment; nothing where none were submitted."""
    pad = os.environ.get(PAD, "")
    file = (sent_folder() if folder is None else Path(folder)) / FILE
    if not pad or not file.is_file():
        return Secrets({})
    mixed = bytes.fromhex(json.loads(file.read_text(encoding="utf-8"))["mixed"])
    values = json.loads(bytes(a ^ b for a, b in zip(mixed, bytes.fromhex(pad), strict=True)))
    os.environ.update(values)
    os.environ[masking.SENT] = ",".join(values)
    return Secrets(values)


def setup() -> None:
    """What Ray calls in every worker process of the job."""
    load()
