"""From a recipe's file to its plans: a whole chain, an overlay of ms-swift, or one of verl."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.integrations.verl.config_checks import sequence_parallel
from star_rl.layers import load, recipe_path
from star_rl.layers import overrides as pairs
from star_rl.plan import time
from star_rl.plan.disk import grpo_bytes, sft_bytes
from star_rl.plan.memory import plan_grpo, plan_sft
from star_rl.plan.model import GIB, Plan
from star_rl.plan.shapes import Shape, shape_of
from star_rl.plan.time import Assumed

_WORTH = 0.02  # a knob that saves a smaller share is not named


def plan_recipe(
    name: str | Path,
    overrides: Sequence[str] = (),
    *,
    gpus: int | None = None,
    memory: float | None = None,
    model: str | None = None,
    assumed: Assumed | None = None,
) -> list[Plan]:
    """Plans of the training stages that a recipe has.

    Args:
        name: a chain recipe, or an overlay for SFT or GRPO; see :func:`star_rl.layers.recipe_path`.
        overrides: ``key=value`` over it, with the keys of the file.
        gpus: GPUs in all, None for what the recipe says; nodes of eight at most.
        memory: GiB of one GPU, None for those of the GPU that is assumed.
        model: folder or name, where the recipe names none or another is meant.
        assumed: the GPU, its network and the lengths by which times are estimated.

    Raises:
        StarError: no such recipe, a model of unknown shape, or a recipe that verl refuses.
    """
    from star_rl.pipeline.check import hold_sft_keys

    if gpus is not None and gpus < 1:
        raise StarError(f"--gpus {gpus} is no number of GPUs", "give 1 or more")
    if memory is not None and memory <= 0:
        raise StarError(f"--memory {memory:g} is no size", "give the GiB of one GPU")
    assumed = assumed or Assumed()
    size = (memory or assumed.card.gib) * GIB
    file = recipe_path(name)
    tree = load(file)
    if file.parent.name == "grpo" or "verl" in tree:
        from star_rl.integrations.verl.recipe import load_recipe

        return [_grpo(load_recipe(file, pairs(overrides)), model or "Qwen/Qwen3-8B", gpus, size, assumed)]
    if file.parent.name == "sft" or "per_device_train_batch_size" in tree:
        changed = pairs(overrides)
        hold_sft_keys(changed, file.name)
        return [_sft([file, changed], model, gpus, size, assumed)]
    return _chain(file, overrides, gpus, size, model, assumed)


def _chain(
    path: Path, overrides: Sequence[str], gpus: int | None, size: float, model: str | None, assumed: Assumed
) -> list[Plan]:
    from star_rl.pipeline import recipe as recipes
    from star_rl.pipeline.check import check_recipe
    from star_rl.pipeline.overlays import grpo_recipe, sft_layers

    recipe = recipes.load(path, overrides)
    model = model or recipe.student.path
    if model is None:
        raise StarError(
            f"{path} makes a tiny student of its own, which fits any machine",
            "plan a recipe with student.path, or give --model",
        )
    check_recipe(recipe, planned=True, here=False)
    if isinstance(recipe.grpo_set.total, int):
        assumed = replace(assumed, prompts=recipe.grpo_set.total)
    return [
        _sft(sft_layers(asdict(recipe.sft)), model, gpus, size, assumed),
        _grpo(grpo_recipe(asdict(recipe)), model, gpus, size, assumed, recipe),
    ]


def _sft(layers: list[Any], model: str | None, gpus: int | None, size: float, assumed: Assumed) -> Plan:
    from star_rl.integrations.swift.recipe import compose

    # a model of the cluster's is planned by its name: its folder need not be here
    config = compose(layers, data=Path("sft.parquet"), out=Path("out"), model="planned" if model else None)
    shape, gpus = shape_of(model or config["model"]), gpus or int(config["ENV"].get("NPROC_PER_NODE", 1))
    plan = plan_sft(config, shape, gpus, size)

    def knob(changed: Any) -> tuple[float, bool]:
        return time.sft_seconds(changed, shape, gpus, assumed), not plan_sft(changed, shape, gpus, size).problems

    now = time.sft_seconds(config, shape, gpus, assumed)
    length = min(assumed.row_tokens, int(config.get("max_length") or 2048))
    plan.facts += [
        _disk(sft_bytes(shape, config)),
        f"time (an estimate): {time.minutes(now)}; {best_knobs(now, sft_changes(config), knob)}",
        f"{assumed.text}{assumed.rows:,} rows of {length:,} tokens",
    ]
    return plan


def _grpo(recipe: Any, model: str, gpus: int | None, size: float, assumed: Assumed, chain: Any = None) -> Plan:
    from star_rl.integrations.verl.overrides import overrides_of
    from star_rl.integrations.verl.recipe import Paths, compose, verl_tree

    folder = Path("plan")
    paths = Paths(folder, folder / "model", folder / "train.parquet", folder / "store")
    config = compose(overrides_of(verl_tree(recipe, paths, "plan")))
    nodes, each = int(config.trainer.nnodes), int(config.trainer.n_gpus_per_node)
    if gpus is not None:
        each = min(8, gpus)
        nodes = gpus // each
        if nodes * each != gpus:
            raise StarError(f"--gpus {gpus} are no whole nodes of {each}", "give a multiple of 8, or up to 8")
        config.trainer.nnodes, config.trainer.n_gpus_per_node = nodes, each
    shape = shape_of(model)
    plan = plan_grpo(config, shape, nodes, each, size)
    plan.facts.append(_disk(grpo_bytes(shape, config)))
    if not plan.problems:  # sizes that verl refuses give no time
        plan.facts += _grpo_time(config, shape, nodes, each, size, assumed, chain)
    return plan


def _grpo_time(
    config: Any, shape: Shape, nodes: int, each: int, size: float, assumed: Assumed, chain: Any
) -> list[str]:
    steps = time.grpo_steps(config, assumed)

    def knob(changed: Any) -> tuple[float, bool]:
        fits = not plan_grpo(changed, shape, nodes, each, size).problems
        return steps * time.grpo_step(changed, shape, nodes, each, assumed).total, fits

    step, lines = time.grpo_step(config, shape, nodes, each, assumed), []
    prompt, most = int(config.data.max_prompt_length), int(config.data.max_response_length)
    if chain is not None:
        sample, engine = chain.sample, chain.engine
        gpus = nodes * each
        took = time.sampling_seconds(
            shape, sample.instances, sample.n, prompt, most, engine.options, engine.in_flight, gpus, size, assumed
        )
        lines.append(
            f"time of sampling (an estimate): {time.minutes(took)} for {sample.instances:,} x {sample.n} rollouts"
        )
    now = steps * step.total
    return [
        *lines,
        f"time (an estimate): {time.minutes(now)}, {steps} steps of {step.total:.0f} s (rollout {step.rollout:.0f}, "
        f"old log-probs {step.old_log_prob:.0f}, reference {step.reference:.0f}, update {step.update:.0f}, weight sync "
        f"{step.sync:.0f}); {best_knobs(now, grpo_changes(config, nodes, each), knob)}",
        f"{assumed.text}prompts of {prompt:,} and responses of {min(assumed.response_tokens, most):,} tokens",
    ]


def _disk(size: int) -> str:
    return f"disk: {size / 1e9:,.0f} GB for checkpoints"


def best_knobs(now: float, changes: Mapping[str, Any], knob: Callable[[Any], tuple[float, bool]]) -> str:
    """The two changes that save most of ``now`` seconds. ``knob``: (seconds, whether it fits) of a configuration."""
    found = {name: knob(config) for name, config in changes.items()}
    saved = {name: now - then for name, (then, fits) in found.items() if fits and now - then > _WORTH * now}
    best = sorted(saved, key=lambda name: -saved[name])[:2]
    if not best:
        return f"no knob saves more than {100 * _WORTH:g} %"
    return "worth most: " + "; ".join(f"{name} saves {time.minutes(saved[name])}" for name in best)


def sft_changes(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> configuration with that one knob changed."""
    better = {"attn_impl": "flash_attn", "padding_free": True}
    if all(config.get(key) == value for key, value in better.items()) or config.get("packing"):
        return {}
    return {"attn_impl: flash_attn with padding_free: true": {**config, **better}}


