"""Minutes of SFT, sampling and GRPO, estimated from FLOPs and bytes.

FLOPs: a matrix product costs 2 a parameter and token forward and twice that backward; under gradient checkpointing
layers run forward once more (but for the last product), the output projection does not. Attention costs
``4 * query width * length`` a token and layer forward, half of it where a flash kernel skips what lies ahead. Bytes:
decoding reads the weights once a step and the KV cache of each sequence; FSDP gathers 16-bit weights before each
forward and backward pass of a micro-batch and reduces 32-bit gradients after it, within a node over NVLink, else over
the network; each rank gathers the whole model in 32 bits for the weight sync.

None of it was measured on a GPU. What is assumed stands in :class:`Assumed` and in the constants below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from star_rl.integrations.verl.config_checks import ranks, sequence_parallel
from star_rl.options import Positive, Size, options
from star_rl.plan.model import GIB
from star_rl.plan.shapes import Shape, lora_rank

#: Shares of the peak that are reached: matrix products of training; flash-attention; sdpa with a mask; the memory's
#: bandwidth while decoding; a link's.
_MATMUL, _FLASH, _MASKED, _MEMORY, _LINK = 0.55, 0.65, 0.34, 0.76, 0.7
#: Rows of a padded micro-batch are this much longer than they would be alone.
_PADDING = 1.1
#: Spread of lengths (deviation / mean): ranks wait for the one with the longest sequences.
_SPREAD = 0.21
#: The longest response of a step / the mean one.
_TAIL = 1.5
#: Bytes a second at which verl hands 32-bit weights to vLLM, and at which a GPU's optimizer leaves and returns.
_HANDOVER, _OFFLOAD = 6e9, 4e9
#: What the all-to-all of shared sequences leaves of the speed.
_ULYSSES = 0.95


@dataclass(frozen=True, slots=True)
class Gpu:
    """Peak of dense bf16 (FLOP/s), of memory (B/s) and of NVLink one way (B/s); GiB that the driver leaves."""

    flops: float
    memory: float
    nvlink: float
    gib: float


GPUS = {
    "H20": Gpu(148e12, 4.0e12, 450e9, 95.0),
    "H100": Gpu(989e12, 3.35e12, 450e9, 79.0),
    "A100": Gpu(312e12, 2.0e12, 300e9, 79.0),
}


@options
class Assumed:
    """What no recipe says.

    Attributes:
        gpu: a name of :data:`GPUS`.
        network: GB/s that a node sends to others.
        rows: rows of SFT's set; ``row_tokens``: their mean length, at most the recipe's longest.
        response_tokens: mean of a rollout, answers of tools included; prompts are as long as they may be.
        prompts: rows of GRPO's set, where no chain recipe says.
    """

    gpu: Literal["H20", "H100", "A100"] = "H20"
    network: Positive = 100.0
    rows: Size = 8646
    row_tokens: Size = 9000
    response_tokens: Size = 3500
    prompts: Size = 500

    @property
    def card(self) -> Gpu:
        return GPUS[self.gpu]

    def link(self, spans: bool) -> float:
        """Bytes a second at which a group of GPUs gathers; ``spans``: over several nodes."""
        return self.network * 1e9 if spans else self.card.nvlink * _LINK

    @property
    def text(self) -> str:
        """What is assumed, in a line."""
        return (
            f"assumed: {self.gpu}, {self.network:g} GB/s a node; of the peak {_MATMUL:g} in matrix products, "
            f"{_FLASH:g} in flash attention ({_MASKED:g} with a mask), {_MEMORY:g} of the bandwidth in decoding; "
        )


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs of a token: products of the layers, their attention, the output projection."""

    layers: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        return self.layers + self.attention + self.head


