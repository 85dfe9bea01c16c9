"""Do the sizes of a composed configuration fit together? What verl asserts once its processes are up, asked before.

Batches: ``validate_config`` (verl/utils/config.py:88), ``ActorConfig.validate`` (verl/workers/config/actor.py:222).
Lengths: verl pads and cuts to ``max_prompt_length`` and ``max_response_length``, and its engines hold no more than
``max_model_len``. verl itself is not imported.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from omegaconf import OmegaConf

from star_rl.errors import StarError

_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


class Problem(NamedTuple):
    """What does not fit, and what to change."""

    what: str
    remedy: str


def whole(config: Any, key: str) -> int:
    """A number of the configuration that counts something.

    Raises:
        StarError: it is no whole number from 1 upwards.
    """
    value = OmegaConf.select(config, key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise StarError(f"verl.{key}={value} is no size", "give a whole number from 1 upwards")
    return value


def sequence_parallel(config: Any) -> int:
    """Processes over which a sequence is shared out. verl lets the actor's own size win over its engine's
    (verl/workers/config/actor.py:328)."""
    if config.actor_rollout_ref.actor.strategy == "megatron":
        return whole(config, f"{_ACTOR}.megatron.context_parallel_size")
    own = whole(config, f"{_ACTOR}.ulysses_sequence_parallel_size")
    return own if own > 1 else whole(config, f"{_ACTOR}.fsdp_config.ulysses_sequence_parallel_size")


def ranks(config: Any, gpus: int) -> int:
    """Data-parallel ranks of the trainer on ``gpus`` processes; 0 where there are too few for its parallel sizes."""
    each = sequence_parallel(config)
    if config.actor_rollout_ref.actor.strategy == "megatron":
        for kind in ("tensor", "pipeline"):
            each *= whole(config, f"{_ACTOR}.megatron.{kind}_model_parallel_size")
    return gpus // each


def problems(config: Any, gpus: int | None = None, tied: bool | None = None) -> list[Problem]:
    """Everything that verl would refuse or fail at, or that would cut a sequence short.

    Args:
        config: as :func:`star_rl.integrations.verl.recipe.compose` returns it.
        gpus: processes of the trainer; default as the configuration says.
        tied: whether the model's ``lm_head`` is its embedding; None if unknown.

    Raises:
        StarError: what should be a size is none.
    """
    gpus = gpus or whole(config, "trainer.nnodes") * whole(config, "trainer.n_gpus_per_node")
    return [*_batches(config, gpus), *_lengths(config), *_unsupported(config), *_fused(config, tied)]


def _batches(config: Any, gpus: int) -> list[Problem]:
    actor = config.actor_rollout_ref.actor
    batch, mini = whole(config, "data.train_batch_size"), whole(config, f"{_ACTOR}.ppo_mini_batch_size")
    n, tp = whole(config, f"{_ROLLOUT}.n"), whole(config, f"{_ROLLOUT}.tensor_model_parallel_size")
    parallel = ranks(config, gpus)
    found = []
    if n < 2:
        found.append(Problem(f"rollout.n is {n}", "GRPO compares samples: take 2 or more"))
    if batch % mini:
        found.append(
            Problem(f"train_batch_size {batch} is no multiple of ppo_mini_batch_size {mini}", "both count prompts")
        )
    if gpus % tp:
        found.append(
            Problem(f"{gpus} GPUs are no multiple of the rollout's TP {tp}", "lower tensor_model_parallel_size")
        )
    if parallel < 1:
        found.append(
            Problem(
                f"the trainer's parallel sizes need more than the {gpus} GPUs there are", "lower the parallel sizes"
            )
        )
    elif (mini * n) % parallel:
        found.append(
            Problem(
                f"{mini * n} sequences an update do not divide over {parallel} ranks",
                f"change ppo_mini_batch_size ({mini} prompts x {n})",
            )
        )
    if not actor.use_dynamic_bsz:
        if actor.ppo_micro_batch_size_per_gpu is None:
            found.append(
                Problem(
                    "neither use_dynamic_bsz nor ppo_micro_batch_size_per_gpu is set",
                    "set actor.use_dynamic_bsz: true with ppo_max_token_len_per_gpu",
                )
            )
        elif parallel > 0 and (mini * n // parallel) % (
            rows := whole(config, f"{_ACTOR}.ppo_micro_batch_size_per_gpu")
        ):
            found.append(
                Problem(
                    f"{mini * n // parallel} sequences a rank are no multiple of ppo_micro_batch_size_per_gpu {rows}",
                    "lower it, or set use_dynamic_bsz: true",
                )
            )
    packed = actor.strategy == "megatron" or config.actor_rollout_ref.model.get("use_remove_padding", False)
    if not packed and sequence_parallel(config) > 1:
        found.append(Problem("sequence parallelism without use_remove_padding", "set model.use_remove_padding: true"))
    return found


def _lengths(config: Any) -> list[Problem]:
    prompt, response = whole(config, "data.max_prompt_length"), whole(config, "data.max_response_length")
    total, found = prompt + response, []
    window = config.actor_rollout_ref.rollout.max_model_len
    if window is not None and whole(config, f"{_ROLLOUT}.max_model_len") < total:
        found.append(
            Problem(f"rollout.max_model_len {window:,} is less than prompt and response, {total:,}", "raise it")
        )
    if config.actor_rollout_ref.actor.use_dynamic_bsz:
        reach = whole(config, f"{_ACTOR}.ppo_max_token_len_per_gpu") * sequence_parallel(config)
        if reach < total:
            found.append(
                Problem(
                    f"a sequence of {total:,} tokens does not fit a micro-batch of {reach:,}",
                    "raise ppo_max_token_len_per_gpu",
                )
            )
    return found


def _unsupported(config: Any) -> list[Problem]:
    model = config.actor_rollout_ref.model
    rank = int(model.get("lora_rank", 0) or 0) or int((model.get("lora") or {}).get("rank", 0) or 0)
    if not rank:
        return []
    return [
        Problem(
            f"lora_rank is {rank}: verl keeps the adapter apart, and the trained student would be the untrained one",
            "train all parameters (lora_rank: 0), with param_offload and optimizer_offload where memory is short",
        )
    ]


def _fused(config: Any, tied: bool | None) -> list[Problem]:
    """verl wraps an untied ``lm_head`` as an FSDP2 unit (verl/utils/fsdp_utils.py, ``_select_fsdp2_wrap_targets``), and
    its fused forward reads the weight without gathering it (verl/models/transformers/dense_common.py)."""
    reference = config.actor_rollout_ref
    if tied is not False or reference.actor.strategy != "fsdp2" or not reference.model.get("use_fused_kernels"):
        return []
    return [
        Problem(
            "model.use_fused_kernels: true fails with FSDP2 and a model whose lm_head is not tied (Qwen3 from 8B)",
            "set verl.actor_rollout_ref.model.use_fused_kernels: false",
        )
    ]


def enough(config: Any, rows: int) -> list[Problem]:
    """Whether a training set of ``rows`` prompts gives a step, and as many steps as are asked for."""
    batch, epochs = whole(config, "data.train_batch_size"), whole(config, "trainer.total_epochs")
    if rows < batch:
        return [
            Problem(
                f"the training set has {rows} rows, a step takes {batch}",
                "sample more tasks (sample.instances of a chain), or lower verl.data.train_batch_size",
            )
        ]
    if config.trainer.total_training_steps is None:
        return []
    wanted, most = whole(config, "trainer.total_training_steps"), rows // batch * epochs
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


def validation(config: Any, rows: bool) -> list[Problem]:
    """Whether there are ``rows`` for the validation that is asked for, if any is."""
    if rows or not (config.trainer.test_freq > 0 or config.trainer.val_before_train):
        return []
    return [
        Problem(
            "GRPO is to validate (trainer.test_freq or val_before_train), and there is no validation set",
            "set grpo_set.validation above 0, or trainer.test_freq to -1 and val_before_train to false",
        )
    ]


def hold(found: list[Problem]) -> None:
    """Refuse a configuration that has problems.

    Raises:
        StarError: all of them, each with its remedy.
    """
    if len(found) == 1:
        raise StarError(*found[0])
    if found:
        listed = "\n  ".join(f"{what}: {remedy}" for what, remedy in found)
        raise StarError(f"the GRPO recipe does not fit together:\n  {listed}", "mend these")
