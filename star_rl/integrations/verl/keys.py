"""What happens to each key of verl's configuration: honoured, forwarded, or refused with the reason and the remedy.

verl's YAML has about 900 keys. Synchronous training by verl's V1 trainer reads most of them. Others are bypassed,
because this plug-in scores, samples and calls tools in its own policy loop, or are left over from other trainers. Such
a key is refused where a recipe gives it another value than verl's default, so that no key is ignored in silence.

``docs/verl-keys.md`` is made of :data:`RULES`: ``python -m star_rl.integrations.verl.keys``.
"""

from __future__ import annotations

import fnmatch
import functools
from typing import Any, Literal, NamedTuple

Status = Literal["honoured", "forwarded", "refused"]


class Rule(NamedTuple):
    """What happens to the keys that match one of ``patterns``.

    Attributes:
        patterns: dotted, separated by blanks; ``*`` stands for any part, dots too.
        status: ``honoured``: verl or the policy loop reads the key; ``forwarded``: the plug-in passes it on.
        reason: who reads the key, or why nothing does.
        remedy: what to set instead, for a refused key.
        values: refuse these values alone.
        by_run: the run sets the key, and another value is refused.
    """

    patterns: str
    status: Status
    reason: str
    remedy: str = ""
    values: tuple[str, ...] = ()
    by_run: bool = False


_SCORES = "the policy loop computes the score of a rollout, and verl's reward workers have nothing to do"
_V0 = "only verl's older trainer reads it"
_ASYNC = "only verl's asynchronous trainers read it, and training is synchronous"
_TEXT = "prompts are text"
_OWN_TEMPLATE = "the exported student keeps its own tokenizer and template, and would be asked in another form"
_LEAVE = "leave it out"

_ACTOR, _ROLLOUT, _SAMPLER = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "trainer.v1.sampler"


def _under(section: str, names: str) -> str:
    """Return the patterns of several keys of a section."""
    return " ".join(f"{section}.{name}" for name in names.split())


