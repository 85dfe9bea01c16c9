"""Stage ``sample``: responses of the SFT checkpoint to training tasks, from which difficulty is measured."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from star_rl.memory.follow_up import follow_up_of, messages_of, reflections
from star_rl.pipeline.stage import Context
from star_rl.records import Task
from star_rl.run import DATA, Run, VisibleRun
from star_rl.scenarios.balance import balanced, shortfall, shortfall_words, task_type


def rollouts(
    context: Context,
    world: Run,
    model: str | Path,
    tasks: list[Task],
    out: Path,
    *,
    samples: int,
    temperature: float,
    top_p: float,
) -> Path:
    """Sample a checkpoint over tasks with the policy loop; one line a rollout in ``out``."""
    from star_rl.policy.engines import EngineOptions
    from star_rl.policy.loop import Budget
    from star_rl.policy.sampler import PolicyTask, SamplingOptions, sample

    tools, loop, engine = context.config["tools"], context.config["loop"], context.config["engine"]
    options = SamplingOptions(
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        in_flight=engine["in_flight"],
        lens=tools["lens"],
        lens_top=tools["lens_top"],
        show_tools=world.tools is not None,
        own=tuple(tools.get("own") or ()),
        environment=loop.get("environment") or "",
        budget=Budget(**loop["budget"]),
    )
    return sample(
        model,
        [
            PolicyTask(
                task.task_id,
                messages_of(world, task),
                task.candidates,
                world.case(task).slots,
                task.user_id,
                follow_up_of(world, task),
            )
            for task in tasks
        ],
        world.store,
        out,
        options,
        EngineOptions(**{"seed": context.seed, **engine["options"]}),
        context.progress,
        VisibleRun(world, DATA),
    )


def sample_stage(context: Context) -> dict[str, Any]:
    """``n`` responses to each of ``instances`` training tasks from the SFT checkpoint (paper, section 3.5)."""
    world = Run(context.run, context.config)
    options = context.config["sample"]
    tasks = balanced(world.tasks("train"), options["instances"], context.seed)
    missing = shortfall(tasks, world.tasks("test"))
    tasks += reflections(world, tasks[: round(options["reflections"] * len(tasks))])
    rollouts(
        context,
        world,
        context.inputs["sft"] / "final",
        tasks,
        context.folder / "rollouts.jsonl",
        samples=options["n"],
        temperature=options["temperature"],
        top_p=options["top_p"],
    )
    summary = f"{len(tasks):,} tasks x {options['n']} responses{shortfall_words(missing)}"
    return {"summary": summary, "tasks": len(tasks), "types": Counter(map(task_type, tasks)), "missing": missing}
