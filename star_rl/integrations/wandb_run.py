"""The W&B run of a training stage: one a run folder, the same after a resume.

Online with a key (``WANDB_API_KEY``) or with a server that has a login (``WANDB_BASE_URL`` and its entry in
``~/.netrc``), else offline into the folder. The user's own variables always win.
"""

from __future__ import annotations

import asyncio
import netrc
import os
import secrets
import urllib.request
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from star_rl.deadline import Overdue, ask
from star_rl.files import write_text

PROJECT = "star_rl"
#: Set to 1: a resume rewinds the W&B run to the checkpoint, so that no step of an undone attempt stays.
REWIND = "STAR_RL_WANDB_REWIND"


def run_id(folder: Path) -> str:
    """Return the W&B run id of a folder; created once, so that a resumed run continues its curves."""
    file = folder / "wandb_id"
    if not file.exists():
        write_text(file, secrets.token_hex(4) + "\n")
    return file.read_text(encoding="utf-8").strip()


def mode(given: Mapping[str, str]) -> str:
    """Return ``WANDB_MODE``, or what the credentials allow: online or offline."""
    if given.get("WANDB_MODE"):
        return given["WANDB_MODE"]
    server = given.get("WANDB_BASE_URL", "")
    return "online" if given.get("WANDB_API_KEY") or (server and _login(server, given)) else "offline"


def server(given: Mapping[str, str]) -> str:
    """Return the address of the W&B server; empty if the run is offline."""
    return (given.get("WANDB_BASE_URL") or "https://api.wandb.ai") if mode(given) == "online" else ""


def reachable(address: str, seconds: float = 10.0) -> bool:
    """Return whether a server answers, through the environment's proxies."""

    def answers() -> bool:
        try:
            urllib.request.urlopen(address, timeout=seconds).close()
        except HTTPError:
            return True
        except (OSError, HTTPException, ValueError):  # no connection, no HTTP, no address
            return False
        return True

    try:
        return asyncio.run(ask(answers, seconds))  # a DNS lookup has no timeout of its own
    except Overdue:
        return False


def offline(address: str, hosts: Iterable[str]) -> str:
    """Set W&B offline for this process and its children; return a message that says so."""
    os.environ["WANDB_MODE"] = "offline"
    return (
        f"W&B ({address}) cannot be reached from {', '.join(sorted(hosts))}: the curves are kept offline in the run "
        "folder, wandb sync sends them from elsewhere"
    )


def _login(server: str, given: Mapping[str, str]) -> bool:
    file = Path(given.get("NETRC") or Path(given.get("HOME") or Path.home()) / ".netrc")
    try:
        return netrc.netrc(str(file)).authenticators(urlsplit(server).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def variables(
    folder: Path, given: Mapping[str, str] | None = None, *, name: str = "", rewind_to: int | None = None
) -> dict[str, str]:
    """Return W&B's variables for the process that trains in ``folder``.

    Args:
        folder: the stage's folder; W&B's files go to ``folder/wandb``.
        given: the user's variables, default this process's; they win.
        name: the run's name unless the user gives one.
        rewind_to: step of the checkpoint that training resumes from. With :data:`REWIND` the W&B run is rewound to it
            (the server must support that); otherwise W&B keeps its values of the steps that are trained again.
    """
    given = os.environ if given is None else given
    made = {
        "WANDB_MODE": mode(given),
        "WANDB_DIR": str(folder.resolve()),
        "WANDB_PROJECT": PROJECT,
        "WANDB_RUN_ID": run_id(folder),
        "WANDB_RESUME": "allow",
        "WANDB_SILENT": "true",
        **({"WANDB_NAME": name} if name else {}),
    }
    made |= {key: given[key] for key in made if given.get(key)}
    if given.get(REWIND) == "1" and rewind_to and made["WANDB_MODE"] == "online":
        del made["WANDB_RESUME"]  # W&B takes one or the other
        made["WANDB_RESUME_FROM"] = f"{made['WANDB_RUN_ID']}?_step={rewind_to}"
    return made
