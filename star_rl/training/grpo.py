"""Stage ``grpo``: verl trains the student by reward, with tool calls during the rollout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from star_rl.pipeline.overlays import grpo_recipe, with_code_in
from star_rl.pipeline.stage import Context
from star_rl.run import Run


def grpo_stage(context: Context) -> dict[str, Any]:
    """GRPO by ``verl.trainer.main_ppo``; ``final/`` is the trained student."""
    from star_rl.integrations.verl.grpo import TrainingStep, export, read_metrics, run_grpo
    from star_rl.integrations.verl.recipe import Paths

    world = Run(context.run, context.config)
    recipe = with_code_in(context.folder, grpo_recipe(context.config, context.seed))
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
        data=context.run,
    )

    def on_step(step: TrainingStep) -> None:
        reward_mean = step.metrics.get("critic/score/mean", float("nan"))
        context.progress(step.step, step.steps, f"reward {reward_mean:+.3f}")

    context.progress(0, None, "starting Ray, vLLM and the trainer")
    result = run_grpo(recipe, paths, f"{context.run.name}-grpo", on_step, context.say)
    export(result, context.folder / "final", paths.model)
    if not context.config["grpo"]["keep_checkpoints"]:
        thin_grpo(paths.checkpoints)
    steps = read_metrics(paths)
    scores = [step["critic/score/mean"] for step in steps if "critic/score/mean" in step]
    first, last = _mean(scores[:5]), _mean(scores[-5:])
    ended = f" (ended: {result.ended})" if result.ended else ""
    best = f"; kept the best checkpoint, {result.best.text}" if result.best else ""
    rewards = f"mean reward {first:+.3f} (first five) -> {last:+.3f} (last five)"
    return {
        "summary": f"{result.steps} steps{ended}, {rewards}{best}",
        "steps": result.steps,
        "first5": first,
        "last5": last,
        "startup_seconds": result.startup_seconds,
        "resumed_from": result.resumed_from,
        "reward": context.config["grpo"]["reward"],
        "best": result.best._asdict() if result.best else None,
    }


def thin_grpo(checkpoints: Path) -> None:
    """Drop the optimizer's and the trainer's shards, once ``final/`` stands; each checkpoint's weights stay."""
    for pattern in ("optim_*.pt", "extra_state_*.pt"):
        for path in checkpoints.glob(f"global_step_*/*/{pattern}"):
            path.unlink()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
