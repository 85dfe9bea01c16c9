"""Stage ``teach``: run the recipe's teacher over the training tasks."""

from __future__ import annotations

import asyncio
from typing import Any

from star_rl.estimate import estimate_stage
from star_rl.mars import Account, identity_of, teach
from star_rl.pipeline.stage import Context
from star_rl.prompts.agents import prompts_version
from star_rl.run import Run
from star_rl.scenarios.balance import balanced, shortfall, shortfall_words
from star_rl.teacher import open_teacher


def build(context: Context) -> dict[str, Any]:
    """Run the teacher over the training tasks; ``runs.jsonl`` holds one record a run."""
    world = Run(context.run, context.config)
    options = context.config["teacher"]
    tasks = balanced(world.tasks("train"), options["tasks"])
    missing = shortfall(tasks, world.tasks("test")) if options["tasks"] else {}
    context.progress(0, None, "holding every task's prompt to its budget")
    world.check_prompts()

    told = world.summaries.fingerprint if world.summaries else ""
    if options["backend"] == "llm":
        made = estimate_stage(world)
        if made.runs:
            context.say("before teach:\n" + made.text())

    async def work() -> Account:
        async with open_teacher(world, context.config, context.seed, context.folder / "cache.sqlite") as teacher:
            return await teach(
                tasks,
                teacher.team,
                world.case,
                context.folder,
                identity_of(teacher.team, prompts_version(), teacher.model, world.store.fingerprint, told),
                passes=options["passes"],
                concurrency=teacher.in_flight,
                progress=context.progress,
                spent=lambda: teacher.cost,
            )

    account = asyncio.run(work())
    account.check()
    hit = account.hits / max(1, account.ranked)
    lost = account.failed.get("endpoint", 0)
    again = " (the endpoint's are asked for again by the same command)" if lost else ""
    reason = f"; the commonest reason: {account.commonest}" if account.commonest else ""
    return {
        "incomplete": bool(lost),
        "summary": f"{account.done:,} runs, hit@1 {hit:.1%}, {account.corrected:,} sent back, "
        f"{account.tool_calls:,} tool calls, {account.failed.total()} failed{again}{reason}{shortfall_words(missing)}",
        "missing": missing,
        **account.figures(),
    }
