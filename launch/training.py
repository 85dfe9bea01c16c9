"""Stages ``sft``, ``sample``, ``grpo_set`` and ``grpo``: the student learns, is measured, and learns by reward."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from data_builders import grpo as grpo_set
from data_builders import rating
from launch.overlays import grpo_recipe, sft_layers, with_reward_in
from launch.teaching import student_path
from launch.world import LACKING, World
from star_rl.records import Task
from star_rl.stage import Context
from star_rl.trajectory import CRITICAL

#: What an ablated student cannot write, so that its reward does not ask for it.
_PHASE = {"planner": "plan", "reflector": "reflection"}


def required_phases(setting: str) -> tuple[str, ...]:
    """The critical phases that a student of this SFT setting writes."""
    lacks = _PHASE.get(LACKING.get(setting, ""))
    return tuple(phase for phase in CRITICAL if phase != lacks)


def sft_stage(context: Context) -> dict[str, Any]:
    """``swift sft`` on the SFT set; ``final/`` is a checkpoint that vLLM and verl load."""
    from star_rl.integrations.swift.sft import run_sft

    options = context.config["sft"]
    result = run_sft(
        sft_layers(options),
        data=context.inputs["sft_set"] / "sft.parquet",
        out=context.folder,
        model=student_path(context),
        progress=lambda step, total, loss: context.progress(step, total, "" if loss is None else f"loss {loss:.3f}"),
    )
    if not options["keep_checkpoints"]:
        thin_sft(context.folder / "swift")
    return {
        "summary": f"{result.steps:,} steps on {result.rows:,} rows, loss {result.loss or float('nan'):.3f}"
        + (f", {result.dropped_long} over-long rows left out" if result.dropped_long else ""),
        "steps": result.steps,
        "loss": result.loss,
        "rows": result.rows,
        "dropped_long": result.dropped_long,
        "tokens_per_row": result.tokens_per_row,
        "resumed_from": result.resumed_from,
    }


def thin_sft(work: Path) -> None:
    """Drop what only a resume reads, once ``final/`` stands: older checkpoints, and the newest one's optimizer.

    Its weights stay, so that the stage, killed before its manifest, finds training finished and exports again.
    """
    from star_rl.integrations.swift.sft import newest_checkpoint

    newest, _ = newest_checkpoint(work)
    for checkpoint in work.glob("checkpoint-*"):
        if checkpoint != newest:
            shutil.rmtree(checkpoint)
            continue
        for path in checkpoint.iterdir():
            if path.is_dir():  # DeepSpeed's global_step*
                shutil.rmtree(path)
            elif path.suffix in {".pt", ".pth"}:  # optimizer, scheduler, random states
                path.unlink()


def thin_grpo(checkpoints: Path) -> None:
    """Drop the optimizer's and the trainer's shards, once ``final/`` stands; each checkpoint's weights stay."""
    for pattern in ("optim_*.pt", "extra_state_*.pt"):
        for path in checkpoints.glob(f"global_step_*/*/{pattern}"):
            path.unlink()


def rollouts(
    context: Context,
    world: World,
    model: str | Path,
    tasks: list[Task],
    out: Path,
    *,
    samples: int,
    temperature: float,
    top_p: float,
    label: str = "",
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
        budget=Budget(**loop["budget"]),
    )
    return sample(
        model,
        [PolicyTask(task.task_id, world.messages(task), task.candidates) for task in tasks],
        world.store,
        out,
        options,
        EngineOptions(**{"seed": context.seed, **engine["options"]}),
        lambda now: context.progress(
            now.done, now.total, f"{label}{now.model_tokens / max(1e-9, now.seconds):,.0f} tokens/s"
        ),
    )


def sample_stage(context: Context) -> dict[str, Any]:
    """``n`` responses to each of ``instances`` training tasks from the SFT checkpoint (paper, section 3.5)."""
    world = World(context.run, context.config)
    options = context.config["sample"]
    tasks = world.tasks("train")
    random.Random(context.seed).shuffle(tasks)
    tasks = sorted(tasks[: options["instances"]], key=lambda task: task.task_id)
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
    return {"summary": f"{len(tasks):,} tasks x {options['n']} responses", "tasks": len(tasks)}


def grpo_set_stage(context: Context) -> dict[str, Any]:
    """Rate the sampled tasks by successes and compose the set 3:4:3; validation rows beside it."""
    world = World(context.run, context.config)
    options = grpo_set.Options(
        total=context.config["grpo_set"]["total"],
        samples=context.config["sample"]["n"],
        seed=context.seed,
        required=required_phases(context.config["sft_set"]["setting"]),
        top=context.config["prompt"]["top"],
    )
    by_id = {task.task_id: task for task in world.tasks("train")}
    records = list(rating.read_records(context.inputs["sample"] / "rollouts.jsonl"))
    tasks = [by_id[name] for name in dict.fromkeys(record["task_id"] for record in records)]
    made = grpo_set.build(records, tasks, world.messages, options)
    grpo_set.write(context.folder, made)
    valid = grpo_set.rows_for(
        world.tasks("valid")[: context.config["grpo_set"]["validation"]], world.messages, "valid", options
    )
    if valid:
        grpo_set.write(context.folder, grpo_set.GrpoSet(valid, {"total": len(valid)}), "valid")
    taken = ", ".join(f"{name} {count}" for name, count in made.audit["taken"].items())
    short = sum(made.audit["shortfall"].values())
    return {
        "summary": f"{made.audit['total']} instances ({taken}) of {made.audit['rated']:,} rated"
        + (f", {short} short" if short else ""),
        **made.audit,
    }


def grpo_stage(context: Context) -> dict[str, Any]:
    """GRPO by ``verl.trainer.main_ppo``; ``final/`` is the trained student."""
    from star_rl.integrations.verl.grpo import Step, export, read_metrics, run_grpo
    from star_rl.integrations.verl.recipe import Paths

    world = World(context.run, context.config)
    recipe = with_reward_in(context.folder, grpo_recipe(context.config))
    data = context.inputs["grpo_set"]
    valid = data / "valid.parquet"
    paths = Paths(
        run=context.folder,
        model=context.inputs["sft"] / "final",
        train=data / "train.parquet",
        store=world.store.path,
        scenario=world.store.scenario,
        fingerprint=world.store.fingerprint,
        val=valid if valid.exists() else None,
    )

    def on_step(step: Step) -> None:
        reward_mean = step.metrics.get("critic/score/mean", float("nan"))
        context.progress(step.step, step.steps, f"reward {reward_mean:+.3f}")

    context.progress(0, None, "starting Ray, vLLM and the trainer")
    result = run_grpo(recipe, paths, f"{context.run.name}-grpo", on_step)
    export(result, context.folder / "final", paths.model)
    if not context.config["grpo"]["keep_checkpoints"]:
        thin_grpo(paths.checkpoints)
    steps = read_metrics(paths)
    scores = [step["critic/score/mean"] for step in steps if "critic/score/mean" in step]
    first, last = _mean(scores[:5]), _mean(scores[-5:])
    return {
        "summary": f"{result.steps} steps, mean reward {first:+.3f} (first five) -> {last:+.3f} (last five)",
        "steps": result.steps,
        "first5": first,
        "last5": last,
        "startup_seconds": result.startup_seconds,
        "resumed_from": result.resumed_from,
        "reward": context.config["grpo"]["reward"],
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
