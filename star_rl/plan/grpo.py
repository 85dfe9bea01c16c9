"""Memory of GRPO in verl: one set of GPUs that trains (FSDP2 or Megatron) and samples (vLLM) by turns.

FSDP2 keeps weights, gradients and both moments in 32 bits (verl's ``model_dtype``), shared out over the shard group,
and gathers a layer at a time in 16 bits. Megatron keeps 16-bit weights and 32-bit gradients of its slice of the
model, and the distributed optimizer (12 bytes a parameter) shared out over the data-parallel ranks. vLLM takes
``gpu_memory_utilization`` of the GPU: its weights (2 bytes a parameter over the tensor-parallel ranks), room for one
batch, and the KV cache with all the rest. While one side works the other's memory stays, unless it sleeps or is
offloaded.
"""

from __future__ import annotations

from typing import Any

from star_rl.integrations.verl.config_checks import problems, ranks, sequence_parallel
from star_rl.plan import activations
from star_rl.plan.model import GIB, MemoryPhase, Plan
from star_rl.plan.shapes import Shape

#: Two CUDA contexts (trainer and vLLM), NCCL, vLLM's captured graphs, the allocator's slack.
_OVERHEAD = 4 * GIB


class _Trainer:
    """Bytes per GPU of the training side: :attr:`weights`, :attr:`gradients`, :attr:`optimizer`, :attr:`gathered`."""

    def __init__(self, config: Any, shape: Shape, gpus: int) -> None:
        self.actor = config.actor_rollout_ref.actor
        self.megatron = self.actor.strategy == "megatron"
        self.shape, self.gpus = shape, gpus
        self.checkpointing = bool(config.actor_rollout_ref.model.get("enable_gradient_checkpointing", True))
        rank = int(config.actor_rollout_ref.model.get("lora_rank", 0) or 0)
        self.trained = shape.adapter(rank) if rank else shape.parameters
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
        # and in the 32 in which it is reduced.
        self.gathered: float = 2 * 2 * shape.layer + 2 * shape.embedding + 6 * max(shape.layer, shape.embedding)
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
        """Whether there is a reference model."""
        return bool(self.actor.use_kl_loss or config.algorithm.use_kl_in_reward)

    def reference_stays(self, config: Any) -> bool:
        """Whether the reference model lives on the GPU; FSDP2 always keeps it in host memory."""
        return self.reference(config) and self.megatron and not config.actor_rollout_ref.ref.megatron.param_offload

    def activations(self) -> tuple[float, float]:
        """(layers, logits) at the peak of an update."""
        fused = bool(self.actor.get("use_fused_kernels"))
        if not self.megatron:
            layers = activations.layers(self.shape, self.tokens, self.checkpointing)
            return layers, activations.logits(self.shape, self.tokens, activations.VERL_LOGIT, fused)
        options = self.actor.megatron.override_transformer_config
        full = str(options.get("recompute_granularity")) == "full"
        # One-forward-one-backward: the first stage holds the inputs of as many micro-batches as there are stages, of
        # its own layers; together that is one micro-batch of the whole model. Sequence parallelism shares the inputs
        # out too.
        layers = activations.layers(self.shape, self.tokens, full) / self.tp
        return layers, activations.logits(self.shape, self.tokens, activations.MEGATRON_LOGIT, fused) / self.tp


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
        "CUDA, NCCL, graphs": _OVERHEAD,
    }
    plan.hold(MemoryPhase("update", update), _update_remedies(trainer, sleeps))

    served = 2 * shape.parameters / tp
    batch = activations.served(shape, int(rollout.max_num_batched_tokens), int(rollout.max_num_seqs), tp)
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
        "gathered layers": 2.0 * max(shape.layer, shape.embedding),
        "buckets": 2 * bucket,
        "vLLM weights": served,
        "CUDA, NCCL, graphs": _OVERHEAD,
    }
    plan.hold(
        MemoryPhase("weight sync", sync), ["a smaller update_weights_bucket_megabytes", "a larger TP of the rollout"]
    )
    sampling = {
        **stay,
        "vLLM weights": served,
        "vLLM batch": batch,
        "KV cache": max(0.0, pool),
        "CUDA, NCCL, graphs": _OVERHEAD,
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
    host = 0.0
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
