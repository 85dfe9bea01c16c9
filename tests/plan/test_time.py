"""Times of a plan: FLOPs against those that torch counts in transformers' own model, the rest by ratios and by hand."""

import pytest
from omegaconf import OmegaConf

from star_rl.cli import main
from star_rl.errors import StarError
from star_rl.plan import QWEN3, Assumed, Shape, plan_recipe
from star_rl.plan.recipes import best_knobs, grpo_changes, sft_changes
from star_rl.plan.time import GPUS, decode_seconds, flops, grpo_step, grpo_steps, sampling_seconds, sft_seconds
from tests.plan.test_plan import config_of

SMALL = Shape("small", 256, 3, 8, 2, 32, 768, 512, False)
EIGHT = QWEN3["Qwen3-8B"]
#: A full fine-tuning on one node by sdpa and pairs of rows.
SFT = {
    "deepspeed": "zero2", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_length": 16384,
    "num_train_epochs": 2, "attn_impl": "sdpa",
}  # fmt: skip
FLASH = {**SFT, "attn_impl": "flash_attn", "padding_free": True}


def grpo(**fsdp):
    """What the estimate reads of a composed configuration: 128 rollouts a step, 32 an update."""
    engine = {"fsdp_size": -1, "optimizer_offload": True, "ulysses_sequence_parallel_size": 1} | fsdp
    return OmegaConf.create(
        {
            "data": {"train_batch_size": 16, "max_prompt_length": 6000, "max_response_length": 8192},
            "trainer": {"total_training_steps": None, "total_epochs": 2},
            "actor_rollout_ref": {
                "model": {"enable_gradient_checkpointing": True},
                "rollout": {"n": 8, "tensor_model_parallel_size": 2},
                "actor": {
                    "strategy": "fsdp2", "ppo_mini_batch_size": 4, "use_dynamic_bsz": True, "use_kl_loss": True,
                    "ppo_max_token_len_per_gpu": 16384, "ulysses_sequence_parallel_size": 1, "fsdp_config": engine,
                },
            },
        }
    )  # fmt: skip


@pytest.mark.engine
@pytest.mark.parametrize("train", ["forward", "backward", "checkpointing"])
def test_flops_are_those_that_torch_counts(train):
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen3ForCausalLM

    tokens = 320
    # eager attention computes the whole square, as sdpa with a mask does
    model = Qwen3ForCausalLM(config_of(SMALL, attn_implementation="eager", use_cache=False)).train()
    if train == "checkpointing":
        model.gradient_checkpointing_enable()
    ids = torch.randint(0, SMALL.vocab, (1, tokens))
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids, labels=ids).loss
        if train != "forward":
            loss.backward()
    kind = {"train": train != "forward", "checkpointing": train == "checkpointing", "adapters": False}
    said = flops(SMALL, tokens, causal=False, **kind).total * tokens
    assert said == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_a_flash_kernel_computes_half_the_square_and_adapters_no_gradient_of_the_weights():
    kind = {"train": True, "checkpointing": True}
    full = flops(EIGHT, 9000, causal=False, adapters=False, **kind)
    half = flops(EIGHT, 9000, causal=True, adapters=True, **kind)
    assert half.attention == full.attention / 2
    assert half.layers < 0.75 * full.layers and half.head == full.head * 2 / 3


