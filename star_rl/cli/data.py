"""Tables of a source, and the evidence store made from them: ``tables`` and ``evidence``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from star_rl.cli.base import LazyGroup, Several, command


@command(
    "tables",
    "write the tables of a source",
    "tables movielens --root DIR --out tables",
    "tables synthetic --out tables --set users=500 items=200",
)
@click.argument("source", help="agentrecbench, columns, movielens, sequences or synthetic")
@click.option("--root", help="folder (or file) of the raw data")
@click.option("--out", required=True, help="folder of the tables")
@click.option("--set", "pairs", cls=Several, metavar="key=value...", help="options of the source")
def tables(source: str, root: str | None, out: str, pairs: Sequence[str]) -> None:
    from star_rl.layers import overrides
    from star_rl.progress import progress_line
    from star_rl.sources import write_tables

    with progress_line(source) as line:
        manifest = write_tables(source, root, out, overrides(pairs), line)
    for name, count in manifest["kept"].items():
        reasons = manifest["dropped"].get(name, {}).items()
        dropped = ", ".join(f"{reason} {number:,}" for reason, number in reasons if number)
        print(f"{name:<13} {count:>12,} kept" + (f", dropped: {dropped}" if dropped else ""))
    for what, number in manifest.get("repaired", {}).items():
        print(f"{'':<13} {number:>12,} {what}")
    for doubt in manifest.get("doubts", []):
        print(f"note: {doubt}")
    print(f"fingerprint   {manifest['fingerprint']}")


_KINDS = dict.fromkeys(("verify", "inspect", "build"), __name__)
evidence = LazyGroup("evidence", _KINDS, help="build, verify or look into an evidence store")


@command(
    "verify",
    "read every byte and hold it to its checksums",
    "evidence verify runs/quickstart/evidence/store",
)
@click.argument("store")
def verify(store: str) -> None:
    from star_rl.evidence import commands

    print(commands.verify(store))


@command(
    "inspect",
    "all that a store holds of one id",
    "evidence inspect runs/quickstart/evidence/store ItemCF 17",
)
@click.argument("store")
@click.argument("tool", type=click.Choice(["ItemCF", "UserCF"]))
@click.argument("key", help="an item's or user's id")
@click.option("--most", default=20, help="neighbours shown")
def inspect(store: str, tool: str, key: str, most: int) -> None:
    from star_rl.evidence import commands

    print(commands.inspect(store, tool, key, most))


@command(
    "build",
    "neighbours into a sealed store",
    "evidence build store --tables tables --visible tasks/visible.parquet --scenario classic --items items.parquet",
    "evidence build store .. --endpoint http://localhost:8000/v1 --dry-run",
)
@click.argument("store", help="folder to make")
@click.option("--tables", required=True, help="folder with items.parquet")
@click.option("--visible", required=True, help="interactions that the neighbours were made of")
@click.option("--scenario", required=True, help="the scenario these are of")
@click.option("--items", "item_neighbours", help="Parquet file of items' neighbours")
@click.option("--users", "user_neighbours", help="Parquet file of users' neighbours")
@click.option("--tasks", help="tasks whose targets must not be visible")
@click.option("--source", default="generic", help="what items are called in a model's prompt")
@click.option("--size", type=click.Choice(["full", "short"]), default="full")
@click.option("--budget", type=int, help="tokens of a text at most")
@click.option("--endpoint", multiple=True, metavar="URL", help="a model that words the texts")
@click.option("--model", default="", help="served model (default: the only one there is)")
@click.option("--key", default="STAR_RL_API_KEY", metavar="VARIABLE", help="variable with the key")
@click.option("--cache", default="", help="file of replies")
@click.option("--prices", type=float, nargs=2, default=(0.0, 0.0), metavar="IN OUT", help="per million")
@click.option("--dry-run", is_flag=True, help="say what it would cost, and stop")
@click.option("--shards", default=1)
@click.option("--workers", default=1)
def build(
    store: str, endpoint: tuple[str, ...], model: str, key: str, cache: str, prices: tuple[float, float], **options: Any
) -> None:
    from star_rl.chat import ChatOptions
    from star_rl.evidence import commands
    from star_rl.progress import progress_line

    chat = None
    if endpoint:
        paid, written = prices
        chat = ChatOptions(endpoint, model, cache=cache, key_variable=key, price_prompt=paid, price_completion=written)
    with progress_line("evidence") as line:
        said = commands.build(store, chat=chat, progress=lambda done, total: line(done, total, "keys"), **options)
    print(said)
