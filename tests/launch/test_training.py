"""The student's stages, without their engines."""

import dataclasses
from pathlib import Path

from launch import chain
from launch.options import Recipe
from star_rl.integrations.verl import grpo
from star_rl.stage import run_stage

STAGE = dataclasses.replace(next(stage for stage in chain.STAGES if stage.name == "grpo"), reads=(), packages=())


def sections(**grpo_options):
    recipe = Recipe()
    for name, value in grpo_options.items():
        setattr(recipe.grpo, name, value)
    options = dataclasses.asdict(recipe)
    return {name: options[name] for name in STAGE.config}


def test_a_finished_grpo_stage_is_found_done_whatever_its_overrides(tmp_path, monkeypatch):
    trained = []

    def train(recipe, paths, name, on_step):
        trained.append(recipe.verl)
        return grpo.GrpoResult(2, paths.checkpoints, paths.metrics, paths.rollouts, 1.0, 0.0, 0)

    monkeypatch.setattr(grpo, "run_grpo", train)
    monkeypatch.setattr(grpo, "export", lambda result, target: target)
    stage = dataclasses.replace(STAGE, body=lambda context: body(context))

    def body(context):
        context.inputs = {name: Path(tmp_path) / name for name in ("evidence", "sft", "grpo_set")}
        return STAGE.body(context)

    given = {"recipe": "recipes/grpo/tiny.yaml", "steps": 2, "overrides": {"verl": {"trainer": {"save_freq": 1}}}}
    states = [
        run_stage(stage, tmp_path, sections(**given), 1, lambda *_a, **_k: None).state,
        run_stage(stage, tmp_path, sections(**given), 1, lambda *_a, **_k: None).state,
    ]
    assert states == ["ran", "done"]
    assert [verl["trainer"]["total_training_steps"] for verl in trained] == [2]
    assert given["overrides"] == {"verl": {"trainer": {"save_freq": 1}}}
