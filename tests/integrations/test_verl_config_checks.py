"""Sizes: whatever verl's own check refuses is refused here, and nothing that ships is."""

from pathlib import Path

import pytest

from star_rl.errors import StarError
from star_rl.integrations.verl.config_checks import metric_problems, problems, ranks, refuse, row_problems
from star_rl.integrations.verl.overrides import overrides_of
from star_rl.integrations.verl.recipe import Paths, compose, load_recipe, verl_tree


def composed(*names, actor=None, rollout=None, data=None, trainer=None, model=None, filters=None):
    ref = {"actor": actor or {}, "rollout": rollout or {}, "model": model or {}}
    algorithm = {"filter_groups": filters or {}}
    tree = {"actor_rollout_ref": ref, "data": data or {}, "trainer": trainer or {}, "algorithm": algorithm}
    run = Path("run")
    paths = Paths(run, run / "model", run / "train", run / "store")
    return compose(overrides_of(verl_tree(load_recipe([f"grpo/{name}" for name in names], {"verl": tree}), paths, "x")))


SHIPPED = ("table5", "gpu8", "gpu1", "megatron-32b", "tiny", "tiny-refill")
STATIC = {"use_dynamic_bsz": False, "ppo_micro_batch_size_per_gpu": 1}
LOG_PROB = {"log_prob_micro_batch_size_per_gpu": 1}
BAD = [
    ("no multiple of ppo_mini_batch_size", {"data": {"train_batch_size": 18}}),
    ("do not divide over 16 ranks", {"actor": {"ppo_mini_batch_size": 1}}),
    ("no multiple of the rollout's TP 3", {"rollout": {"tensor_model_parallel_size": 3}}),
    ("rollout.n is 1", {"rollout": {"n": 1}, "data": {"train_batch_size": 16}, "actor": {"ppo_mini_batch_size": 16}}),
    ("max_model_len 9,000 is less", {"rollout": {"max_model_len": 9000}}),
    ("does not fit a micro-batch of 8,192", {"actor": {"ppo_max_token_len_per_gpu": 8192}}),
    ("lora_adapter_path=adapter is refused", {"model": {"lora_adapter_path": "adapter"}}),
    (
        "hf_model in actor.checkpoint.save_contents with lora_rank",
        {"model": {"lora_rank": 16}, "actor": {"checkpoint": {"save_contents": ["model", "hf_model"]}}},
    ),
    ("lora_rank with actor.strategy=fsdp", {"model": {"lora_rank": 16}, "actor": {"strategy": "fsdp"}}),
    ("save_freq is -1", {"trainer": {"save_freq": -1}}),
    (
        "no multiple of save_freq=10",
        {"trainer": {"test_freq": 5, "v1": {"sampler": {"sampler_kwargs": {"+keep": "best"}}}}},
    ),
    ("logger lacks file", {"trainer": {"logger": ["console"]}}),
    ("neither use_dynamic_bsz nor", {"actor": {"use_dynamic_bsz": False}}),
    (
        "sync_refill_failed_groups=True is refused",
        {"trainer": {"v1": {"sampler": {"sync_refill_failed_groups": True}}}},
    ),
    ("use_remove_padding", {"actor": {"ulysses_sequence_parallel_size": 2}, "model": {"use_remove_padding": False}}),
]
GOOD = [{}, {"actor": STATIC, "rollout": LOG_PROB}, {"data": {"train_batch_size": 32}}]


@pytest.mark.parametrize(("says", "change"), BAD, ids=[says for says, _ in BAD])
def test_what_does_not_fit_is_said_with_its_remedy(says, change):
    found = problems(composed("table5", **change))
    assert len(found) == 1 and says in found[0].what and found[0].remedy
    with pytest.raises(StarError, match=says.split(" ")[0]):
        refuse(found)


def test_sequences_are_shared_out_where_verl_says_so_today():
    """``actor.ulysses_sequence_parallel_size`` is deprecated in favour of the engine's."""
    half = {"ppo_max_token_len_per_gpu": 8192}
    assert problems(composed("table5", actor={**half, "ulysses_sequence_parallel_size": 2})) == []
    config = composed("table5", actor={**half, "fsdp_config": {"ulysses_sequence_parallel_size": 2}})
    assert problems(config) == [] and ranks(config, 16) == 8


def test_group_filtering_is_bounded_and_by_a_key_of_the_reward():
    config = composed("tiny-refill", filters={"metric": "ndcg"})
    (found,) = metric_problems(config, ("acc", "score"))
    assert "returns no ndcg" in found.what and "reward, acc, score" in found.remedy
    assert metric_problems(config, ("ndcg",)) == metric_problems(composed("tiny", filters={"metric": "x"}), ()) == []
    for name in ("max_num_gen_batches", "max_inflight_gen_batches"):
        with pytest.raises(StarError, match=f"filter_groups.{name}=0 is not a positive integer"):
            problems(composed("tiny-refill", filters={name: 0}))
        assert problems(composed("tiny", filters={name: 0})) == [], "it is off"


def test_fused_kernels_are_refused_where_verl_shards_the_head_alone():
    fused = composed("table5", model={"use_fused_kernels": True})
    (found,) = problems(fused, tied=False)
    assert "use_fused_kernels: true fails" in found.what and "use_fused_kernels: false" in found.remedy
    assert problems(fused, tied=True) == problems(fused) == problems(composed("table5"), tied=False) == []


def test_a_distillation_without_a_teacher_is_refused():
    (found,) = problems(composed("table5", "opd"))
    assert "teacher_models.teacher_model.model_path is null" in found.what


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_fits(name):
    assert problems(composed(name)) == []


def test_megatron_s_ranks_are_what_its_parallel_sizes_leave():
    config = composed("megatron-32b", actor={"ppo_mini_batch_size": 1}, rollout={"n": 5})
    assert "5 sequences an update do not divide over 2 ranks" in problems(config)[0].what
    assert "need more than 4 GPUs" in problems(config, gpus=4)[0].what


def test_several_faults_are_told_at_once():
    with pytest.raises(StarError, match=r"(?s)lora_adapter_path.*max_model_len"):
        refuse(problems(composed("table5", rollout={"max_model_len": 9000}, model={"lora_adapter_path": "adapter"})))


def test_steps_beyond_the_epochs_are_refused():
    config = composed("table5", trainer={"total_training_steps": 40})
    (problem,) = row_problems(config, 500)
    assert "40 steps are wanted, 1 epoch(s) of 500 rows have 31" in problem.what
    assert "total_epochs=2" in problem.remedy
    assert row_problems(config, 640) == [] and "a step takes 16" in row_problems(config, 15)[0].what
    assert row_problems(composed("tiny"), 100) == []


@pytest.mark.engine
def test_verl_refuses_nothing_that_passes_here():
    """verl's ``validate_config`` on every good configuration passes, and on every bad one we have spoken before."""
    from hydra.errors import InstantiationException
    from verl.utils.config import validate_config

    for change in GOOD:
        config = composed("table5", **change)
        assert problems(config) == []
        validate_config(config, use_reference_policy=False, use_critic=False)
    for name in SHIPPED:
        validate_config(composed(name), use_reference_policy=False, use_critic=False)
    refused = 0
    for _, change in [*BAD, ("", {"actor": {**STATIC, "ppo_mini_batch_size": 3}, "data": {"train_batch_size": 3}})]:
        config = composed("table5", **change)
        try:
            validate_config(config, use_reference_policy=False, use_critic=False)
        except (AssertionError, ValueError, InstantiationException):
            refused += 1
            assert problems(config), change
    assert refused >= 2