#: The first rule that matches a key holds. Sections that the plug-in replaces in part name their keys one by one, so
#: that a key of a newer verl fails the contract test until it has a rule.
RULES: tuple[Rule, ...] = (
    # algorithm
    Rule(
        "algorithm.adv_estimator",
        "refused",
        "it needs the sum of squared probabilities, which verl's V1 trainer does not hand to the estimator",
        "choose grpo, rloo, reinforce_plus_plus or another of verl's",
        values=("optimal_token_baseline", "tir_optimal_token_baseline"),
    ),
    Rule(
        "algorithm.adv_estimator",
        "refused",
        "it needs the reward's components in the batch, which verl's V1 trainer does not put there",
        "choose grpo, and add the components up in the reward",
        values=("gdpo",),
    ),
    Rule(
        "algorithm.adv_estimator",
        "refused",
        "it needs a greedy rollout of each prompt as a baseline, which verl's V1 trainer does not generate",
        "choose rloo, whose baseline is the mean of the other samples",
        values=("remax",),
    ),
    Rule(
        "algorithm.filter_groups.*",
        "forwarded",
        "verl does not give it to a sampler of ours; it arrives in sampler_kwargs, see training.md",
    ),
    Rule("algorithm.*", "honoured", "verl's trainer: advantages, KL, rollout correction"),
    # actor, reference, critic, teacher
    Rule(
        f"{_ACTOR}.clip_ratio",
        "refused",
        "verl reads clip_ratio_low and clip_ratio_high, which have values of their own (0.2)",
        f"set {_ACTOR}.clip_ratio_low and clip_ratio_high",
    ),
    Rule(f"{_ACTOR}.grad_clip", "refused", "verl reads the optimizer's", f"set {_ACTOR}.optim.clip_grad"),
    Rule(f"{_ACTOR}.calculate_sum_pi_squared", "refused", "only optimal_token_baseline uses it", _LEAVE),
    Rule(f"{_ACTOR}.freeze_vision_tower", "refused", _TEXT, _LEAVE),
    Rule(f"{_ACTOR}.* actor_rollout_ref.ref.* model_engine", "honoured", "verl's training engines"),
    Rule("critic.*", "honoured", "verl's critic, which only adv_estimator gae uses"),
    Rule("distillation.*", "honoured", "verl's teachers; their GPUs come on top and are not in `star-rl plan`"),
    # model
    Rule(
        "actor_rollout_ref.model.path",
        "refused",
        "the run sets it",
        "GRPO trains the run's own SFT checkpoint: set sft.recipe or student",
        by_run=True,
    ),
    Rule(
        "actor_rollout_ref.model.lora.rank",
        "refused",
        "it is Megatron's, whose adapters would not be in the exported student",
        "set lora_rank, with FSDP2",
    ),
    Rule(
        "actor_rollout_ref.model.lora_adapter_path",
        "refused",
        "GRPO trains adapters of its own on the run's SFT checkpoint, into which SFT's are merged",
        "leave it out, and set lora_rank",
    ),
    Rule(
        _under("actor_rollout_ref.model", "tokenizer_path custom_chat_template"),
        "refused",
        _OWN_TEMPLATE,
        "change the tokenizer or template of the student that SFT trains",
    ),
    Rule("actor_rollout_ref.model.*", "honoured", "verl's training engines and rollout servers"),
    Rule("actor_rollout_ref.hybrid_engine", "refused", _ASYNC, _LEAVE),
    Rule("actor_rollout_ref.nccl_timeout", "refused", "nothing in verl 0.9.1 reads it", _LEAVE),
    # rollout
    Rule(
        f"{_ROLLOUT}.multi_turn.*",
        "refused",
        "the policy loop replaces verl's: it has turns, calls and tools of its own",
        "set loop.budget (turns, calls, calls_per_turn, answer_tokens) and tools",
    ),
    Rule(f"{_ROLLOUT}.agent.num_workers", "honoured", "verl's agent loop workers"),
    Rule(f"{_ROLLOUT}.agent.agent_loop_config_path", "refused", "the run sets it", "set policy", by_run=True),
    Rule(f"{_ROLLOUT}.agent.*", "refused", "rollouts run in the policy loop star_agent of this project", _LEAVE),
    Rule(
        f"{_ROLLOUT}.do_sample {_ROLLOUT}.val_kwargs.do_sample",
        "refused",
        "verl's V1 trainer does not read it",
        "set temperature beside it; 0 is greedy",
    ),
    Rule(
        f"{_ROLLOUT}.trace.*",
        "refused",
        "verl's V1 trainer traces nothing",
        "read details/ in the stage's folder, or W&B",
    ),
    Rule(
        f"{_ROLLOUT}.over_sample_rate {_ROLLOUT}.multi_stage_wake_up",
        "refused",
        "nothing in verl 0.9.1 reads it",
        _LEAVE,
    ),
    Rule(
        f"{_ROLLOUT}.nnodes {_ROLLOUT}.n_gpus_per_node",
        "refused",
        _ASYNC,
        "rollouts run on the trainer's GPUs: set trainer.nnodes and trainer.n_gpus_per_node",
    ),
    Rule(f"{_ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes", "honoured", "verl's weight synchronisation"),
    Rule(f"{_ROLLOUT}.checkpoint_engine.*", "refused", "synchronous training always takes the backend `naive`", _LEAVE),
    Rule(
        _under(
            _ROLLOUT,
            "name mode temperature top_k top_p full_determinism seed prompt_length response_length dtype ignore_eos "
            "gpu_memory_utilization enforce_eager cudagraph_capture_sizes free_cache_engine *_parallel_size "
            "max_num_batched_tokens max_model_len max_num_seqs enable_chunked_prefill enable_prefix_caching "
            "logprobs_mode scheduling_policy load_format layered_summon log_prob_* disable_log_stats n engine_kwargs.* "
            "val_kwargs.* router_config_path calculate_log_probs skip_tokenizer_init enable_rollout_routing_replay "
            "enable_sleep_mode moe_load_balance_metrics_interval prometheus.* profiler.* quantization* mtp qat "
            "disaggregation.* _target_",
        ),
        "honoured",
        "verl's rollout servers and trainer; the policy loop keeps to the lengths and the sampling parameters",
    ),
    # data
    Rule("data.train_files", "refused", "the run sets it", "set grpo_set, or run another split", by_run=True),
    Rule("data.val_files", "refused", "the run sets it", "set grpo_set.validation", by_run=True),
    Rule(
        "data.apply_chat_template_kwargs*",
        "refused",
        _OWN_TEMPLATE,
        "change the template of the student that SFT trains",
    ),
    Rule(
        "data.tool_config_path data.function_tool_path", "refused", "the policy loop has tools of its own", "set tools"
    ),
    Rule(
        "data.truncation",
        "refused",
        "the policy loop cuts no prompt: a rollout whose prompt is too long has failed",
        "raise data.max_prompt_length, or set data.filter_overlong_prompts",
    ),
    Rule("data.reward_fn_key", "refused", _SCORES, "the column is data_source"),
    Rule(
        _under("data", "image* video_key audio_key return_multi_modal_inputs mm_processor_kwargs*"),
        "refused",
        _TEXT,
        _LEAVE,
    ),
    Rule(
        _under("data", "return_raw_input_ids return_raw_chat return_full_prompt tokenizer"),
        "refused",
        "nothing in verl's V1 trainer reads it",
        _LEAVE,
    ),
    Rule(
        "data.trust_remote_code",
        "refused",
        "nothing in verl's V1 trainer reads it",
        "set actor_rollout_ref.model.trust_remote_code",
    ),
    Rule("data.gen_batch_size", "honoured", "verl's loader of prompts; with dynamic sampling it is always 1"),
    Rule(
        _under(
            "data",
            "use_shm train_max_samples val_max_samples prompt_key max_prompt_length max_response_length shuffle seed "
            "train_batch_size val_batch_size dataloader_num_workers validation_shuffle filter_overlong_prompts* "
            "custom_cls.*",
        ),
        "honoured",
        "verl's dataset and loader of prompts",
    ),
    # reward
    Rule(
        "reward.custom_reward_function.path reward.custom_reward_function.name",
        "refused",
        "the run sets it",
        "set grpo.reward, with :name at its end for another function",
        by_run=True,
    ),
    Rule("reward.custom_reward_function.reward_kwargs*", "forwarded", "the options of the reward, see rewards.md"),
    Rule(
        "reward.* reward_model.* sandbox_fusion.* custom_reward_function.*",
        "refused",
        _SCORES,
        "write a reward and set grpo.reward; for a length penalty there is the reward overlong",
    ),
    # trainer
    Rule(
        "trainer.v1.trainer_mode",
        "refused",
        "an asynchronous trainer has a buffer of its own: failed rollouts would stay in their groups, a lost node "
        "would never be noticed, and details/ would be empty",
        "train synchronously (sync)",
        values=("colocate_async", "separate_async"),
    ),
    Rule(
        f"{_SAMPLER}.sync_refill_failed_groups",
        "refused",
        "a rollout that raises stops the training",
        "leave it out; algorithm.filter_groups.enable refills groups whose rollouts failed",
    ),
    Rule(f"{_SAMPLER}.max_off_policy_* trainer.v1.*_async.*", "refused", _ASYNC, _LEAVE),
    Rule(
        f"{_SAMPLER}.custom_sampler.* {_SAMPLER}.sampler_kwargs* trainer.v1.sync trainer.v1.trainer_mode",
        "honoured",
        "verl's trainer; another custom_sampler takes the place of star_rl's with all that training.md says of it",
    ),
    Rule("trainer.use_v1", "refused", "verl's older trainer has no replay buffer, which drops failed rollouts", _LEAVE),
    Rule(
        "trainer.resume_mode trainer.resume_from_path",
        "refused",
        "a run resumes from the newest whole checkpoint of its own folder",
        "delete the folder of the stage to train anew",
    ),
    Rule("trainer.val_only", "refused", "verl would end without a checkpoint", "use star-rl evaluate"),
    Rule("trainer.balance_batch", "refused", "verl's V1 trainer always balances", _LEAVE),
    Rule("trainer.esi_redundant_time", "refused", _V0, _LEAVE),
    Rule(
        "trainer.default_local_dir trainer.rollout_data_dir",
        "refused",
        "the run sets it",
        "set out and name",
        by_run=True,
    ),
    Rule(
        _under(
            "trainer",
            "total_epochs total_training_steps project_name experiment_name logger log_val_generations nnodes "
            "validation_data_dir n_gpus_per_node save_freq checkpoint_callback_class val_before_train test_freq device "
            "critic_warmup default_hdfs_dir del_local_ckpt_after_load max_actor_ckpt_to_keep max_critic_ckpt_to_keep "
            "ray_wait_register_center_timeout",
        ),
        "honoured",
        "verl's trainer",
    ),
    # the rest
    Rule(
        "skip.rollout.* skip.async_rollout.*", "refused", "only other trainers of verl read it", "set skip.rollout_tq"
    ),
    Rule("skip.rollout_tq.* skip._target_", "honoured", "verl's V1 trainer"),
    Rule("ray_kwargs.ray_init.*", "refused", "the run sets it", "write it in grpo.overrides.ray", by_run=True),
    Rule("ray_kwargs.timeline_json_file global_profiler.* transfer_queue.*", "honoured", "verl, Ray and TransferQueue"),
)


