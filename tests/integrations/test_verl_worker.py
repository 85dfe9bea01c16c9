"""The settings of the GRPO overlays on verl's own training worker: a step on the CPU, with an untied lm_head."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from star_rl.integrations.verl.grpo import GrpoResult, export
from star_rl.integrations.verl.overrides import merge
from star_rl.integrations.verl.recipe import CPU_ENVIRONMENT, ENVIRONMENT
from star_rl.student.model import StudentShape, make_student
from star_rl.student.tokenizer import train_tokenizer

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes/grpo"


def make_model(folder, tied):
    """Write a tiny Qwen3 with a trained tokenizer."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    train_tokenizer(["Rank the items.", "History: 21 22 23."], ["21", "22", "23"], folder)
    make_student(folder, folder, StudentShape(hidden_size=64, intermediate_size=128, layers=3, head_dim=16))
    if not tied:
        torch.manual_seed(0)
        shape = Qwen3Config.from_pretrained(folder, tie_word_embeddings=False)
        Qwen3ForCausalLM(shape).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {tied: make_model(tmp_path_factory.mktemp(f"tied-{tied}"), tied) for tied in (True, False)}


def train(recipe, model, ranks, *, overrides=None, save=None, load=None, group=-1):
    """Run the worker on so many processes; return its result, or what it printed where it failed."""
    engine = {"fsdp_size": group, "use_torch_compile": False}
    sizes = {
        "actor_rollout_ref": {"actor": {"ppo_max_token_len_per_gpu": 240, "optim": {"lr": 1e-2}, "fsdp_config": engine}}
    }
    given = {
        "recipe": [str(RECIPES / f"{name}.yaml") for name in recipe.split("+")],
        "model": str(model),
        "overrides": {"device": "cpu", "verl": merge(sizes, overrides or {})},
        "save": save and str(save),
        "load": load and str(load),
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    ended = subprocess.run(
        [*command, str(Path(__file__).with_name("verl_worker.py")), json.dumps(given)],
        env={**os.environ, **ENVIRONMENT, **CPU_ENVIRONMENT, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        | {"CUDA_VISIBLE_DEVICES": "", "RAY_LOCAL_WORLD_SIZE": str(ranks)},
        capture_output=True,
        text=True,
    )
    lines = [line for line in ended.stdout.splitlines() if line.startswith("RESULT")]
    return json.loads(lines[0].removeprefix("RESULT")) if lines else ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def alone(models):
    """Table 5 on one process: what the other layouts are held to."""
    return train("table5", models[False], 1)


def test_shards_within_half_of_the_ranks_train_as_one_process_does_resume_and_merge(models, alone, tmp_path):
    """HSDP: Table 5's shard group is half of its ranks, here one of two."""
    from transformers import AutoModelForCausalLM

    result = train("table5", models[False], 2, group=1, save=tmp_path / "actor")
    for name in ("log_probs", "entropies", "grad_norm"):  # verl computes in bf16, whose rounding follows the packing
        assert result[name] == pytest.approx(alone[name], rel=1e-2)
    resumed = train("table5", models[False], 2, group=1, load=tmp_path / "actor")
    assert resumed["log_probs"] == pytest.approx(result["after"], rel=1e-4)
    assert result["after"] != pytest.approx(result["log_probs"], rel=1e-4)
    final = export(GrpoResult(1, tmp_path / "actor", 0), tmp_path / "final", models[False])
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (models[False], final))
    assert after.lm_head.weight.shape == before.lm_head.weight.shape
    assert not after.config.tie_word_embeddings and not after.lm_head.weight.equal(before.lm_head.weight)


def test_adapters_sharded_over_ranks_are_merged_into_the_student(models, tmp_path):
    result = train("tiny+lora", models[True], 2, save=tmp_path / "actor")
    assert isinstance(result, dict), result
    assert result["after"] != pytest.approx(result["log_probs"], rel=1e-3)
    student = export(GrpoResult(1, tmp_path / "actor", 0), tmp_path / "final", models[True])
    # On as many processes: each packs other rows together, which rounds otherwise, without adapters too.
    assert train("tiny", student, 2)["log_probs"] == pytest.approx(result["after"], rel=1e-6)


@pytest.mark.parametrize(("name", "tied"), [("gpu8", False), ("gpu1", True)])
def test_an_overlay_takes_a_step_with_its_settings(models, name, tied):
    """``gpu1`` is for the sizes of Qwen3 whose lm_head is the embedding, and has fused kernels."""
    result = train(name, models[tied], 1)
    assert isinstance(result, dict), result
    assert all(value < 0 for value in result["log_probs"]) and len(result["log_probs"]) == 8


def test_a_llama_takes_a_step_and_is_exported(models, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "llama"
    shutil.copytree(models[True], folder)
    theirs = json.loads((folder / "config.json").read_text())
    sizes = {name: theirs[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "head_dim")}
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(**sizes, num_hidden_layers=2, num_attention_heads=4, tie_word_embeddings=True)
    ).save_pretrained(folder)
    result = train("tiny", folder, 1, save=tmp_path / "actor")
    assert isinstance(result, dict), result
    assert result["after"] != pytest.approx(result["log_probs"], rel=1e-4)
    before, after = (
        AutoModelForCausalLM.from_pretrained(path)
        for path in (folder, export(GrpoResult(1, tmp_path / "actor", 0), tmp_path / "final", folder))
    )
    assert after.config.model_type == "llama" and not after.lm_head.weight.equal(before.lm_head.weight)


def test_verl_s_fused_kernels_still_fail_with_an_untied_lm_head(models, alone):
    """Where an upgrade of verl makes this pass, lift the refusal in star_rl/integrations/verl/config_checks.py."""
    fused = {"actor_rollout_ref": {"model": {"use_fused_kernels": True}}}
    failed = train("table5", models[False], 2, overrides=fused)
    assert isinstance(failed, str) and "DTensor" in failed
