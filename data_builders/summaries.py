"""Stage ``summaries``: the older part of every task's history in words, by a served model or by rules."""

from __future__ import annotations

import asyncio
from typing import Any

from star_rl.chat import ChatClient
from star_rl.files import write_json
from star_rl.pipeline.stage import Context
from star_rl.prompts import Case
from star_rl.records import Task
from star_rl.run import Run
from star_rl.summaries.build import build_summaries, estimate_job, longest
from star_rl.teacher import chat_options, summaries_of


def build(context: Context) -> dict[str, Any]:
    """Write ``store/``: the summaries of all users with tasks whose history is longer than a chunk."""
    options = summaries_of(context.config)
    by = options["by"]
    write_json(context.folder / "options.json", {name: options[name] for name in options if name != "chat"})
    if by == "none":
        return {"summary": "none", "by": by}
    world = Run(context.run, context.config)

    def case_of(task: Task) -> Case:
        history = world.history(task)
        return Case.of(task, history, world.items, None, world.texts(task.user_id, history))

    async def work() -> dict[str, Any]:
        chat = None
        if by == "llm":
            chat = ChatClient(chat_options("summaries.chat", options["chat"], context.folder / "cache.sqlite"))
        try:
            tasks = longest(world.known_tasks, lambda task: len(world.history(task)), options["chunk"])
            sizes = {name: options[name] for name in ("chunk", "words")}
            if chat is not None:
                prices = chat.options.price_prompt, chat.options.price_completion
                context.say(f"before summaries: {estimate_job(tasks, case_of, **sizes, prices=prices)}")
            return await build_summaries(
                context.folder, tasks, case_of, origin=world.origin, **sizes, chat=chat, progress=context.progress
            )
        finally:
            if chat is not None:
                await chat.close()

    figures = asyncio.run(work())
    failed = sum(figures["failed"].values())
    lost = f", {failed:,} users failed" if failed else ""
    return {
        "summary": f"{figures['summaries']:,} summaries of {figures['users']:,} users by {by}{lost}",
        "by": by,
        **figures,
    }
