"""``star-rl`` with the commands of a cluster: ``submit``, ``status``, ``stop`` and ``resume``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from star_rl import cli
from star_rl.cli.base import command

if TYPE_CHECKING:
    from star_rl.launch.secret import Secrets

_EXAMPLE = "star-rl submit amazon .. --out /shared/runs --address http://HEAD:8265 --follow"
_address = click.option("--address", metavar="URL", help="the cluster's dashboard (default: RAY_API_SERVER_ADDRESS)")
_follow = click.option("--follow", is_flag=True, help="print the log until the job ends")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, as :func:`star_rl.cli.main` does."""
    return cli.main(argv, dict.fromkeys(("submit", "status", "stop", "resume"), __name__), [_EXAMPLE])


def _client(address: str | None) -> Any:
    from star_rl.launch.submit import connect

    return connect(address or os.environ.get("RAY_API_SERVER_ADDRESS", ""))


def _sent(job: str, client: Any, held: Secrets, name: str, follow: bool) -> int:
    print(f"{job}: sent", flush=True)
    if follow:
        from star_rl.launch.submit import follow as print_log

        return print_log(client, job, held)
    print(f"star-rl status {name} --follow shows its log, star-rl stop {name} ends it")
    return 0


@command(
    "submit",
    "send a recipe to a Ray cluster as a job",
    'submit amazon source.root=/shared/amazon "teacher.options.chat.endpoints=[http://HOST:8000/v1]" '
    "--out /shared/runs --address http://HEAD:8265 --follow",
    "submit amazon .. --env WANDB_API_KEY --env HF_TOKEN",
)
@click.argument("recipe", help="a recipe's file, or a name such as quickstart")
@click.argument("overrides", nargs=-1, metavar="[key=value]...", help="options over the recipe's")
@_address
@click.option("--out", help="folder of runs that every node sees (short for out=)")
@click.option("--env", multiple=True, metavar="NAME", help="send this variable; may repeat")
@click.option("--from", "start", metavar="STAGE", help="run this stage and all after it again")
@click.option("--until", metavar="STAGE", help="stop after this stage")
@_follow
@click.option("--extra", type=click.Choice(["cpu", "gpu"]), help="pins of the nodes (default: the recipe's device)")
@click.option("--python", default="python", help="interpreter on the cluster")
def submit(
    recipe: str,
    overrides: Sequence[str],
    address: str | None,
    out: str | None,
    env: Sequence[str],
    follow: bool,
    **options: Any,  # as of star_rl.launch.submit.submit
) -> int:
    from star_rl.launch.secret import Secrets
    from star_rl.launch.submit import submit as send
    from star_rl.pipeline.recipe import load

    held = Secrets.from_environment(env)
    loaded = load(recipe, [*overrides, *([f"out={out}"] if out else [])])
    client = _client(address)
    return _sent(send(loaded, client, held, **options), client, held, loaded.name, follow)


@command(
    "status",
    "jobs of a cluster, one job with the end of its log, or a run folder's stages",
    "status",
    "status amazon --follow",
    "status runs/quickstart",
)
@click.argument("run", required=False, help="a run's name, a job's id, or a run folder")
@_address
@_follow
def status(run: str | None, address: str | None, follow: bool) -> int:
    if run and Path(run, "recipe.yaml").is_file():
        from star_rl.pipeline.chain import STAGES
        from star_rl.pipeline.runner import stage_lines

        print("\n".join(stage_lines(STAGES, Path(run))))
        return 0
    from star_rl.launch import secret
    from star_rl.launch import submit as cluster

    client = _client(address)
    if follow:
        entry = cluster.find(client, run or "")
        held = secret.Secrets({name: os.environ[name] for name in entry["env"] if name in os.environ})
        return cluster.follow(client, entry["id"], held)
    print("\n".join(cluster.status_lines(client, run)))
    return 0


@command("stop", "stop a job", "stop amazon --address http://HEAD:8265")
@click.argument("run", help="a run's name or a job's id")
@_address
def stop(run: str, address: str | None) -> int:
    from star_rl.launch import submit as cluster

    state = cluster.stop(_client(address), run)
    print(f"{run}: {state.lower()}")
    return 0 if state in cluster.TERMINAL else 1


@command(
    "resume",
    "send a run again: it goes on in its folder, under its W&B run",
    "resume amazon --address http://HEAD:8265 --follow",
)
@click.argument("run", help="a run's name or a job's id")
@_address
@click.option("--env", multiple=True, metavar="NAME", help="variables (default: as before)")
@_follow
def resume(run: str, address: str | None, env: Sequence[str], follow: bool) -> int:
    from star_rl.launch import secret
    from star_rl.launch import submit as cluster

    client = _client(address)
    job = cluster.resume(client, run, env)
    held = secret.Secrets.from_environment(cluster.find(client, job)["env"])
    return _sent(job, client, held, run, follow)
