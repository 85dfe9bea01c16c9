"""Check that the sizes of a composed configuration fit together: what verl asserts once its processes run.

Batches: ``validate_config`` (verl/utils/config.py:88), ``ActorConfig.validate`` (verl/workers/config/actor.py:222).
Lengths: verl pads and cuts to ``max_prompt_length`` and ``max_response_length``, and its engines hold at most
``max_model_len``. verl itself is not imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from star_rl.errors import StarError

_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


class Problem(NamedTuple):
    """What does not fit, and what to change."""

    what: str
    remedy: str


def positive_int(config: Any, key: str) -> int:
    """Return a size of the configuration.

    Raises:
        StarError: it is not a positive integer.
    """
    value = OmegaConf.select(config, key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise StarError(f"verl.{key}={value} is not a positive integer", "give an integer from 1 upwards")
    return value


def sequence_parallel(config: Any) -> int:
    """Return the number of processes that share a sequence. The actor's own size wins over its engine's
    (verl/workers/config/actor.py:328)."""
    if config.actor_rollout_ref.actor.strategy == "megatron":
        return positive_int(config, f"{_ACTOR}.megatron.context_parallel_size")
    own = positive_int(config, f"{_ACTOR}.ulysses_sequence_parallel_size")
    return own if own > 1 else positive_int(config, f"{_ACTOR}.fsdp_config.ulysses_sequence_parallel_size")


def ranks(config: Any, gpus: int) -> int:
    """Return the trainer's data-parallel ranks on ``gpus`` GPUs; 0 if its parallel sizes need more."""
    each = sequence_parallel(config)
    if config.actor_rollout_ref.actor.strategy == "megatron":
        for kind in ("tensor", "pipeline"):
            each *= positive_int(config, f"{_ACTOR}.megatron.{kind}_model_parallel_size")
    return gpus // each


def problems(config: Any, gpus: int | None = None, tied: bool | None = None) -> list[Problem]:
    """Return everything that verl would refuse or fail at, or that would cut a sequence short.

    Args:
        config: as :func:`star_rl.integrations.verl.recipe.compose` returns it.
        gpus: GPUs of the trainer; default as the configuration says.
        tied: whether the model's ``lm_head`` is its embedding; None if unknown.

    Raises:
        StarError: a size is not a positive integer.
    """
    gpus = gpus or positive_int(config, "trainer.nnodes") * positive_int(config, "trainer.n_gpus_per_node")
    return [*_batches(config, gpus), *_lengths(config), *_sampler(config), *_unsupported(config, tied)]


def _batches(config: Any, gpus: int) -> Iterator[Problem]:
    actor = config.actor_rollout_ref.actor
    batch, mini = positive_int(config, "data.train_batch_size"), positive_int(config, f"{_ACTOR}.ppo_mini_batch_size")
    n, tp = positive_int(config, f"{_ROLLOUT}.n"), positive_int(config, f"{_ROLLOUT}.tensor_model_parallel_size")
    sequences, parallel = mini * n, ranks(config, gpus)
    if n < 2:
        yield Problem(f"rollout.n is {n}", "GRPO compares samples: take 2 or more")
    if batch % mini:
        yield Problem(f"train_batch_size {batch} is no multiple of ppo_mini_batch_size {mini}", "both count prompts")
    if gpus % tp:
        yield Problem(f"{gpus} GPUs are no multiple of the rollout's TP {tp}", "lower tensor_model_parallel_size")
    if parallel < 1:
        yield Problem(f"the trainer's parallel sizes need more than {gpus} GPUs", "lower the parallel sizes")
    elif sequences % parallel:
        what = f"{sequences} sequences an update do not divide over {parallel} ranks"
        yield Problem(what, f"change ppo_mini_batch_size ({mini} prompts x {n})")
    if not actor.use_dynamic_bsz and actor.ppo_micro_batch_size_per_gpu is None:
        yield Problem(
            "neither use_dynamic_bsz nor ppo_micro_batch_size_per_gpu is set",
            "set actor.use_dynamic_bsz: true with ppo_max_token_len_per_gpu",
        )
    elif not actor.use_dynamic_bsz and parallel > 0:
        each, rows = sequences // parallel, positive_int(config, f"{_ACTOR}.ppo_micro_batch_size_per_gpu")
        if each % rows:
            what = f"{each} sequences a rank are no multiple of ppo_micro_batch_size_per_gpu {rows}"
            yield Problem(what, "lower it, or set use_dynamic_bsz: true")
    packed = actor.strategy == "megatron" or config.actor_rollout_ref.model.get("use_remove_padding", False)
    if not packed and sequence_parallel(config) > 1:
        yield Problem("sequence parallelism without use_remove_padding", "set model.use_remove_padding: true")