def test_sdpa_with_padding_takes_half_as_long_again():
    masked, flash = (sft_seconds(config, EIGHT, 8, Assumed()) for config in (SFT, FLASH))
    assert 1.4 < masked / flash < 1.8
    single = {**SFT, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    assert sft_seconds(single, EIGHT, 8, Assumed()) == pytest.approx(flash, rel=0.02)  # no row is padded: no mask


def test_sft_grows_with_tokens_rows_epochs_and_falls_with_gpus():
    base = sft_seconds(FLASH, EIGHT, 8, Assumed(row_tokens=4000))
    assert sft_seconds(FLASH, EIGHT, 8, Assumed(row_tokens=8000)) > 2 * base
    assert sft_seconds(FLASH, EIGHT, 8, Assumed(row_tokens=4000, rows=2 * 8646)) == pytest.approx(2 * base)
    assert sft_seconds({**FLASH, "num_train_epochs": 4}, EIGHT, 8, Assumed(row_tokens=4000)) == pytest.approx(2 * base)
    assert sft_seconds(FLASH, EIGHT, 4, Assumed(row_tokens=4000)) > 1.9 * base
    assert sft_seconds({**FLASH, "max_length": 4000}, EIGHT, 8, Assumed(row_tokens=8000)) == base
    assert sft_seconds(FLASH, EIGHT, 8, Assumed("H100", row_tokens=4000)) < base / 4


def test_shards_within_a_node_save_where_the_network_is_slow():
    slow = Assumed(network=3)
    whole, halves = (grpo_step(grpo(fsdp_size=size), EIGHT, 2, 8, slow) for size in (-1, 8))
    assert halves.total < 0.85 * whole.total
    assert halves.old_log_prob < whole.old_log_prob and halves.sync < whole.sync
    fast = [grpo_step(grpo(fsdp_size=size), EIGHT, 2, 8, Assumed()) for size in (-1, 8)]
    assert fast[0].old_log_prob == fast[1].old_log_prob  # a fast network hides behind what is computed
    one = [grpo_step(grpo(fsdp_size=size, optimizer_offload=False), EIGHT, 1, 8, slow) for size in (-1, 8)]
    assert one[0] == one[1]  # a single node has no network


def test_a_decoding_step_by_hand():
    read = EIGHT.parameters * 2 / 2 + 16 * 7750 * EIGHT.kv_bytes(2)
    assert decode_seconds(EIGHT, 2, 16, 7750, GPUS["H20"]) == pytest.approx(read / (0.76 * 4.0e12))


def test_sampling_is_held_by_the_cache_and_by_what_is_in_flight():
    def took(in_flight, memory, **extra):
        options = {"extra": extra}
        return sampling_seconds(EIGHT, 4000, 8, 6000, 8192, options, in_flight, 16, memory * 2**30, Assumed())

    assert took(16, 95) > took(32, 95) > took(64, 95) == took(128, 95)
    assert took(64, 40) > took(64, 95)
    assert took(64, 40, tensor_parallel_size=2) < took(64, 40)  # 40 GiB hold little beside the weights of 8B


def test_steps_follow_the_rows_or_what_the_recipe_bounds():
    config = grpo()
    assert grpo_steps(config, Assumed()) == 62  # 500 rows, 16 a step, two epochs
    config.trainer.total_training_steps = 14
    assert grpo_steps(config, Assumed()) == 14


def test_the_knobs_that_save_most_are_named_and_those_that_do_not_fit_are_not():
    changes = {"small": 99, "large": 60, "larger": 50, "too large": 10, "middle": 80}
    said = best_knobs(100 * 60, changes, lambda left: (left * 60, left != 10))
    assert said == "worth most: larger saves 50 min; large saves 40 min"
    assert best_knobs(6000, {"small": 99}, lambda left: (left * 60, True)) == "no knob saves more than 2 %"


def test_knobs_already_turned_are_not_tried():
    assert len(sft_changes(SFT)) == 1 and not sft_changes(FLASH)
    assert [name.split(":")[0] for name in grpo_changes(grpo(), 2, 8)] == [
        "fsdp_size", "ppo_max_token_len_per_gpu", "ulysses_sequence_parallel_size", "optimizer_offload",
    ]  # fmt: skip
    turned = grpo(fsdp_size=8, optimizer_offload=False, ulysses_sequence_parallel_size=2)
    assert not grpo_changes(turned, 2, 8)  # two GPUs a sequence take two of the longest as it is


@pytest.mark.engine
def test_a_plan_prints_times_disk_and_what_it_assumes(capsys):
    slow = ["--network", "3", "verl.actor_rollout_ref.actor.fsdp_config.fsdp_size=-1"]
    main(["plan", "recipes/grpo/table5.yaml", *slow])
    said = capsys.readouterr().out
    assert "time (an estimate): " in said and "fsdp_size: 8 saves" in said
    assert "disk: " in said and "assumed: H20, 3 GB/s a node" in said


@pytest.mark.engine
def test_the_gpu_sets_the_memory_where_none_is_given():
    sizes = {name: plan_recipe("recipes/sft/table4.yaml", assumed=Assumed(name))[0].memory / 2**30 for name in GPUS}
    assert sizes == {"H20": 95, "H100": 79, "A100": 79}
    assert plan_recipe("recipes/sft/table4.yaml", memory=60, assumed=Assumed("A100"))[0].memory == 60 * 2**30


@pytest.mark.engine
def test_a_chain_says_how_long_sampling_takes():
    (_, plan) = plan_recipe("recipes/amazon.yaml", ["sample.instances=1000"])
    assert "for 1,000 x 8 rollouts" in plan.text()


def test_odd_assumptions_are_refused():
    with pytest.raises(StarError, match="gpu='B300' is not valid - it should be 'H20', 'H100' or 'A100'"):
        Assumed("B300")
    with pytest.raises(StarError, match="row_tokens=0 is not valid"):
        Assumed(row_tokens=0)
