"""Memory of SFT: data-parallel ms-swift with DeepSpeed's ZeRO.

Full parameters in mixed precision: 2 bytes of weights, 2 of gradients and 12 of optimizer (32-bit weights, two
moments) a parameter. ZeRO shares out over N GPUs: stage 1 the optimizer, stage 2 the gradients too, stage 3 the
weights too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from star_rl.plan import activations
from star_rl.plan.model import GIB, MemoryPhase, Plan
from star_rl.plan.shapes import Shape

#: CUDA context, NCCL and the allocator's slack.
_OVERHEAD = 3 * GIB
_BUCKET = 200_000_000  # elements that ms-swift's ZeRO configurations reduce at once


def _stage(deepspeed: Any) -> tuple[int, bool]:
    """(ZeRO stage, whether the optimizer lies in host memory) from ms-swift's short name."""
    text = str(deepspeed or "")
    digits = [int(char) for char in text if char.isdigit()]
    return (digits[0] if digits else 0), "offload" in text


def plan_sft(config: Mapping[str, Any], shape: Shape, gpus: int, memory: float) -> Plan:
    """The plan of a composed ms-swift configuration.

    Args:
        config: as :func:`star_rl.integrations.swift.recipe.compose` makes it.
        gpus: processes, all on one node or not.
        memory: bytes of a GPU.
    """
    stage, offload = _stage(config.get("deepspeed"))
    parameters = shape.parameters
    lora = str(config.get("tuner_type") or config.get("train_type") or "full") != "full"
    trained = shape.adapter(int(config.get("lora_rank", 8))) if lora else parameters
    rows, length = int(config.get("per_device_train_batch_size", 1)), int(config.get("max_length") or 2048)
    accumulation = int(config.get("gradient_accumulation_steps", 1))
    tokens = rows * length
    fused = bool(config.get("use_liger_kernel"))
    share = {0: (1, 1, 1), 1: (1, 1, gpus), 2: (1, gpus, gpus), 3: (gpus, gpus, gpus)}[min(stage, 3)]
    weights = 2 * parameters / share[0]
    if offload and stage == 3:
        weights = 0.0
    gathered = 2 * 2 * shape.layer + 2 * shape.embedding if stage == 3 else 0.0
    parts = {
        "weights": weights,
        "gathered weights": gathered,
        "gradients": 2 * trained / share[1] + (2 * min(_BUCKET, trained) * 2 if gpus > 1 else 0),
        "optimizer": 0.0 if offload else 12 * trained / share[2],
        "activations": activations.layers(shape, tokens, bool(config.get("gradient_checkpointing", True))),
        "logits": activations.logits(shape, tokens, activations.TRANSFORMERS_LOGIT, fused),
        "CUDA, NCCL": _OVERHEAD,
    }
    kind = f"LoRA of rank {config.get('lora_rank', 8)}" if lora else "all parameters"
    plan = Plan(
        f"SFT: {shape.name} ({parameters / 1e9:.2f} B parameters), {kind}, {gpus} GPU(s), ZeRO-{stage}"
        + (" with offload" if offload else ""),
        memory,
    )
    remedies = []
    if not fused:
        remedies.append("use_liger_kernel: true (logits in chunks)")
    if rows > 1:
        remedies.append(f"per_device_train_batch_size: {rows // 2}, gradient_accumulation_steps: {accumulation * 2}")
    if not config.get("gradient_checkpointing", True):
        remedies.append("gradient_checkpointing: true")
    if stage < 3:
        remedies.append("deepspeed: zero3")
    elif not offload:
        remedies.append("deepspeed: zero3_offload")
    if not lora:
        remedies.append("tuner_type: lora")
    plan.hold(MemoryPhase("backward", parts), remedies or ["a shorter max_length, or more GPUs"])
    batch = gpus * rows * accumulation
    plan.facts.append(
        f"step: {batch} rows ({gpus} x {rows} x {accumulation}), at most {batch * length:,} tokens; "
        f"a micro-batch is counted at its longest, {rows} x {length:,} tokens"
    )
    if offload:
        host = (12 * trained + (2 * parameters if stage == 3 else 0)) / GIB
        plan.facts.append(f"host memory: {host:.0f} GiB over the nodes for what is offloaded")
    return plan
