"""Where W&B's curves of a run folder go: one run for each training stage, the same after a resume.

Online where a key (``WANDB_API_KEY``) or a server with a login (``WANDB_BASE_URL`` and its entry in ``~/.netrc``) is
there, else offline into the folder. What the user's own variables say always stands.
"""

from __future__ import annotations

import netrc
import os
import secrets
import threading
import urllib.request
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from star_rl.files import write_text

PROJECT = "star_rl"
#: Set to 1: a resume cuts the W&B run back to the checkpoint, so that no step of an undone attempt stays.
REWIND = "STAR_RL_WANDB_REWIND"


def run_id(folder: Path) -> str:
    """The W&B run id of a folder, made once: a resumed run continues its curves."""
    file = folder / "wandb_id"
    if not file.exists():
        write_text(file, secrets.token_hex(4) + "\n")
    return file.read_text(encoding="utf-8").strip()


def mode(given: Mapping[str, str]) -> str:
    """``WANDB_MODE``, or what the credentials at hand allow."""
    if given.get("WANDB_MODE"):
        return given["WANDB_MODE"]
    server = given.get("WANDB_BASE_URL", "")
    return "online" if given.get("WANDB_API_KEY") or (server and _login(server, given)) else "offline"


def server(given: Mapping[str, str]) -> str:
    """Return the address that the curves go to; empty where they stay here."""
    return (given.get("WANDB_BASE_URL") or "https://api.wandb.ai") if mode(given) == "online" else ""


def reachable(address: str, seconds: float = 10.0) -> bool:
    """Return whether a server answers at all, by the proxies of the environment."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(address, timeout=seconds).close()
        except HTTPError:  # an answer
            pass
        except (OSError, HTTPException, ValueError):  # no connection, no HTTP, no address
            return
        answered.set()

    # a thread: looking up a name has no limit of its own
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return answered.is_set()


def offline(address: str, hosts: Iterable[str]) -> str:
    """Keep the curves in the run folder from here on; return the line that says so."""
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
    """Variables for the process that trains in ``folder``.

    Args:
        folder: of the stage; W&B's files go to ``folder/wandb``.
        given: the user's variables, default this process's; they win.
        name: of the run where the user gives none.
        rewind_to: step of the checkpoint that training goes on from. With :data:`REWIND` the W&B run is cut back to it
            (its server must be able to); otherwise W&B keeps what it has of the steps that are trained again.
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
