"""What checkpoints take on disk."""

from types import SimpleNamespace as Space

from star_rl.plan.disk import grpo_bytes, sft_bytes
from star_rl.plan.shapes import QWEN3

EIGHT = QWEN3["Qwen3-8B"]


def verl(size, keep=2, strategy="fsdp2", best=None, rank=0, apart=True):
    sampler = Space(keep="best" if best else "last", max_checkpoints=best)
    v1 = Space(sampler=Space(sampler_kwargs=sampler))
    return Space(
        trainer=Space(nnodes=2, n_gpus_per_node=8, max_actor_ckpt_to_keep=keep, v1=v1),
        actor_rollout_ref=Space(
            actor=Space(strategy=strategy, fsdp_config=Space(fsdp_size=size), checkpoint={"save_lora_only": apart}),
            model=Space(lora_rank=rank),
        ),
    )


def test_sft_keeps_so_many_and_writes_one_more():
    assert sft_bytes(EIGHT, {"save_total_limit": 2}) == 3 * 16 * EIGHT.parameters
    assert sft_bytes(EIGHT, {"save_total_limit": 2, "tuner_type": "lora"}) == 3 * 16 * EIGHT.adapter(8)


def test_each_replica_of_a_sharding_group_writes_its_own():
    assert grpo_bytes(EIGHT, verl(-1)) == grpo_bytes(EIGHT, verl(8, strategy="megatron")) == 3 * 12 * EIGHT.parameters
    assert grpo_bytes(EIGHT, verl(8)) == 2 * grpo_bytes(EIGHT, verl(-1))
    assert grpo_bytes(EIGHT, verl(-1, keep=1)) == 2 * 12 * EIGHT.parameters
    assert grpo_bytes(EIGHT, verl(-1, keep=None, best=1)) == 3 * 12 * EIGHT.parameters, "the best beside the newest"


def test_of_adapters_the_weights_below_them_are_saved_only_on_request():
    adapter = 12 * EIGHT.adapter(32)
    assert grpo_bytes(EIGHT, verl(-1, rank=32)) == 3 * adapter
    assert grpo_bytes(EIGHT, verl(-1, rank=32, apart=False)) == 3 * (adapter + 4 * EIGHT.parameters)
