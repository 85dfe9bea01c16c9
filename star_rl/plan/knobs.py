"""Which knob saves most time: a plan's time with one of them changed at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from star_rl.integrations.verl.config_checks import sequence_parallel
from star_rl.plan.time import minutes

#: A knob that saves a smaller share is not worth a word.
_WORTH = 0.02


def best_knobs(now: float, changes: Mapping[str, Any], knob: Callable[[Any], tuple[float, bool]]) -> str:
    """The two changes that save most of ``now`` seconds. ``knob``: (seconds, whether it fits) of a configuration."""
    found = {name: knob(config) for name, config in changes.items()}
    saved = {name: now - then for name, (then, fits) in found.items() if fits and now - then > _WORTH * now}
    best = sorted(saved, key=lambda name: -saved[name])[:2]
    if not best:
        return f"no knob saves more than {100 * _WORTH:g} %"
    return "worth most: " + "; ".join(f"{name} saves {minutes(saved[name])}" for name in best)


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