def grpo_changes(config: Any, nodes: int, gpus_per_node: int) -> dict[str, Any]:
    """Name -> configuration with that one knob changed; none for Megatron."""
    actor = config.actor_rollout_ref.actor
    if actor.strategy == "megatron":
        return {}
    longest = int(config.data.max_prompt_length) + int(config.data.max_response_length)
    two = -(-2 * longest // sequence_parallel(config))
    found: dict[str, Any] = {}

    def change(name: str, **keys: Any) -> None:
        found[name] = deepcopy(config)
        for key, value in keys.items():
            target = found[name].actor_rollout_ref.actor
            (target if key.startswith("ppo_") else target.fsdp_config)[key] = value

    if nodes > 1 and actor.fsdp_config.fsdp_size != gpus_per_node:
        change(f"fsdp_size: {gpus_per_node}", fsdp_size=gpus_per_node)
    if actor.use_dynamic_bsz and int(actor.ppo_max_token_len_per_gpu) < two:
        change(f"ppo_max_token_len_per_gpu: {two}", ppo_max_token_len_per_gpu=two)
    if sequence_parallel(config) == 1 and nodes * gpus_per_node > 1:
        change("ulysses_sequence_parallel_size: 2", ulysses_sequence_parallel_size=2)
    if actor.fsdp_config.optimizer_offload:
        change("optimizer_offload: false", optimizer_offload=False)
    return found