@functools.cache
def rules_of(key: str) -> tuple[Rule, ...]:
    """Return what holds for a key: rules for single values, then the first for all; empty for an unknown key."""
    found: list[Rule] = []
    for rule in RULES:
        if any(fnmatch.fnmatchcase(key, pattern) for pattern in rule.patterns.split()):
            found.append(rule)
            if not rule.values:
                break
    return tuple(found)


def refusal(key: str, value: Any) -> Rule | None:
    """Return the rule that refuses a value that is not verl's default; None if it is honoured or forwarded."""
    for rule in rules_of(key):
        if not rule.values or value in rule.values:
            return rule if rule.status == "refused" else None
    return None


_HEAD = """# Keys of verl's configuration

The section `verl` of a GRPO recipe has the shape of verl 0.9.1's own configuration. Each key has one of three fates:

| | meaning |
| --- | --- |
| honoured | verl or the policy loop reads it, as verl's documentation says |
| forwarded | star_rl passes it on, because verl alone would not |
| refused | it has no effect, or a harmful one: with another value than verl's default the run does not start |

A test walks verl's whole configuration, for FSDP and for Megatron, and fails where a key has no row below. The first
row that matches counts; `*` stands for any part of a name.

| key | | reason | instead |
| --- | --- | --- | --- |"""


def page() -> str:
    """Return ``docs/verl-keys.md``."""
    lines = [_HEAD]
    for rule in RULES:
        patterns = rule.patterns.split()
        section = patterns[0].rpartition(".")[0]
        if len(patterns) > 4 and all(pattern.startswith(section) for pattern in patterns):  # the section once
            keys = f"`{section}.`<br>" + ", ".join(f"`{pattern[len(section) + 1 :]}`" for pattern in patterns)
        else:
            keys = "<br>".join(f"`{pattern}`" for pattern in patterns)
        if rule.values:
            keys += "<br>= " + ", ".join(f"`{value}`" for value in rule.values)
        lines.append(f"| {keys} | {rule.status} | {rule.reason} | {rule.remedy} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
