"""Plans: shapes against transformers' own models, memory against sums by hand and against what autograd saves."""

import json
import math
from pathlib import Path

import pytest

from star_rl.errors import StarError
from star_rl.plan import GIB, QWEN3, memory, plan_recipe, shape_of
from star_rl.plan.memory import plan_sft
from star_rl.plan.shapes import Shape

SMALL = Shape("small", 256, 3, 8, 2, 32, 768, 512, False)


def config_of(shape, **more):
    from transformers import Qwen3Config

    return Qwen3Config(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
        **more,
    )


@pytest.mark.engine
@pytest.mark.parametrize("shape", [*QWEN3.values(), SMALL], ids=lambda shape: shape.name)
def test_parameters_are_those_of_the_real_model(shape):
    import torch
    from transformers import Qwen3ForCausalLM

    with torch.device("meta"):
        model = Qwen3ForCausalLM(config_of(shape))
        model.tie_weights()
    assert sum(weight.numel() for weight in model.parameters()) == shape.parameters
    layer = model.model.layers[0]
    assert sum(weight.numel() for weight in layer.parameters()) == shape.layer
    linear = [module for module in layer.modules() if isinstance(module, torch.nn.Linear)]
    rank = 16
    expected = shape.layers * sum(rank * (module.in_features + module.out_features) for module in linear)
    assert shape.adapter(rank) == expected


@pytest.mark.engine
def test_a_layer_saves_what_the_formula_says():
    import torch
    from transformers import Qwen3ForCausalLM

    tokens = 512
    model = Qwen3ForCausalLM(config_of(SMALL, attn_implementation="sdpa")).to(torch.bfloat16)
    layer, weights = model.model.layers[0], {weight.data_ptr() for weight in model.parameters()}
    hidden = torch.randn(1, tokens, SMALL.hidden, dtype=torch.bfloat16, requires_grad=True)
    rope = model.model.rotary_emb(hidden, torch.arange(tokens)[None])
    shared = weights | {part.data_ptr() for part in rope}
    saved = {}

    def pack(tensor):
        if tensor.data_ptr() not in shared:
            saved[tensor.untyped_storage().data_ptr()] = (
                tensor.untyped_storage()
            )  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(hidden, position_embeddings=rope, attention_mask=None)
    found = sum(storage.nbytes() for storage in saved.values())
    assert memory.layer_saved(SMALL) * tokens == pytest.approx(found, rel=0.12)


def test_kv_cache_by_hand():
    # 36 layers x (keys + values) x 8 heads x 128 x 2 bytes
    assert QWEN3["Qwen3-8B"].kv_bytes() == 36 * 2 * 8 * 128 * 2 == 147_456
    assert QWEN3["Qwen3-8B"].kv_bytes(tensor_parallel=2) == 73_728
    assert QWEN3["Qwen3-8B"].kv_bytes(tensor_parallel=16) == 36 * 2 * 1 * 128 * 2  # a head is never cut


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "qwen3-8b", "8B", "Qwen/Qwen3-8B-Base"])
def test_a_model_is_found_by_any_of_its_names(name):
    assert shape_of(name) is QWEN3["Qwen3-8B"]


