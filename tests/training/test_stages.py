"""The student's stages, without their engines."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from star_rl.integrations.swift import sft
from star_rl.integrations.verl import grpo
from star_rl.pipeline import chain
from star_rl.pipeline.options import Recipe
from star_rl.pipeline.stage import run_stage
from star_rl.run import Run

SFT, STAGE = (
    dataclasses.replace(next(stage for stage in chain.STAGES if stage.name == name), reads=(), packages=())
    for name in ("sft", "grpo")
)


@pytest.fixture(autouse=True)
def store(monkeypatch):
    """A run's store; these runs have none."""
    monkeypatch.setattr(Run, "store", SimpleNamespace(path=Path("store"), scenario="classic", fingerprint="data-1"))


def sections(**grpo_options):
    recipe = Recipe()
    for name, value in grpo_options.items():
        setattr(recipe.grpo, name, value)
    options = dataclasses.asdict(recipe)
    return {name: options[name] for name in STAGE.config}


def test_a_finished_grpo_stage_is_found_done_whatever_its_overrides(tmp_path, monkeypatch):
    trained = []

    def train(recipe, paths, name, on_step, say):
        trained.append(recipe.verl)
        return grpo.GrpoResult(2, paths.checkpoints, 0)

    monkeypatch.setattr(grpo, "run_grpo", train)
    monkeypatch.setattr(grpo, "export", lambda result, target, trained: target)
    stage = dataclasses.replace(STAGE, body=lambda context: body(context))

    def body(context):
        context.inputs = {name: Path(tmp_path) / name for name in ("evidence", "sft", "grpo_set")}
        return STAGE.body(context)

    given = {"recipe": "recipes/grpo/tiny.yaml", "steps": 2, "overrides": {"verl": {"trainer": {"save_freq": 1}}}}
    states = [
        run_stage(stage, tmp_path, sections(**given), 5, lambda *_a, **_k: None).state,
        run_stage(stage, tmp_path, sections(**given), 5, lambda *_a, **_k: None).state,
    ]
    assert states == ["ran", "done"]
    assert [verl["trainer"]["total_training_steps"] for verl in trained] == [2]
    assert trained[0]["data"]["seed"] == trained[0]["actor_rollout_ref"]["rollout"]["seed"] == 5
    assert given["overrides"] == {"verl": {"trainer": {"save_freq": 1}}}


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"global_step": 8}')


def left(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


WHOLE = ("trainer_state.json", "args.json", "config.json", "model.safetensors")
RESUME = ("global_step8/mp_rank_00.pt", "optimizer.pt", "scheduler.pt", "rng_state_0.pth")


@pytest.mark.parametrize("keep", [False, True])
def test_after_sft_only_what_an_export_reads_is_left_of_its_checkpoints(tmp_path, monkeypatch, keep):
    work = tmp_path / "sft" / "swift"

    def train(layers, **_named):
        assert {"seed": 5, "data_seed": 5} in layers
        fill(work / "checkpoint-8", *WHOLE, *RESUME)
        fill(work / "checkpoint-4", "model.safetensors")
        (work / "checkpoint-4/trainer_state.json").write_text('{"global_step": 4}')
        return sft.SftResult(tmp_path, 8, 0.5, 1, 0, 1.0, 1.0, 0)

    def body(context):
        context.inputs = {"sft_set": tmp_path, "student": tmp_path}
        return SFT.body(context)

    monkeypatch.setattr(sft, "run_sft", train)
    options = dataclasses.asdict(Recipe())
    options["sft"]["keep_checkpoints"] = keep
    config = {name: options[name] for name in SFT.config}
    run_stage(dataclasses.replace(SFT, body=body), tmp_path, config, 5, lambda *_a, **_k: None)
    if keep:
        assert left(work) >= {f"checkpoint-8/{name}" for name in (*WHOLE, *RESUME)} | {"checkpoint-4/model.safetensors"}
    else:
        assert left(work) == {f"checkpoint-8/{name}" for name in WHOLE}
    assert sft.newest_checkpoint(work) == (work / "checkpoint-8", 8)


@pytest.mark.parametrize("keep", [False, True])
def test_after_grpo_the_optimizer_s_shards_are_gone_and_the_weights_are_not(tmp_path, monkeypatch, keep):
    checkpoints = tmp_path / "grpo" / "checkpoints"
    weights = {f"global_step_{step}/actor/model_world_size_1_rank_0.pt" for step in (1, 2)}
    weights.add("latest_checkpointed_iteration.txt")
    states = {f"global_step_2/actor/{name}_world_size_1_rank_0.pt" for name in ("optim", "extra_state")}

    def train(recipe, paths, name, on_step, say):
        fill(checkpoints, *weights, *states)
        return grpo.GrpoResult(2, paths.checkpoints, 0)

    def body(context):
        context.inputs = {name: tmp_path for name in ("evidence", "sft", "grpo_set")}
        return STAGE.body(context)

    monkeypatch.setattr(grpo, "run_grpo", train)
    monkeypatch.setattr(grpo, "export", lambda result, target, trained: target)
    config = sections(keep_checkpoints=keep)
    run_stage(dataclasses.replace(STAGE, body=body), tmp_path, config, 1, lambda *_a, **_k: None)
    assert left(checkpoints) == (weights | states if keep else weights)
