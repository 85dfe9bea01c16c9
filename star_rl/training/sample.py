"""Stage ``sample``: responses of the SFT checkpoint to training tasks, from which difficulty is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from star_rl.evaluation.metrics import is_valid
from star_rl.files import read_jsonl
from star_rl.memory.follow_up import follow_up_of, messages_of, reflections
from star_rl.pipeline.stage import Context
from star_rl.records import Task
from star_rl.run import DATA, Run, VisibleRun
from star_rl.scenarios.balance import balanced, shortfall, shortfall_words, task_type
from star_rl.trajectory import parse, ranking

#: With fewer valid lists than this share, GRPO trains on repeats more than on ranks.
VALID = 0.9


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
    found = rates(context.folder / "rollouts.jsonl", tasks, world.prompt.top)
    if found["valid"] < VALID and world.prompt.scope != "plan":
        context.say(
            f"only {found['valid']:.0%} of the lists are valid: the others repeat candidates or name strangers. GRPO "
            "learns little from them - train SFT longer: sft.overrides.max_steps, or num_train_epochs"
        )
    summary = f"{len(tasks):,} tasks x {options['n']} responses: {words(found)}{shortfall_words(missing)}"
    types = Counter(map(task_type, tasks))
    return {"summary": summary, "tasks": len(tasks), "types": types, "missing": missing, **found}


def rates(path: Path, tasks: Sequence[Task], top: int) -> dict[str, float]:
    """Return how many rollouts a file holds, and their hit rates and share of valid lists.

    Args:
        top: ids that a list should have; 0 for all candidates.
    """
    by_id = {task.task_id: task for task in tasks}
    counts: Counter[str] = Counter()
    for row in read_jsonl(path):
        task, ranked = by_id[row["task_id"]], ranking(parse(row["model_text"])) or []
        counts["rollouts"] += 1
        counts["valid"] += is_valid(ranked, task.candidates, top or None)
        for cut in (1, 3, 5):
            counts[f"hr{cut}"] += task.ground_truth in ranked[:cut]
    total = max(1, counts["rollouts"])
    return {"rollouts": total, **{name: counts[name] / total for name in ("hr1", "hr3", "hr5", "valid")}}


def words(found: Mapping[str, float]) -> str:
    """Return the rates of :func:`rates` as text."""
    return ", ".join(
        f"{title} {100 * found[name]:.1f} %"
        for name, title in (("hr1", "HR@1"), ("hr3", "HR@3"), ("hr5", "HR@5"), ("valid", "valid lists"))
    )