def flops(shape: Shape, length: float, *, causal: bool, train: bool, checkpointing: bool, adapters: bool) -> Flops:
    """FLOPs a token of sequences of ``length``.

    Args:
        causal: whether the attention's kernel skips what lies ahead of a token.
        train: forward and backward, else forward alone.
        adapters: the weights themselves get no gradient.
    """
    back = (1 if adapters else 2) if train else 0
    again = int(train and checkpointing)
    products = shape.layer - 2 * shape.hidden - 2 * shape.head_dim  # less its norms
    # torch ends the second forward at the last tensor that is missed: the input of the MLP's last product
    repeated = again * (products - shape.hidden * shape.intermediate)
    attention = 4 * shape.query * length * shape.layers / (2 if causal else 1)
    return Flops(
        2 * shape.layers * (products * (1 + back) + repeated),
        attention * (1 + (2 if train else 0) + again),
        2 * shape.embedding * (1 + back),
    )


def seconds(found: Flops, gpu: Gpu, masked: bool) -> float:
    """Seconds of a token on one GPU."""
    return (found.layers + found.head) / (_MATMUL * gpu.flops) + found.attention / (
        (_MASKED if masked else _FLASH) * gpu.flops
    )


def sft_seconds(config: Mapping[str, Any], shape: Shape, gpus: int, assumed: Assumed) -> float:
    """Seconds of a training by ms-swift's composed configuration."""
    rows = int(config.get("per_device_train_batch_size", 1))
    accumulation = int(config.get("gradient_accumulation_steps", 1))
    length = min(assumed.row_tokens, int(config.get("max_length") or 2048))
    packed = bool(config.get("padding_free") or config.get("packing"))
    padded = rows > 1 and not packed
    masked = padded and "flash" not in str(config.get("attn_impl") or "sdpa")
    lora = lora_rank(config) > 0
    cost = flops(
        shape,
        length,
        causal=not masked,
        train=True,
        checkpointing=bool(config.get("gradient_checkpointing", True)),
        adapters=lora,
    )
    tokens = assumed.rows * length * float(config.get("num_train_epochs", 1)) * (_PADDING if padded else 1)
    passes = assumed.rows * float(config.get("num_train_epochs", 1)) / (gpus * rows)
    sent = 0.0
    if gpus > 1 and not lora:
        deepspeed = str(config.get("deepspeed") or "")
        # ZeRO-2 reduces each micro-batch's gradients and gathers the weights a step; ZeRO-3 gathers them twice a pass.
        sent = shape.parameters * 2 * (3 if "3" in deepspeed else 1 + 1 / accumulation)
    return tokens * seconds(cost, assumed.card, masked) / gpus + passes * sent / assumed.link(gpus > 8)


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Seconds of the parts of a GRPO step."""

    rollout: float
    old_log_prob: float
    reference: float
    update: float
    sync: float

    @property
    def total(self) -> float:
        return self.rollout + self.old_log_prob + self.reference + self.update + self.sync


def decode_seconds(shape: Shape, tp: int, sequences: float, context: float, gpu: Gpu) -> float:
    """Seconds in which a replica gives each of its ``sequences`` one more token."""
    return (2 * shape.parameters / tp + sequences * context * shape.kv_bytes(tp)) / (_MEMORY * gpu.memory)


def _prefill(shape: Shape, tokens: float, length: float, gpu: Gpu) -> float:
    cost = flops(shape, length, causal=True, train=False, checkpointing=False, adapters=False)
    return tokens * seconds(cost, gpu, masked=False)


def grpo_step(config: Any, shape: Shape, nodes: int, gpus_per_node: int, assumed: Assumed) -> StepSeconds:
    """Seconds of a step by verl's composed configuration."""
    gpu, gpus = assumed.card, nodes * gpus_per_node
    rollout, actor, model = (config.actor_rollout_ref[name] for name in ("rollout", "actor", "model"))
    prompt = int(config.data.max_prompt_length)
    response = min(assumed.response_tokens, int(config.data.max_response_length))
    length = prompt + response
    prompts, n, tp = int(config.data.train_batch_size), int(rollout.n), int(rollout.tensor_model_parallel_size)
    sequences, replicas = prompts * n, max(1, gpus // tp)
    each = -(-sequences // replicas)
    tail = min(_TAIL * response, int(config.data.max_response_length))
    sampling = tail * decode_seconds(shape, tp, each, prompt + response / 2, gpu)
    sampling += _prefill(shape, prompts * prompt, prompt, gpu) / gpus

    shared, parallel = sequence_parallel(config), max(1, ranks(config, gpus))
    megatron = actor.strategy == "megatron"
    engine = actor.megatron if megatron else actor.fsdp_config
    group = gpus if megatron or engine.fsdp_size in (-1, None) else min(gpus, int(engine.fsdp_size))
    spans, whole = group > gpus_per_node, 0.0 if megatron or gpus == 1 else float(shape.parameters)
    speed = gpus * (_ULYSSES if shared > 1 else 1.0)
    updates = max(1, prompts // int(actor.ppo_mini_batch_size))
    limit = (
        int(actor.ppo_max_token_len_per_gpu) * shared
        if actor.use_dynamic_bsz
        else (length * int(actor.ppo_micro_batch_size_per_gpu or 1))
    )

    def phase(train: bool, batches: int, gathered: float, reduced: float = 0.0) -> float:
        """Seconds of a pass over all sequences in ``batches`` mini-batches; the bytes go with each micro-batch, while
        it computes. Shards that fill a node are gathered in it, but their gradients meet between the nodes."""
        mine = sequences / batches / parallel
        # verl balances the whole batch over the ranks, and no single mini-batch
        late = 1 + _SPREAD * math.sqrt(2 * math.log(parallel) / max(1.0, mine)) if train else 1.05
        cost = flops(
            shape,
            length,
            causal=True,
            train=train,
            checkpointing=bool(model.get("enable_gradient_checkpointing", True)),
            adapters=bool(model.get("lora_rank", 0)),
        )
        compute = sequences * length * seconds(cost, gpu, masked=False) / speed * late
        micro = batches * max(1, math.ceil(mine * length / limit))
        return max(compute, micro * (gathered / assumed.link(spans) + reduced / assumed.link(nodes > 1)))

    forward = phase(False, 1, 2 * whole)
    update = phase(True, updates, 4 * whole, 4 * whole)
    adapter = shape.adapter(int(model.get("lora_rank", 0)))
    if not megatron and engine.optimizer_offload:
        update += 2 * 8 * (adapter or shape.parameters) / group / _OFFLOAD
    sent = adapter if adapter and not model.lora.merge else shape.parameters
    sync = 4 * sent / _HANDOVER + (4 * sent / assumed.link(spans) if whole else 0.0)
    return StepSeconds(sampling, forward, forward if actor.use_kl_loss else 0.0, update, sync)


def grpo_steps(config: Any, assumed: Assumed) -> int:
    """Steps of a training."""
    if config.trainer.total_training_steps is not None:
        return int(config.trainer.total_training_steps)
    return max(1, assumed.prompts // int(config.data.train_batch_size) * int(config.trainer.total_epochs))


def sampling_seconds(
    shape: Shape, instances: int, n: int, prompt: int, most: int, options: Mapping[str, Any], in_flight: int,
    gpus: int, memory: float, assumed: Assumed,
) -> float:  # fmt: skip
    """Seconds of the rollouts of difficulty sampling, with every replica busy to the end.

    Args:
        prompt, most: tokens of a prompt, and at most of a response.
        options: the chain's ``engine.options``.
        memory: bytes of a GPU.
    """
    extra, response = dict(options.get("extra") or {}), min(assumed.response_tokens, most)
    tp = int(extra.get("tensor_parallel_size", 1))
    replicas = max(1, gpus // tp)
    free = float(extra.get("gpu_memory_utilization", 0.92)) * memory - 2 * shape.parameters / tp - 4 * GIB
    fit = free / (shape.kv_bytes(tp) * (prompt + response))
    at_once = max(1.0, min(in_flight, int(options.get("max_num_seqs") or in_flight), fit, instances * n / replicas))
    tokens = instances * n * response
    decoding = tokens / (replicas * at_once) * decode_seconds(shape, tp, at_once, prompt + response / 2, assumed.card)
    return decoding + _prefill(shape, instances * prompt, prompt, assumed.card) / gpus


def minutes(value: float) -> str:
    """Seconds as minutes, or as hours where they are many."""
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
