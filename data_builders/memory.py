"""Stage ``memory``: play the last interactions of every user with a task, and keep the notes after each."""

from __future__ import annotations

import asyncio
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from star_rl.errors import StarError
from star_rl.evidence.manifest import building_folder
from star_rl.evidence.writer import EvidenceWriter
from star_rl.files import write_json
from star_rl.mars.agents import AgentFailure
from star_rl.memory.play import counts_of, draw, play
from star_rl.memory.store import put
from star_rl.pipeline.stage import Context
from star_rl.prompts.agents import prompts_version
from star_rl.records import Task
from star_rl.run import Run
from star_rl.summaries.store import store_of
from star_rl.teacher import open_teacher

#: The stage stops after this many users in a row that the endpoint failed.
_OUTAGE = 24


def decides(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the stage's output; next to nothing for a recipe without memories."""
    if not config["memory"]["interactions"]:
        return {"memory": None}
    teacher = {name: config["teacher"][name] for name in ("backend", "options")}
    return {**config, "sft_set": config["sft_set"]["setting"], "teacher": teacher}


def build(context: Context) -> dict[str, Any]:
    """Write ``store/``: the memory after each play, see :mod:`star_rl.memory`."""
    interactions = context.config["memory"]["interactions"]
    write_json(context.folder / "options.json", context.config["memory"])
    if not interactions:
        return {"summary": "none"}
    world, place = Run(context.run, context.config), store_of(context.folder)
    if world.prompt.scope != "rank":
        raise StarError(
            f"memory.interactions={interactions} with sft_set.setting={context.config['sft_set']['setting']}",
            "a memory is shown in the prompt of sft_set.setting=fast alone; set that, or memory.interactions=0",
        )
    for old in (place, building_folder(place)):  # what was paid for is in the client's cache
        shutil.rmtree(old, ignore_errors=True)
    lengths: dict[str, list[int]] = defaultdict(list)
    longest: dict[str, tuple[int, Task]] = {}
    for task in world.known_tasks:
        length = len(world.history(task))
        lengths[task.user_id].append(length)
        longest[task.user_id] = max(longest.get(task.user_id, (0, task)), (length, task), key=lambda pair: pair[0])
    done, plays, failed, in_a_row = 0, 0, 0, 0

    async def work(backend: Any, queue: Iterator[tuple[int, Task]], writer: EvidenceWriter) -> None:
        nonlocal done, plays, failed, in_a_row
        for _, task in queue:
            history = world.history(task)
            drawn = draw(world, task.user_id, history, counts_of(lengths[task.user_id], interactions), context.seed)
            try:
                async for count, memory in play(backend, world, task, history, drawn):
                    put(writer, task.user_id, history[:count], memory)
                    plays += 1
                in_a_row = 0
            except AgentFailure as error:
                failed, in_a_row = failed + 1, in_a_row + 1
                if in_a_row >= _OUTAGE:
                    raise StarError(
                        f"the endpoint failed the memories of {in_a_row} users one after the other ({error})",
                        "fix it and run the same command again: nothing paid is lost",
                    ) from None
            done += 1
            context.progress(done, len(longest), f"{plays:,} plays")

    async def run() -> str:
        about = {"interactions": interactions, "prompts": prompts_version()}
        cache = context.folder / "cache.sqlite"
        async with open_teacher(world, context.config, context.seed, cache) as teacher:
            with EvidenceWriter(place, *world.origin, {**about, "model": teacher.model}) as writer:
                queue = iter(longest.values())
                try:
                    async with asyncio.TaskGroup() as group:
                        for _ in range(teacher.in_flight):
                            group.create_task(work(teacher.team.backend, queue, writer))
                except BaseExceptionGroup as errors:
                    raise errors.exceptions[0] from None
                writer.seal()
            return teacher.model

    model = asyncio.run(run())
    lost = f", {failed:,} users failed" if failed else ""
    return {
        "incomplete": bool(failed),
        "summary": f"{plays:,} plays of {len(longest):,} users by {model}{lost}",
        "plays": plays,
        "users": len(longest),
        "failed": failed,
        "model": model,
    }