def test_a_model_folder_is_read_and_others_are_refused(tmp_path):
    config = {
        "model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128, "vocab_size": 1000,
        "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert shape_of(tmp_path).kv_bytes() == 2 * 2 * 2 * 16 * 2
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(StarError, match="is a llama model"):
        shape_of(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(StarError, match="describes no model"):
        shape_of(tmp_path)
    with pytest.raises(StarError, match=r"not known - give a model folder, or one of Qwen3-0\.6B"):
        shape_of("gpt-17")


def parts_of(plan, phase):
    return next(entry.parts for entry in plan.phases if entry.name == phase)


def test_zero2_by_hand():
    shape = QWEN3["Qwen3-8B"]
    config = {
        "deepspeed": "zero2", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_length": 16384,
        "use_liger_kernel": True,
    }  # fmt: skip
    plan = plan_sft(config, shape, 8, 95 * GIB)
    parts = parts_of(plan, "backward")
    assert parts["weights"] == 2 * shape.parameters
    assert parts["optimizer"] == 12 * shape.parameters / 8
    assert "64 rows (8 x 2 x 4), at most 1,048,576 tokens" in plan.facts[0]
    assert not plan.problems


def test_what_overflows_is_named_with_its_remedies():
    plan = plan_sft(
        {"deepspeed": "zero2", "per_device_train_batch_size": 2, "max_length": 16384}, QWEN3["Qwen3-32B"], 8, 80 * GIB
    )
    assert len(plan.problems) == 1
    assert "overflows by" in plan.problems[0] and "zero3" in plan.problems[0]
    assert "OVERFLOW" in plan.text() and "fits" not in plan.text()


def test_adapters_need_no_optimizer_of_the_whole_model():
    shape = QWEN3["Qwen3-8B"]
    plan = plan_sft({"tuner_type": "lora", "lora_rank": 32, "max_length": 4096}, shape, 1, 80 * GIB)
    assert parts_of(plan, "backward")["optimizer"] == 12 * shape.adapter(32) < 0.02 * 12 * shape.parameters


def test_a_batch_of_vllm_by_hand():
    shape = Shape("x", 256, 8, 4, 2, 64, 1024, 8192, True)
    token = 4 * 256 + 2 * 256 + 4 * 128 + 8 * 1024
    assert memory.serving_bytes(shape, 4096, 4, 1) == 4096 * token + 12 * 8192 * 4
    assert memory.serving_bytes(shape, 4096, 4, 2) == 4096 * (4 * 256 + (token - 4 * 256) / 2) + 12 * 8192 * 4


@pytest.mark.engine
def test_the_paper_s_grpo_by_hand():
    (plan,) = plan_recipe("recipes/grpo/table5.yaml")
    shape, update, rollout = QWEN3["Qwen3-8B"], parts_of(plan, "update"), parts_of(plan, "rollout")
    assert not plan.problems
    assert update["weights"] == update["gradients"] == 4 * shape.parameters / 8
    assert update["optimizer"] == 8 * shape.parameters / 8
    assert rollout["optimizer"] == 0  # offloaded while vLLM samples
    assert rollout["vLLM weights"] == 2 * shape.parameters / 2
    used = rollout["vLLM weights"] + rollout["vLLM batch"] + rollout["KV cache"]
    assert math.isclose(used, 0.7 * plan.memory)
    sequences = int(rollout["KV cache"] // (shape.kv_bytes(2) * 14208))
    assert f"hold {sequences} sequences of 14,208 tokens" in plan.text()
    assert "128 rollouts (16 prompts x 8), at most 1,816,576 tokens; 4 update(s) of 32 sequences" in plan.text()


@pytest.mark.engine
@pytest.mark.parametrize("merged", [False, True])
def test_grpo_of_adapters_by_hand(merged, tmp_path):
    recipe = tmp_path / "adapters.yaml"
    lora = (
        Path("recipes/grpo/lora.yaml")
        .read_text()
        .replace("lora_rank: 32", f"lora: {{merge: {merged}}}\n      lora_rank: 32")
    )
    recipe.write_text(f"base: {Path('recipes/grpo/gpu1.yaml').resolve()}\n{lora}")
    (plan,) = plan_recipe(recipe, model="1.7B", memory=24)
    assert not plan.problems, "the comment in grpo/lora"
    shape, update, sync = QWEN3["Qwen3-1.7B"], parts_of(plan, "update"), parts_of(plan, "weight sync")
    adapter = shape.adapter(32)
    assert update["weights"] == 4 * shape.parameters
    assert (update["gradients"], update["optimizer"]) == (4 * adapter, 8 * adapter)
    assert sync["gathered layers"] == 2 * (shape.embedding if merged else adapter)
    assert sync["vLLM weights"] == 2 * (shape.parameters + (0 if merged else adapter))
    # the weights while vLLM samples, and vLLM's own while it sleeps; the reference is the policy without adapters
    host = 4 * shape.parameters + 8 * adapter + (0 if merged else 2 * shape.parameters)
    assert f"host memory: {host / GIB:.0f} GiB" in plan.text()


@pytest.mark.engine
def test_logits_in_chunks_are_what_makes_a_small_gpu_do(tmp_path):
    recipe = tmp_path / "grpo.yaml"
    recipe.write_text(
        "device: cuda\nverl:\n  data: {train_batch_size: 8, max_prompt_length: 6000, max_response_length: 8192}\n"
        "  actor_rollout_ref:\n\n"
        "    actor: {ppo_mini_batch_size: 3, use_dynamic_bsz: true, ppo_max_token_len_per_gpu: 8192}\n"
        "    rollout: {n: 8, max_model_len: 9000, tensor_model_parallel_size: 2, gpu_memory_utilization: 0.3}\n"
        "  trainer: {nnodes: 1, n_gpus_per_node: 7}\n"
    )
    (plan,) = plan_recipe(recipe, model="4B", memory=12)  # lm_head is tied
    text = "\n".join(plan.problems)
    assert "update overflows by" in text and "use_fused_kernels" in text
    assert "does not hold one sequence of 9,000 tokens" in text
    assert "max_model_len 9,000 is less than prompt and response, 14,192" in text
    assert "24 sequences an update do not divide over 7 ranks" in text
    assert "a sequence of 14,192 tokens does not fit a micro-batch of 8,192" in text
    assert "7 GPUs are no multiple of the rollout's TP 2" in text


@pytest.mark.engine
def test_the_megatron_recipe_shares_out_by_its_parallel_sizes():
    (plan,) = plan_recipe("recipes/grpo/megatron-32b.yaml", model="Qwen/Qwen3-32B")
    shape, update = QWEN3["Qwen3-32B"], parts_of(plan, "update")
    assert not plan.problems
    part = (shape.layers * shape.layer + 2 * shape.embedding) / 8
    assert (update["weights"], update["gradients"], update["optimizer"]) == (2 * part, 4 * part, 12 * part / 2)


@pytest.mark.engine
def test_overrides_change_the_plan_of_an_overlay():
    (sixteen,) = plan_recipe("recipes/grpo/table5.yaml", ["verl.actor_rollout_ref.rollout.n=16"])
    assert "256 rollouts (16 prompts x 16)" in sixteen.text()
    shared = ["verl.actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=2"]
    (halved,) = plan_recipe("recipes/grpo/table5.yaml", shared)
    assert "sequences over 2" in halved.title
    with pytest.raises(StarError, match="train_batch_size=many is not a positive integer"):
        plan_recipe("recipes/grpo/table5.yaml", ["verl.data.train_batch_size=many"])
    with pytest.raises(StarError, match="rollout is not known"):
        plan_recipe("recipes/grpo/table5.yaml", ["rollout.n=16"])
    (sft,) = plan_recipe("recipes/sft/table4.yaml", ["per_device_train_batch_size=1"])
    assert "32 rows (8 x 1 x 4)" in sft.text()
    with pytest.raises(StarError, match="lerning_rate is not known - did you mean learning_rate"):
        plan_recipe("recipes/sft/table4.yaml", ["lerning_rate=1"])


@pytest.mark.parametrize(
    ("memory", "adapters", "largest", "too_large"),
    [(23, False, "0.6B", "1.7B"), (23, True, "4B", "8B"), (79, False, "4B", "8B"), (79, True, "14B", "32B")],
)
def test_one_gpu_holds_what_the_documentation_says(memory, adapters, largest, too_large, tmp_path):
    """docs/plan.md, `recipes/sft/gpu1.yaml`."""
    lora = Path("recipes/sft/lora.yaml").read_text().replace("base: table4.yaml", "") if adapters else ""
    (tmp_path / "sft").mkdir()
    file = tmp_path / "sft/mine.yaml"
    file.write_text(f"base: {Path('recipes/sft/gpu1.yaml').resolve()}\n{lora}")
    (fits,) = plan_recipe(file, memory=memory, model=f"Qwen/Qwen3-{largest}")
    (over,) = plan_recipe(file, memory=memory, model=f"Qwen/Qwen3-{too_large}")
    assert not fits.problems and over.problems


@pytest.mark.engine
def test_a_folder_of_the_cluster_is_planned_by_its_name():
    (sft, grpo) = plan_recipe("recipes/amazon.yaml", ["student.path=/only/on/the/cluster/Qwen3-4B"])
    assert "Qwen3-4B" in sft.title and "Qwen3-4B" in grpo.title


def test_a_tiny_student_has_nothing_to_plan_and_odd_sizes_are_refused():
    with pytest.raises(StarError, match="tiny student"):
        plan_recipe("recipes/quickstart.yaml")
    with pytest.raises(StarError, match="--gpus 0"):
        plan_recipe("recipes/quickstart.yaml", gpus=0)
    with pytest.raises(StarError, match="--memory -1"):
        plan_recipe("recipes/quickstart.yaml", memory=-1)
    with pytest.raises(StarError, match="there is no recipe"):
        plan_recipe("recipes/none.yaml")
