"""What ``star-rl evidence`` does: build, verify, inspect. Each function returns the lines that are printed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from star_rl.errors import StarError
from star_rl.evidence.build import build_store, price
from star_rl.evidence.leak import contains_of, visible_fingerprint
from star_rl.evidence.llm import LanguageModel
from star_rl.evidence.model import ITEM_CF, USER_CF, Catalogue
from star_rl.evidence.store import EvidenceStore
from star_rl.evidence.template import Size, Template, clean
from star_rl.files import write_json
from star_rl.prompts.flavours import flavour_of
from star_rl.records import ItemTable, read_interactions, read_table, tasks_from
from star_rl.scenarios import Histories

if TYPE_CHECKING:
    from star_rl.chat import ChatOptions


def verify(path: str | Path) -> str:
    """Read every byte of a store and compare it with its checksums.

    Raises:
        StarError: the store is damaged, unsealed or absent.
    """
    with EvidenceStore.inspect(path) as store:
        report = store.verify()
        lines = [
            f"{path}: sound. {report['entries']:,} entries, {report['bytes']:,} bytes in {report['shards']} shard(s)",
            f"scenario {store.scenario}, data {store.fingerprint}, {json.dumps(store.manifest['about'])}",
        ]
        if report["absent"]:
            lines.append(f"not on this machine, so not checked: {', '.join(report['absent'])}")
        if "targets" in store.manifest:
            lines.append(f"built without the targets of {store.manifest['targets']['tasks']:,} tasks")
    return "\n".join(lines)


def inspect(path: str | Path, tool: str, key: str, most: int = 20) -> str:
    """Print all that a store holds of one id.

    Raises:
        StarError: the store does not hold it, or cannot be opened.
    """
    with EvidenceStore.inspect(path) as store:
        entry = store.entry(tool, key)
        if entry is None:
            held = ", ".join(f"{name} {count:,}" for name, count in store.manifest["tools"].items())
            raise StarError(f"{path} holds nothing of {tool} {clean(key, 80)!r}", f"it holds {held or 'no entries'}")
    lines = [f"{tool} {clean(key, 80)}", "", entry["text"], "", f"{len(entry['neighbours'])} neighbours:"]
    for row in entry["neighbours"][:most]:
        lines.append("  " + "  ".join([clean(str(row[0]), 80), f"{row[1]:.4f}", *map(str, row[2:])]))
    if len(entry["neighbours"]) > most:
        lines.append(f"  .. and {len(entry['neighbours']) - most} more")
    return "\n".join([*lines, "", json.dumps(entry["structured"], ensure_ascii=False, indent=1)])


def build(
    path: str | Path,
    *,
    tables: str | Path,
    visible: str | Path,
    scenario: str,
    item_neighbours: str | Path | None = None,
    user_neighbours: str | Path | None = None,
    tasks: str | Path | None = None,
    source: str = "generic",
    size: Size = "full",
    budget: int | None = None,
    chat: ChatOptions | None = None,
    dry_run: bool = False,
    shards: int = 1,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Put neighbours into words and seal the store; with ``dry_run`` estimate the cost instead.

    Args:
        path: the store's folder.
        tables: folder (or file) of ``items``.
        visible: folder or file of the ``interactions`` behind the neighbours.
        item_neighbours, user_neighbours: Parquet files (key, neighbours, weights, support).
        tasks: tasks whose targets must not be visible; checked, and recorded in the manifest.
        source: what items are called in the model's prompt.
        size, budget: of a text (:class:`Template`).
        chat: the model; None: the template. Its replies are kept in its cache (by default ``<path>.replies.db``), the
            account of the last run in ``<path>.account.json``.
        scenario, shards, workers, progress: see :func:`star_rl.evidence.build.build_store`.
    """
    sources = {tool: file for tool, file in ((ITEM_CF, item_neighbours), (USER_CF, user_neighbours)) if file}
    if not sources:
        raise StarError("no neighbours are named", "name those of items, of users or both")
    interactions = read_interactions(visible)
    template = Template(Catalogue(ItemTable(read_table(tables, "items"))), size, budget)
    past = Histories(interactions)
    asked = list(tasks_from(read_table(tasks, "tasks"))) if tasks is not None else []
    options: dict[str, Any] = {
        "scenario": scenario,
        "fingerprint": visible_fingerprint(visible),
        "histories": lambda user: [event[0] for event in past.of_user(user)],
        "tasks": asked,
        "contains": contains_of(interactions, asked) if asked else None,
        "shards": shards,
        "workers": workers,
        "progress": progress,
    }
    if chat is None:
        if dry_run:
            raise StarError("the template costs nothing, so there is nothing to price", "name a chat endpoint")
        return _sealed(path, build_store(path, sources, template, **options))
    cache = chat.cache or f"{path}.replies.db"
    chat = replace(chat, cache="" if dry_run and not Path(cache).exists() else cache)  # an estimate writes nothing
    model = _model(chat, template, source, dry_run)
    if dry_run:
        found = price(sources, model, options["histories"])
        return (
            f"{found['keys']:,} keys: about {found['prompt_tokens']:,} tokens of prompts and "
            f"{found['completion_tokens']:,} of answers, cost {found['cost']:,} at the prices given "
            f"({found['sampled']:,} keys sampled; {found['paid_already']:.0%} paid already)"
        )
    try:
        manifest = build_store(path, sources, model, **options)
    finally:
        write_json(f"{path}.account.json", model.figures())
    return _sealed(path, manifest)


def _model(chat: ChatOptions, template: Template, source: str, dry_run: bool) -> LanguageModel:
    """Return the verbaliser with a client of its own; a first client asks which model is served."""
    from star_rl.chat import ChatClient

    async def named() -> str:
        async with ChatClient(chat) as client:
            await client.ready()
            return client.model

    if not dry_run:
        chat = replace(chat, model=asyncio.run(named()))
    return LanguageModel(ChatClient(chat), template, flavour_of(source))


def _sealed(path: str | Path, manifest: dict[str, Any]) -> str:
    by_tool = ", ".join(f"{tool} {count:,}" for tool, count in manifest["tools"].items())
    outcomes = ", ".join(f"{name} {count:,}" for name, count in manifest["outcomes"].items())
    return f"sealed: {path} ({manifest['entries']:,} entries: {by_tool}; by {outcomes})"