def _lengths(config: Any) -> Iterator[Problem]:
    total = positive_int(config, "data.max_prompt_length") + positive_int(config, "data.max_response_length")
    window = config.actor_rollout_ref.rollout.max_model_len
    if window is not None and positive_int(config, f"{_ROLLOUT}.max_model_len") < total:
        yield Problem(f"rollout.max_model_len {window:,} is less than prompt and response, {total:,}", "raise it")
    if config.actor_rollout_ref.actor.use_dynamic_bsz:
        most = positive_int(config, f"{_ACTOR}.ppo_max_token_len_per_gpu") * sequence_parallel(config)
        if most < total:
            what = f"a sequence of {total:,} tokens does not fit a micro-batch of {most:,}"
            yield Problem(what, "raise ppo_max_token_len_per_gpu")


def _sampler(config: Any) -> Iterator[Problem]:
    if config.trainer.v1.trainer_mode != "sync":
        return  # a buffer of verl's own
    if config.trainer.v1.sampler.sync_refill_failed_groups:
        yield Problem(
            "trainer.v1.sampler.sync_refill_failed_groups is true, but a rollout that raises stops the training",
            "leave it out; algorithm.filter_groups.enable refills groups whose rollouts failed",
        )
    filters = config.algorithm.filter_groups
    if filters.enable:
        for name in ("max_num_gen_batches", "max_inflight_gen_batches"):
            positive_int(config, f"algorithm.filter_groups.{name}")
        positive_int(config, "trainer.v1.sampler.sampler_kwargs.max_steps_without_signal")


def _unsupported(config: Any, tied: bool | None) -> Iterator[Problem]:
    reference = config.actor_rollout_ref
    model = reference.model
    if rank := int(model.get("lora_rank", 0) or 0) or int((model.get("lora") or {}).get("rank", 0) or 0):
        yield Problem(
            f"lora_rank is {rank}: verl keeps the adapter apart, and the trained student would be the untrained one",
            "train all parameters (lora_rank: 0), with param_offload and optimizer_offload where memory is short",
        )
    # verl wraps an untied `lm_head` as an FSDP2 unit (verl/utils/fsdp_utils.py, `_select_fsdp2_wrap_targets`), and its
    # fused forward reads the weight without gathering it (verl/models/transformers/dense_common.py)
    if tied is False and reference.actor.strategy == "fsdp2" and model.get("use_fused_kernels"):
        yield Problem(
            "model.use_fused_kernels: true fails with FSDP2 and a model whose lm_head is not tied (Qwen3 from 8B)",
            "set verl.actor_rollout_ref.model.use_fused_kernels: false",
        )


def metric_problems(config: Any, keys: Sequence[str]) -> list[Problem]:
    """Check that groups are filtered by one of the reward's ``keys``, or by ``reward``, verl's name of the score."""
    filters = config.algorithm.filter_groups
    if not filters.enable or filters.metric in (*keys, "reward"):
        return []
    what = f"the reward returns no {filters.metric}, by which algorithm.filter_groups.metric filters"
    return [Problem(what, f"choose one of reward, {', '.join(keys)}")]


def row_problems(config: Any, rows: int) -> list[Problem]:
    """Check that a training set of ``rows`` prompts gives a step, and as many steps as the configuration asks for."""
    batch, epochs = positive_int(config, "data.train_batch_size"), positive_int(config, "trainer.total_epochs")
    if rows < batch:
        what = f"the training set has {rows} rows, a step takes {batch}"
        return [Problem(what, "sample more tasks (sample.instances), or lower verl.data.train_batch_size")]
    if config.trainer.total_training_steps is None:
        return []
    wanted, most = positive_int(config, "trainer.total_training_steps"), rows // batch * epochs
    if wanted <= most:
        return []
    needed = -(-wanted // (rows // batch))
    return [
        Problem(
            f"{wanted} steps are wanted, {epochs} epoch(s) of {rows} rows have {most}: verl would end without its last "
            "checkpoint",
            f"set grpo.overrides.verl.trainer.total_epochs={needed}, or fewer steps",
        )
    ]


def validation_problems(config: Any, rows: bool) -> list[Problem]:
    """Check that there are ``rows`` to validate on, if the configuration asks for a validation."""
    if rows or not (config.trainer.test_freq > 0 or config.trainer.val_before_train):
        return []
    return [
        Problem(
            "GRPO is to validate (trainer.test_freq or val_before_train), and there is no validation set",
            "set grpo_set.validation above 0, or trainer.test_freq to -1 and val_before_train to false",
        )
    ]


def refuse(found: list[Problem]) -> None:
    """Raise if there are problems.

    Raises:
        StarError: all of them, each with its remedy.
    """
    if len(found) == 1:
        raise StarError(*found[0])
    if found:
        listed = "\n  ".join(f"{what}: {remedy}" for what, remedy in found)
        raise StarError(f"the GRPO recipe does not fit together:\n  {listed}", "correct these settings")
