"""Memory of a training stage on each GPU.

Activations are counted from what autograd saves in transformers' Qwen3 (bf16, attention kernels that keep no score
matrix), per token of a micro-batch; a test counts the saved tensors of the real model. H hidden, I intermediate, Q and
K width of queries and of keys, V vocabulary, L layers:

* a norm saves its input in 32 bits (4H), the normalised input (2H) and its result, which the next projection needs
  (2H);
* the norms of queries and keys save 6 (Q + K); the attention saves queries, keys, values and its result: 2 (2Q + 2K);
* the MLP saves gate, its activation, the other branch and their product: 8I.

SFT: ms-swift with DeepSpeed's ZeRO, in mixed precision: 2 bytes of weights, 2 of gradients and 12 of optimizer (32-bit
weights, two moments) a parameter. ZeRO shards over N GPUs: stage 1 the optimizer, stage 2 the gradients too, stage 3
the weights too.

GRPO: verl trains (FSDP2 or Megatron) and samples (vLLM) by turns on one set of GPUs. FSDP2 keeps weights, gradients and
both moments in 32 bits (verl's ``model_dtype``), sharded, and gathers a layer at a time in 16 bits. Megatron keeps
16-bit weights and 32-bit gradients of its slice of the model, and the distributed optimizer (12 bytes a parameter)
sharded over the data-parallel ranks. vLLM takes ``gpu_memory_utilization`` of the GPU: its weights (2 bytes a parameter
over the tensor-parallel ranks), room for one batch, and the KV cache. While one side works the other's memory stays,
unless it sleeps or is offloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from star_rl.integrations.verl.config_checks import problems, ranks, sequence_parallel
from star_rl.plan.model import GIB, MemoryPhase, Plan
from star_rl.plan.shapes import Shape, lora_rank

#: Bytes a logit at the peak of verl's log-probabilities: the logits, the scaled copy and its gradient, 16 bits each
#: (flash-attention's cross-entropy overwrites the scaled copy; verl/utils/torch_functional.py).
VERL_LOGIT = 6
#: Megatron keeps logits and their gradient in 32 bits beside the 16-bit ones.
MEGATRON_LOGIT = 10
#: transformers' loss: 16-bit logits, their 32-bit copy, its log-softmax and the gradient.
TRANSFORMERS_LOGIT = 14


def layer_saved(shape: Shape) -> int:
    """Bytes a token that one layer keeps for its backward pass."""
    norms = 2 * 8 * shape.hidden + 6 * (shape.query + shape.kv)
    return norms + 2 * (2 * shape.query + 2 * shape.kv) + 8 * shape.intermediate


def layer_bytes(shape: Shape, tokens: float, checkpointing: bool) -> float:
    """Bytes of all layers at the peak of the backward pass.

    With checkpointing: every layer's input, and one layer computed again with the gradients of its MLP.
    """
    working = layer_saved(shape) + 6 * shape.intermediate
    if checkpointing:
        return tokens * (2 * shape.hidden * shape.layers + working)
    return tokens * (layer_saved(shape) * shape.layers + 6 * shape.intermediate)


def logit_bytes(shape: Shape, tokens: float, width: float, fused: bool) -> float:
    """Bytes of the output projection's result at its peak; ``width`` bytes a logit.

    Fused kernels (Liger, verl's) go over chunks of about ``tokens * H / V`` rows, whose logits take ``H`` values a
    token.
    """
    return tokens * shape.hidden * width if fused else tokens * shape.vocab * width


def serving_bytes(shape: Shape, tokens: float, sequences: int, tensor_parallel: int) -> float:
    """Bytes of one batch of ``tokens`` in vLLM, the last of each sequence sampled.

    In 16 bits: states and residual (4H), queries, keys and values, and of the MLP both branches, their product and its
    copy (8I). Logits of a sequence: 32 bits, scaled, and as probabilities. Held against vLLM's CPU engine
    (``benchmarks/plan.py``).
    """
    token = 4 * shape.hidden + (2 * shape.query + 4 * shape.kv + 8 * shape.intermediate) / tensor_parallel
    return tokens * token + 12 * shape.vocab * sequences


#: CUDA context, NCCL and the allocator's slack.
_SFT_OVERHEAD = 3 * GIB
_BUCKET = 200_000_000  # elements that ms-swift's ZeRO configurations reduce at once


def plan_sft(config: Mapping[str, Any], shape: Shape, gpus: int, memory: float) -> Plan:
    """The plan of a composed ms-swift configuration.

    Args:
        config: as :func:`star_rl.integrations.swift.recipe.compose` makes it.
        gpus: processes, all on one node or not.
        memory: bytes of a GPU.
    """
    zero = str(config.get("deepspeed") or "")  # ms-swift's short name
    stage, offload = next((int(char) for char in zero if char.isdigit()), 0), "offload" in zero
    parameters = shape.parameters
    rank = lora_rank(config)
    trained = shape.adapter(rank) if rank else parameters
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
        "activations": layer_bytes(shape, tokens, bool(config.get("gradient_checkpointing", True))),
        "logits": logit_bytes(shape, tokens, TRANSFORMERS_LOGIT, fused),
        "CUDA, NCCL": _SFT_OVERHEAD,
    }
    kind = f"LoRA of rank {rank}" if rank else "all parameters"
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
    if not rank:
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


#: Two CUDA contexts (trainer and vLLM), NCCL, vLLM's captured graphs, the allocator's slack.
_GRPO_OVERHEAD = 4 * GIB


class _Trainer:
    """Bytes per GPU of the training side: :attr:`weights`, :attr:`gradients`, :attr:`optimizer`, :attr:`gathered`."""

    def __init__(self, config: Any, shape: Shape, gpus: int) -> None:
        self.actor = config.actor_rollout_ref.actor
        self.megatron = self.actor.strategy == "megatron"
        self.shape, self.gpus = shape, gpus
        self.checkpointing = bool(config.actor_rollout_ref.model.get("enable_gradient_checkpointing", True))
        model = config.actor_rollout_ref.model
        self.adapter = shape.adapter(int(model.lora_rank or 0))
        self.trained = self.adapter or shape.parameters
        self.merged = not self.adapter or bool(model.lora.merge)  # vLLM gets whole weights
        self.data_parallel, self.sequence_parallel = ranks(config, gpus), sequence_parallel(config)
        (self._megatron if self.megatron else self._fsdp)()
        lengths = int(config.data.max_prompt_length) + int(config.data.max_response_length)
        self.longest = lengths
        if self.actor.use_dynamic_bsz:
            self.tokens = int(self.actor.ppo_max_token_len_per_gpu)
        else:
            rows = self.actor.ppo_micro_batch_size_per_gpu or 1
            self.tokens = int(rows) * lengths // self.sequence_parallel

    def _fsdp(self) -> None:
        engine, shape = self.actor.fsdp_config, self.shape
        group = self.gpus if engine.fsdp_size in (-1, None) else min(self.gpus, int(engine.fsdp_size))
        width = 2 if str(engine.model_dtype) in ("bf16", "bfloat16", "fp16") else 4
        self.param_offload = bool(engine.param_offload or engine.offload_policy)
        self.optimizer_offload = bool(engine.optimizer_offload or engine.offload_policy)
        self.weights = width * shape.parameters / group
        self.gradients = width * self.trained / group
        self.optimizer = 2 * width * self.trained / group
        # Two layers in 16 bits (the second is fetched ahead) and the output projection; a layer's gradient in 16 bits
        # and in the 32 in which it is reduced, where it is trained.
        gradient = self.adapter / shape.layers if self.adapter else max(shape.layer, shape.embedding)
        self.gathered: float = 2 * 2 * shape.layer + 2 * shape.embedding + 6 * gradient
        self.layout = f"FSDP2 over {group}" + (
            f", sequences over {self.sequence_parallel}" if self.sequence_parallel > 1 else ""
        )
        self.bytes_per_parameter = width

    def _megatron(self) -> None:
        engine, shape = self.actor.megatron, self.shape
        self.tp, self.pp = int(engine.tensor_model_parallel_size), int(engine.pipeline_model_parallel_size)
        ends = shape.embedding * (1 if self.pp > 1 or shape.tied else 2)
        part = (-(-shape.layers // self.pp) * shape.layer + ends) / self.tp
        self.param_offload, self.optimizer_offload = bool(engine.param_offload), bool(engine.optimizer_offload)
        self.weights, self.gradients = 2 * part, 4 * part
        shards = max(1, self.data_parallel * self.sequence_parallel) if engine.use_distributed_optimizer else 1
        self.optimizer = 12 * part / shards
        self.gathered = 0.0
        self.layout = f"Megatron TP {self.tp} x PP {self.pp} x CP {self.sequence_parallel} x DP {self.data_parallel}"
        self.bytes_per_parameter = 2

    def reference(self, config: Any) -> bool:
        """Whether there is a reference model; with adapters it is the policy without them."""
        return not self.adapter and bool(self.actor.use_kl_loss or config.algorithm.use_kl_in_reward)

    def reference_stays(self, config: Any) -> bool:
        """Whether the reference model lives on the GPU; FSDP2 always keeps it in host memory."""
        return self.reference(config) and self.megatron and not config.actor_rollout_ref.ref.megatron.param_offload

    def activations(self) -> tuple[float, float]:
        """(layers, logits) at the peak of an update."""
        fused = bool(self.actor.get("use_fused_kernels"))
        if not self.megatron:
            layers = layer_bytes(self.shape, self.tokens, self.checkpointing)
            return layers, logit_bytes(self.shape, self.tokens, VERL_LOGIT, fused)
        options = self.actor.megatron.override_transformer_config
        full = str(options.get("recompute_granularity")) == "full"
        # One-forward-one-backward: the first stage holds the inputs of as many micro-batches as there are stages, of
        # its own layers; together that is one micro-batch of the whole model. Sequence parallelism shares the inputs
        # out too.
        layers = layer_bytes(self.shape, self.tokens, full) / self.tp
        return layers, logit_bytes(self.shape, self.tokens, MEGATRON_LOGIT, fused) / self.tp


def plan_grpo(config: Any, shape: Shape, nodes: int, gpus_per_node: int, memory: float) -> Plan:
    """The plan of verl's composed configuration.

    Args:
        config: as :func:`star_rl.integrations.verl.recipe.compose` returns it.
        memory: bytes of a GPU.
    """
    gpus = nodes * gpus_per_node
    unfit = problems(config, gpus, shape.tied)  # first: what follows reckons with sizes that are some
    trainer, rollout = _Trainer(config, shape, gpus), config.actor_rollout_ref.rollout
    tp = int(rollout.tensor_model_parallel_size)
    replicas = max(1, gpus // tp)
    plan = Plan(
        f"GRPO: {shape.name} ({shape.parameters / 1e9:.2f} B parameters), {nodes} node(s) x {gpus_per_node} GPUs, "
        f"{trainer.layout}, {replicas} vLLM replica(s) of TP {tp}",
        memory,
    )
    layers, logits = trainer.activations()
    sleeps = bool(rollout.free_cache_engine)
    share = float(rollout.gpu_memory_utilization) * memory
    reference = trainer.weights if trainer.reference_stays(config) else 0.0
    update = {
        "weights": trainer.weights,
        "gradients": trainer.gradients,
        "optimizer": trainer.optimizer,
        "reference": reference,
        "gathered layers": trainer.gathered,
        "activations": layers,
        "logits": logits,
        "vLLM": 0.0 if sleeps else share,
        "CUDA, NCCL, graphs": _GRPO_OVERHEAD,
    }
    plan.hold(MemoryPhase("update", update), _update_remedies(trainer, sleeps))

    served = 2 * (shape.parameters + (0 if trainer.merged else trainer.adapter)) / tp
    batch = serving_bytes(shape, int(rollout.max_num_batched_tokens), int(rollout.max_num_seqs), tp)
    pool = share - served - batch
    stay = {
        "weights": 0.0 if trainer.param_offload else trainer.weights,
        "gradients": 0.0 if trainer.param_offload else trainer.gradients,
        "optimizer": 0.0 if trainer.optimizer_offload else trainer.optimizer,
        "reference": reference,
    }
    bucket = float(rollout.checkpoint_engine.update_weights_bucket_megabytes) * 2**20
    sync = {
        **stay,
        "weights": trainer.weights,
        "gathered layers": 2.0 * (max(shape.layer, shape.embedding) if trainer.merged else trainer.adapter),
        "buckets": 2 * bucket,
        "vLLM weights": served,
        "CUDA, NCCL, graphs": _GRPO_OVERHEAD,
    }
    plan.hold(
        MemoryPhase("weight sync", sync), ["a smaller update_weights_bucket_megabytes", "a larger TP of the rollout"]
    )
    sampling = {
        **stay,
        "vLLM weights": served,
        "vLLM batch": batch,
        "KV cache": max(0.0, pool),
        "CUDA, NCCL, graphs": _GRPO_OVERHEAD,
    }
    plan.hold(MemoryPhase("rollout", sampling), _rollout_remedies(trainer, rollout))
    _cache(plan, config, shape, pool, replicas)
    _step(plan, config, shape, trainer, gpus_per_node)
    plan.problems += [f"{what}: {remedy}" for what, remedy in unfit]
    return plan


def _update_remedies(trainer: _Trainer, sleeps: bool) -> list[str]:
    remedies = []
    if not sleeps:
        remedies.append("free_cache_engine: true")
    if not trainer.actor.get("use_fused_kernels") and (trainer.megatron or trainer.shape.tied):
        remedies.append("model.use_fused_kernels: true (logits in chunks)")
    if not trainer.checkpointing and not trainer.megatron:
        remedies.append("model.enable_gradient_checkpointing: true")
    need = -(-trainer.longest // trainer.sequence_parallel)
    if trainer.tokens > need and trainer.actor.use_dynamic_bsz:
        remedies.append(f"ppo_max_token_len_per_gpu down to {need} (the longest sequence)")
    if trainer.megatron:
        remedies += ["ref.megatron.param_offload: true", "more of tensor, pipeline or context parallelism"]
    else:
        remedies.append("ulysses_sequence_parallel_size: 2 with half the tokens per GPU")
        if not trainer.optimizer_offload:
            remedies.append("fsdp_config.offload_policy: true (weights and optimizer in host memory)")
    return remedies


def _rollout_remedies(trainer: _Trainer, rollout: Any) -> list[str]:
    remedies = [f"gpu_memory_utilization below {rollout.gpu_memory_utilization:g}"]
    if not trainer.optimizer_offload:
        remedies.append("optimizer_offload: true")
    if not trainer.param_offload:
        remedies.append("param_offload: true")
    return remedies


def _cache(plan: Plan, config: Any, shape: Shape, pool: float, replicas: int) -> None:
    rollout = config.actor_rollout_ref.rollout
    tp = int(rollout.tensor_model_parallel_size)
    token = shape.kv_bytes(tp)
    prompt, response = int(config.data.max_prompt_length), int(config.data.max_response_length)
    longest = int(rollout.max_model_len or prompt + response)
    fit = int(max(0.0, pool) // (token * longest))
    samples = int(config.data.train_batch_size) * int(rollout.n)
    each = min(-(-samples // replicas), int(rollout.max_num_seqs))
    plan.facts.append(
        f"KV cache: {token / 1024:.0f} KiB a token and GPU; {max(0.0, pool) / GIB:.1f} GiB hold {fit} sequences of "
        f"{longest:,} tokens, a replica samples {each} at once" + (" (the rest waits)" if 0 < fit < each else "")
    )
    if fit == 0:
        plan.problems.append(
            f"the KV cache of {max(0.0, pool) / GIB:.1f} GiB does not hold one sequence of {longest:,} tokens "
            f"({token * longest / GIB:.1f} GiB): raise gpu_memory_utilization or the rollout's TP"
        )


def _step(plan: Plan, config: Any, shape: Shape, trainer: _Trainer, gpus_per_node: int) -> None:
    n = int(config.actor_rollout_ref.rollout.n)
    prompts, mini = int(config.data.train_batch_size), int(trainer.actor.ppo_mini_batch_size)
    plan.facts.append(
        f"step: {prompts * n} rollouts ({prompts} prompts x {n}), at most {prompts * n * trainer.longest:,} tokens; "
        f"{prompts // max(1, mini)} update(s) of {mini * n} sequences over {trainer.data_parallel} data-parallel "
        f"rank(s), micro-batches of at most {trainer.tokens:,} tokens a GPU"
    )
    host = 0.0 if trainer.merged else 2.0 * shape.parameters  # vLLM's own weights, while it sleeps
    if trainer.param_offload:
        host += trainer.weights
    if trainer.optimizer_offload:
        host += trainer.optimizer
    if trainer.reference(config) and not trainer.reference_stays(config):
        host += trainer.weights
    if host:
        plan.facts.append(
            f"host memory: {host * gpus_per_node / GIB:.0f} GiB a node for the reference model and what is offloaded"
        )
