"""Check that the sizes of a composed configuration fit together: what verl asserts once its processes run.

Batches: ``validate_config`` (verl/utils/config.py:88), ``ActorConfig.validate`` (verl/workers/config/actor.py:222).
Lengths: verl pads and cuts to ``max_prompt_length`` and ``max_response_length``, and its engines hold at most
``max_model_len``. verl itself is not imported.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from star_rl.errors import StarError
from star_rl.integrations.verl import keys
from star_rl.integrations.verl.overrides import leaves, merge
from star_rl.integrations.verl.recipe import BASE, CPU, compose

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
    _hold_filters(config)
    return [
        *_refused(config),
        *_batches(config, gpus),
        *_lengths(config),
        *_teacher(config),
        *_trainer(config),
        *_fused(config, tied),
        *_adapters(config),
    ]


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


def _refused(config: Any) -> Iterator[Problem]:
    """Yield the refused keys (:data:`star_rl.integrations.verl.keys.RULES`) that a recipe has set."""
    engine = config.model_engine if config.model_engine == "megatron" else "dp"
    ours = {name: value for name, value, _ in leaves(merge(BASE, CPU))}
    for name, value in _values(config).items():
        rule = keys.refusal(name, value)
        if rule is None or rule.by_run or value in (_defaults(engine).get(name), ours.get(name)):
            continue
        yield Problem(f"verl.{name}={value} is refused: {rule.reason}", rule.remedy)


@functools.cache
def _defaults(engine: str) -> Mapping[str, Any]:
    return _values(compose([f"model_engine={engine}"]))


def _values(config: Any) -> dict[str, Any]:
    """Return a configuration's values by their dotted keys, with references as they are written."""
    tree: Any = OmegaConf.to_container(config)
    return {name: value for name, value, _ in leaves(tree)}


def _hold_filters(config: Any) -> None:
    if config.algorithm.filter_groups.enable:
        for name in ("max_num_gen_batches", "max_inflight_gen_batches"):
            positive_int(config, f"algorithm.filter_groups.{name}")
        positive_int(config, "trainer.v1.sampler.sampler_kwargs.max_steps_without_signal")


def _trainer(config: Any) -> Iterator[Problem]:
    save, test = config.trainer.save_freq, config.trainer.test_freq
    if save < 1:
        what = f"trainer.save_freq is {save}: verl would end without a checkpoint"
        yield Problem(what, "set it to a number of steps; the last step is saved too")
    elif config.trainer.v1.sampler.sampler_kwargs.get("keep") == "best" and test % save:
        yield Problem(
            f"grpo.keep=best and trainer.test_freq={test}, no multiple of save_freq={save}: a validated step would "
            "have no checkpoint",
            "set trainer.test_freq to a multiple of save_freq, or leave it out",
        )
    if "file" not in config.trainer.logger:
        yield Problem("trainer.logger lacks file, by which star-rl follows the training", "add it to the list")


def _teacher(config: Any) -> Iterator[Problem]:
    for name, teacher in config.distillation.teacher_models.items():
        if config.distillation.enabled and teacher.model_path is None:
            where = f"verl.distillation.teacher_models.{name}.model_path"
            yield Problem(f"{where} is null, and distillation is enabled", "set it to the student that should teach")


def _fused(config: Any, tied: bool | None) -> Iterator[Problem]:
    reference = config.actor_rollout_ref
    # verl wraps an untied `lm_head` as an FSDP2 unit (verl/utils/fsdp_utils.py, `_select_fsdp2_wrap_targets`), and its
    # fused forward reads the weight without gathering it (verl/models/transformers/dense_common.py)
    if tied is False and reference.actor.strategy == "fsdp2" and reference.model.get("use_fused_kernels"):
        yield Problem(
            "model.use_fused_kernels: true fails with FSDP2 and a model whose lm_head is not tied (Qwen3 from 8B)",
            "set verl.actor_rollout_ref.model.use_fused_kernels: false",
        )


def _adapters(config: Any) -> Iterator[Problem]:
    reference = config.actor_rollout_ref
    if reference.model.lora_rank and reference.actor.strategy != "fsdp2":
        yield Problem(f"lora_rank with actor.strategy={reference.actor.strategy}", "train adapters with fsdp2")
    if reference.model.lora_rank and "hf_model" in reference.actor.checkpoint.save_contents:
        yield Problem(
            "hf_model in actor.checkpoint.save_contents with lora_rank: verl would save weights under PEFT's names",
            "set save_contents to [model, optimizer, extra]; the exported student is whole",
        )


def metric_problems(config: Any, columns: Sequence[str]) -> list[Problem]:
    """Check that groups are filtered by one of the reward's keys, ``columns``, or by ``reward``, verl's for score."""
    filters = config.algorithm.filter_groups
    if not filters.enable or filters.metric in (*columns, "reward"):
        return []
    what = f"the reward returns no {filters.metric}, by which algorithm.filter_groups.metric filters"
    return [Problem(what, f"choose one of reward, {', '.join(columns)}")]


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
