"""Do the sizes of a composed configuration fit together? What verl asserts once its processes are up, asked before.

Batches: ``validate_config`` (verl/utils/config.py:88), ``ActorConfig.validate`` (verl/workers/config/actor.py:222).
Lengths: verl pads and cuts to ``max_prompt_length`` and ``max_response_length``, and its engines hold no more than
``max_model_len``. verl itself is not imported.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from star_rl.errors import StarError


class Problem(NamedTuple):
    """What does not fit, and what to change."""

    what: str
    remedy: str


def ranks(config: Any, gpus: int) -> int:
    """Data-parallel ranks of the trainer on ``gpus`` processes; 0 where there are too few for its parallel sizes."""
    actor = config.actor_rollout_ref.actor
    if actor.strategy == "megatron":
        engine = actor.megatron
        each = engine.tensor_model_parallel_size * engine.pipeline_model_parallel_size * engine.context_parallel_size
    else:
        each = actor.ulysses_sequence_parallel_size
    return int(gpus) // int(each)


def problems(config: Any, gpus: int | None = None) -> list[Problem]:
    """Everything that verl would refuse, or that would cut a sequence short.

    Args:
        config: as :func:`star_rl.integrations.verl.recipe.compose` returns it.
        gpus: processes of the trainer; default as the configuration says.
    """
    trainer = config.trainer
    gpus = gpus or int(trainer.nnodes) * int(trainer.n_gpus_per_node)
    return [*_batches(config, gpus), *_lengths(config), *_unsupported(config)]


def _batches(config: Any, gpus: int) -> list[Problem]:
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    batch, mini, n = int(config.data.train_batch_size), int(actor.ppo_mini_batch_size), int(rollout.n)
    tp, parallel = int(rollout.tensor_model_parallel_size), ranks(config, gpus)
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
    rows = actor.ppo_micro_batch_size_per_gpu
    if not actor.use_dynamic_bsz:
        if rows is None:
            found.append(
                Problem(
                    "neither use_dynamic_bsz nor ppo_micro_batch_size_per_gpu is set",
                    "set actor.use_dynamic_bsz: true with ppo_max_token_len_per_gpu",
                )
            )
        elif parallel > 0 and (mini * n // parallel) % int(rows):
            found.append(
                Problem(
                    f"{mini * n // parallel} sequences a rank are no multiple of ppo_micro_batch_size_per_gpu {rows}",
                    "lower it, or set use_dynamic_bsz: true",
                )
            )
    if int(actor.get("ulysses_sequence_parallel_size", 1) or 1) > 1 and not config.actor_rollout_ref.model.get(
        "use_remove_padding", False
    ):
        found.append(Problem("sequence parallelism without use_remove_padding", "set model.use_remove_padding: true"))
    return found


def _lengths(config: Any) -> list[Problem]:
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    prompt, response = int(config.data.max_prompt_length), int(config.data.max_response_length)
    whole, found = prompt + response, []
    if rollout.max_model_len and int(rollout.max_model_len) < whole:
        found.append(
            Problem(
                f"rollout.max_model_len {int(rollout.max_model_len):,} is less than prompt and response, {whole:,}",
                "raise it",
            )
        )
    parallel = int(actor.get("ulysses_sequence_parallel_size", 1) or 1)
    if actor.strategy == "megatron":
        parallel = int(actor.megatron.context_parallel_size)
    reach = int(actor.ppo_max_token_len_per_gpu) * parallel
    if actor.use_dynamic_bsz and reach < whole:
        found.append(
            Problem(
                f"a sequence of {whole:,} tokens does not fit a micro-batch of {reach:,}",
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


def enough(config: Any, rows: int) -> list[Problem]:
    """Whether a training set of ``rows`` prompts gives a step, and as many steps as are asked for."""
    batch, epochs = int(config.data.train_batch_size), int(config.trainer.total_epochs)
    if rows < batch:
        return [
            Problem(
                f"the training set has {rows} rows, a step takes {batch}",
                "sample more tasks (sample.instances of a chain), or lower verl.data.train_batch_size",
            )
        ]
    wanted, most = config.trainer.total_training_steps, rows // batch * epochs
    if wanted is None or int(wanted) <= most:
        return []
    needed = -(-int(wanted) // (rows // batch))
    return [
        Problem(
            f"{wanted} steps are wanted, {epochs} epoch(s) of {rows} rows have {most}: verl would end without its last "
            "checkpoint",
            f"set grpo.overrides.verl.trainer.total_epochs={needed}, or fewer steps",
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
