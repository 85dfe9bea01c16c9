"""Bytes that the checkpoints of a stage take on the shared folder, the one that is being written included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from star_rl.plan.shapes import Shape, lora_rank

#: A trained parameter in a checkpoint: ms-swift with ZeRO writes the 16-bit weights twice and 12 bytes of optimizer,
#: verl's FSDP2 the 32-bit weights and two moments.
_SFT_BYTES = 16
_GRPO_BYTES = 12


def sft_bytes(shape: Shape, config: Mapping[str, Any]) -> int:
    """Return what SFT's checkpoints take. ``config``: composed for ms-swift."""
    rank = lora_rank(config)
    trained = shape.adapter(rank) if rank else shape.parameters
    return _SFT_BYTES * trained * (int(config.get("save_total_limit") or 1) + 1)


def grpo_bytes(shape: Shape, config: Any) -> int:
    """Return what GRPO's checkpoints take. ``config``: composed by verl."""
    trainer, actor = config.trainer, config.actor_rollout_ref.actor
    gpus = int(trainer.nnodes) * int(trainer.n_gpus_per_node)
    group = gpus if actor.strategy == "megatron" else int(actor.fsdp_config.fsdp_size or -1)
    # each replica of a sharding group smaller than the cluster writes a whole checkpoint
    copies = gpus // group if 0 < group < gpus else 1
    options = trainer.v1.sampler.sampler_kwargs
    best = getattr(options, "keep", "last") == "best"
    kept = int((options.max_checkpoints if best else trainer.max_actor_ckpt_to_keep) or 1) + best
    rank = int(config.actor_rollout_ref.model.lora_rank or 0)
    size = _GRPO_BYTES * (shape.adapter(rank) if rank else shape.parameters)
    if rank and not actor.checkpoint.get("save_lora_only"):
        size += 4 * shape.parameters
    return size * copies * (kept + 1)


def checkpoint_bytes(section: Mapping[str, Any], shape: Shape, config: Any) -> int:
    """Return what the larger of the two stages' checkpoints take.

    Args:
        section: a recipe's ``sft``.
        config: GRPO's, composed by verl.
    """
    from star_rl.integrations.swift import recipe as swift
    from star_rl.pipeline.overlays import sft_layers

    sft = swift.compose(sft_layers(section), data=Path("sft.parquet"), out=Path("out"), model="planned")
    return max(sft_bytes(shape, sft), grpo_bytes(shape, config))


def still_to_write(disk: int, run: Path) -> int:
    """Return how many of the bytes that checkpoints take a run's folder does not hold yet."""
    if (run / "grpo" / "manifest.json").exists():
        return 0
    files = (file for stage in ("sft", "grpo") for file in (run / stage).rglob("*") if file.is_file())
    return max(0, disk - sum(file.stat().st_size for file in files))
