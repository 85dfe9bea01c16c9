"""Send a recipe as a job of a Ray cluster; follow, stop and resume jobs.

A job's metadata on the cluster says what it is. Its run folder holds what it did.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets as random_source
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import OmegaConf

import star_rl
from star_rl.errors import StarError
from star_rl.launch import job, preflight, secret
from star_rl.layers import RECIPES, recipe_path
from star_rl.pipeline.options import Recipe

#: Key of a job's metadata that marks it as ours and holds its specification as JSON.
MARK = "star_rl"
TERMINAL = ("SUCCEEDED", "FAILED", "STOPPED")
#: Seconds for which a job is followed while the cluster cannot be reached, and the longest pause between two tries.
_PATIENCE, _LONGEST_PAUSE, _AGENT_SECONDS = 600.0, 30.0, 60.0
#: Parts of the working tree that no job needs; Ray leaves out what .gitignore names too (gitwildmatch patterns).
EXCLUDES = [
    ".?*", "__pycache__", "/runs", "/wandb", "/build", "/dist", "/tests", "/docs", "/benchmarks", "/packaging",
    "/models", "/CHANGELOG.md", "/CONTRIBUTING.md", "/mkdocs.yml", "/Makefile",
    "*.egg-info", "*.pyc", "*.log", "*.parquet", "*.safetensors", "*.bin", "*.pt", "*.arrow", "*.zip", "*.whl", "*.so",
]  # fmt: skip
#: Of the folder of an installed wheel, our package alone is sent. Ray skips the folder itself without ``!/.``.
INSTALLED = ["/*", "!/.", "!/star_rl", *EXCLUDES]


def connect(address: str) -> Any:
    """Ray's client for jobs.

    Args:
        address: of the dashboard, ``http://host:8265``.

    Raises:
        StarError: nothing answers there.
    """
    if not address:
        raise StarError("no cluster is named", "give --address http://HOST:8265, or set RAY_API_SERVER_ADDRESS")
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 8265)
    remedy = "give the address of the cluster's dashboard (port 8265), and forward it if it is not reachable from here"
    try:
        socket.create_connection((parts.hostname or "", port), timeout=10).close()
    except OSError as error:
        raise StarError(f"nothing answers at {parts.hostname}:{port} ({error})", remedy) from error
    os.environ.setdefault("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")  # EXCLUDES has them
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.WARNING)

    try:
        return JobSubmissionClient(url if parts.port else f"{url}:{port}")
    except AuthenticationError:
        raise StarError(
            f"the cluster at {parts.hostname}:{port} wants a token",
            "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, the file with the cluster's token",
        ) from None
    except (ConnectionError, RuntimeError) as error:
        raise StarError(f"{parts.hostname}:{port} is no Ray dashboard ({_first(error)})", remedy) from error


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def prepare(recipe: Recipe, root: Path, until: str | None = None) -> Recipe:
    """A recipe as the cluster's nodes can read it: paths into the tree relative to it, data and runs on shared paths.

    Raises:
        StarError: a path that a node could not follow, or what :func:`star_rl.pipeline.check.check_recipe` refuses.
    """
    from star_rl.pipeline.check import check_recipe
    from star_rl.pipeline.overlays import named

    if not Path(recipe.out).is_absolute():
        raise StarError(
            f"out={recipe.out} is relative", "set out= to an absolute path that every node sees: out=/shared/runs"
        )
    for name, value in (("source.root", recipe.source.root), ("student.path", recipe.student.path)):
        if value and (value.startswith(".") or (Path(value).exists() and not Path(value).is_absolute())):
            raise StarError(f"{name}={value} is relative", "give the absolute path that the nodes see")
    check_recipe(recipe, until, here=False)
    file, colon, function = recipe.grpo.reward.partition(".py")
    if colon and not recipe.grpo.reward.startswith("pkg://"):
        recipe.grpo.reward = _inside(Path(file + ".py"), root, "grpo.reward") + function
    recipe.tools.own = [_own(name, root, "tools.own") for name in recipe.tools.own]
    recipe.loop.environment = recipe.loop.environment and _own(recipe.loop.environment, root, "loop.environment")
    for section, option in ((recipe.sft, "sft.recipe"), (recipe.grpo, "grpo.recipe")):
        layers = [_sent(name, root, option) for name in named(section.recipe)]
        # in the form it was given in: the stage's key holds it, and a run begun here goes on there
        section.recipe = layers[0] if isinstance(section.recipe, str) else layers
    ray = dict(recipe.grpo.overrides.get("ray") or {})
    recipe.grpo.overrides = {**recipe.grpo.overrides, "ray": {"address": "auto", **ray}}
    return recipe


def _own(name: str, root: Path, option: str) -> str:
    """A tool or an environment as a node finds it."""
    place, _, attribute = name.rpartition(":")
    return f"{_inside(Path(place), root, option)}:{attribute}" if place.endswith(".py") else name


def _sent(name: str, root: Path, option: str) -> str:
    """A recipe as a node finds it: one that ships by its name, any other by its path in the tree that is sent."""
    path = recipe_path(name)
    return name if path.is_relative_to(RECIPES) else _inside(path, root, option)


def _inside(path: Path, root: Path, name: str) -> str:
    """Return a path relative to the tree that is sent.

    Raises:
        StarError: Ray would not send it: it lies outside, or :func:`excludes` or .gitignore leaves it out.
    """
    from ray._private.runtime_env.packaging import _get_excludes, get_excludes_from_ignore_files

    try:
        inside = path.resolve().relative_to(root)
    except ValueError:
        module = ", or install it on the nodes and write pkg://my_package.module" if name == "grpo.reward" else ""
        remedy = f"put the file into the tree that is sent{module}"
        raise StarError(f"{name}={path} lies outside {root}", remedy) from None
    left_out = [_get_excludes(root, excludes(root)), *get_excludes_from_ignore_files(root, include_gitignore=True)]
    for place in (inside, *inside.parents[:-1]):
        if any(match(root / place) for match in left_out):
            raise StarError(
                f"{name}={path} is not sent: {place} stays here", "move the file, to a folder such as mine/"
            )
    return inside.as_posix()


def submit(
    recipe: Recipe,
    client: Any,
    held: secret.Secrets,
    *,
    root: Path | None = None,
    start: str | None = None,
    until: str | None = None,
    extra: str | None = None,
    python: str = "python",
) -> str:
    """Send a recipe; return the job's id.

    Args:
        held: the submitter's variables.
        root: the tree to send, default :func:`project_root`.
        extra: which pins the nodes are held to, ``cpu`` or ``gpu``; default from the GRPO recipe's device.

    Raises:
        StarError: the recipe cannot run there, a job of this run is under way, or Ray refuses it.
    """
    root = (root or project_root()).resolve()
    recipe = prepare(recipe, root, until)
    with contextlib.chdir(root):  # the recipe's paths are relative to the tree now
        needs = preflight.needs_of(recipe, root, extra, until)
    spec: dict[str, Any] = {"name": recipe.name, "out": str(recipe.out), "recipe": OmegaConf.to_yaml(asdict(recipe))}
    spec |= {"start": start, "until": until, "needs": asdict(needs)}
    about = {**spec, "env": held.names, "extra": extra, "python": python}
    return _send(spec, about, client, held, root)


def project_root() -> Path:
    """Return the tree to send: the current folder if it is a checkout, else the folder that this code runs from."""
    here = Path.cwd()
    return here if is_checkout(here) else Path(star_rl.__file__).parents[1]


def excludes(root: Path) -> list[str]:
    """Return what Ray leaves out of a tree: of a checkout some folders, of site-packages all but this project."""
    return EXCLUDES if is_checkout(root) else INSTALLED


def is_checkout(folder: Path) -> bool:
    """Whether a folder is a checkout of the project, and not the one of an installed wheel."""
    return (folder / "setup.py").is_file() and (folder / "star_rl").is_dir()


def _send(spec: Mapping[str, Any], about: Mapping[str, Any], client: Any, held: secret.Secrets, root: Path) -> str:
    for other in jobs(client):
        if other["name"] == spec["name"] and other["out"] == spec["out"] and other["status"] not in TERMINAL:
            raise StarError(
                f"job {other['id']} works on run {spec['name']} already",
                f"follow it (star-rl status {spec['name']}), stop it, or set another name=",
            )
    text = json.dumps({key: spec[key] for key in ("recipe", "start", "until", "needs")})
    if held.mask(text) != text:
        raise StarError(
            "the recipe holds the value of a variable given by --env", "name the variable in the recipe instead"
        )
    # of what an address and a file's name may hold
    name = f"star-{re.sub(r'[^A-Za-z0-9_.-]', '-', spec['name'])}-{random_source.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="star-rl-") as folder:
        runtime = {"working_dir": str(root), "excludes": excludes(root), **job.parcel(Path(folder), text, held)}
        _hand_over(
            client,
            held,
            entrypoint=f"{shlex.quote(str(about['python']))} -m star_rl.launch.job",
            submission_id=name,
            runtime_env=runtime,
            metadata={MARK: json.dumps(about)},
        )
    return name


def _hand_over(client: Any, held: secret.Secrets, **request: Any) -> None:
    """Submit, and wait for the job agent of a head that has only just started.

    Raises:
        StarError: Ray refuses the job, or has no agent after :data:`_AGENT_SECONDS`.
    """
    patience = time.monotonic() + _AGENT_SECONDS
    while True:
        try:
            client.submit_job(**request)
            return
        except (RuntimeError, ConnectionError, ValueError) as error:
            reason = held.mask(_first(error))
            if "No available agent" not in reason:
                raise StarError(f"Ray refuses the job: {reason}", "see the cluster's dashboard") from None
            if time.monotonic() > patience:
                raise StarError(
                    f"the cluster's head has had no job agent for {_AGENT_SECONDS:.0f} s",
                    "another Ray on that node may hold its port: ray start --dashboard-agent-listen-port=PORT",
                ) from None
        time.sleep(1.0)


def jobs(client: Any) -> list[dict[str, Any]]:
    """Our jobs on the cluster, newest first: ``id, status, message, started, ended`` (seconds) and what was sent."""
    found = []
    for entry in client.list_jobs():
        text = (entry.metadata or {}).get(MARK)
        if text and entry.submission_id:
            state = str(getattr(entry.status, "value", entry.status))
            times = {"started": (entry.start_time or 0) / 1000, "ended": (entry.end_time or 0) / 1000}
            ended = {"status": state, "message": entry.message or "", "exit": getattr(entry, "driver_exit_code", None)}
            found.append({**json.loads(text), "id": entry.submission_id, **times, **ended})
    return sorted(found, key=lambda entry: -entry["started"])


def find(client: Any, name: str) -> dict[str, Any]:
    """The job of that id, or the newest of that run.

    Raises:
        StarError: there is none.
    """
    known = jobs(client)
    for entry in known:
        if name in (entry["id"], entry["name"]):
            return entry
    names = ", ".join(dict.fromkeys(entry["name"] for entry in known)) or "none"
    raise StarError(
        f"this cluster has no job of {name!r}", f"its runs are {names}; a new cluster forgets: submit again"
    )


def status_lines(client: Any, name: str | None = None, last: int = 3) -> list[str]:
    """One line a job, and the last lines of the log where one is named."""
    if name is None:
        return [_line(entry) for entry in jobs(client)] or ["no jobs"]
    entry = find(client, name)
    lines = client.get_job_logs(entry["id"]).rstrip().splitlines()[-last:]
    return [_line(entry), *(f"  {line}" for line in lines)]


def _line(entry: Mapping[str, Any]) -> str:
    spent = (entry["ended"] or time.time()) - entry["started"] if entry["started"] else 0.0
    folder = Path(entry["out"]) / entry["name"]
    return f"{entry['id']}  {entry['status']:<9} {spent:>7.0f} s  {folder}"


def stop(client: Any, name: str, patience: float = 30.0) -> str:
    """Stop a job; returns its state afterwards.

    Raises:
        StarError: there is none, or it has ended already.
    """
    entry = find(client, name)
    if entry["status"] in TERMINAL:
        raise StarError(f"{entry['id']} has ended already ({entry['status']})", "nothing has to be stopped")
    client.stop_job(entry["id"])
    until = time.monotonic() + patience
    while time.monotonic() < until:
        state = find(client, entry["id"])["status"]
        if state in TERMINAL:
            return state
        time.sleep(0.2)
    return find(client, entry["id"])["status"]


def resume(client: Any, name: str, names: Iterable[str], root: Path | None = None) -> str:
    """Send a run's recipe again; return the job's id. Finished stages are found in the run folder, and training resumes
    from its last checkpoint under its W&B run id.

    Args:
        names: variables to send; those of the earlier job where none are named.

    Raises:
        StarError: there is no such run, or it is under way.
    """
    entry = find(client, name)
    held = secret.Secrets.from_environment(list(names) or entry["env"])
    spec = {key: entry[key] for key in ("name", "out", "recipe", "until", "needs")} | {"start": None}
    about = {**spec, **{key: entry[key] for key in ("extra", "python")}, "env": held.names}
    return _send(spec, about, client, held, (root or project_root()).resolve())


def follow(client: Any, name: str, held: secret.Secrets, out: Any = None) -> int:
    """Print a job's log as it grows, until it ends.

    Returns:
        0 when it succeeded, the driver's exit code when it failed, 130 when it was stopped or following was.

    Raises:
        StarError: the cluster has been out of reach for :data:`_PATIENCE`.
    """
    out = out or sys.stdout
    try:
        entry = asyncio.run(_tail(client, name, held, out))
    except KeyboardInterrupt:
        print(f"star-rl: no longer following; {name} goes on (star-rl status, star-rl stop)", file=sys.stderr)
        return 130
    print(f"{entry['id']}: {entry['status'].lower()}", file=out, flush=True)
    if entry["status"] == "SUCCEEDED":
        return 0
    if entry["status"] == "STOPPED":
        return 130
    if entry["exit"] is None:
        print(f"star-rl: {held.mask(entry['message'])}", file=sys.stderr)
    print(f"star-rl: when the cause is mended: star-rl resume {entry['name']}", file=sys.stderr)
    return entry["exit"] or 1


async def _tail(
    client: Any,
    name: str,
    held: secret.Secrets,
    out: Any,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Print the log to its end; returns the job as :func:`find` has it then."""
    from aiohttp import ClientError

    printed, pause = 0, 1.0
    lost: float | None = None

    def regained() -> None:
        nonlocal lost, pause
        if lost is not None:
            print(f"star-rl: connected to {name} again", file=sys.stderr)
        lost, pause = None, 1.0

    while True:
        skip, rest = printed, ""
        try:
            # Asked before the log is read: only then is what follows known to be all of it.
            ended = client.get_job_status(name).value in TERMINAL
            async for chunk in client.tail_job_logs(name):
                new, skip = chunk[skip:], max(0, skip - len(chunk))
                *lines, rest = (rest + new).split("\n")
                # Whole lines only: a value must not slip through cut in two.
                for line in lines:
                    print(held.mask(line), file=out, flush=True)
                    printed += len(line) + 1
                regained()
            regained()
            if ended:
                entry = find(client, name)
                if rest:
                    print(held.mask(rest), file=out, flush=True)
                return entry
        except (RuntimeError, OSError, ClientError) as error:
            reason = held.mask(_first(error))
            if lost is None:
                lost = clock()
                print(f"star-rl: the connection to {name} is lost ({reason}); trying again", file=sys.stderr)
            elif clock() - lost >= _PATIENCE:
                raise StarError(
                    f"the log of {name} cannot be followed ({reason})", f"ask for it later: star-rl status {name}"
                ) from None
            await sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            await sleep(1.0)
