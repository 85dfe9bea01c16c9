"""Exported students: whole, described, and never over somebody else's folder."""

import json

import pytest

from star_rl import cli
from star_rl.errors import StarError
from star_rl.files import read_json
from star_rl.pipeline.stage import digest
from star_rl.training.export import card, export


@pytest.fixture
def run(tmp_path):
    """A finished run, with files as the stages leave them."""
    folder = tmp_path / "runs/demo"
    for stage in ("tables", "tasks", "sft_set", "sft", "grpo_set", "grpo", "evaluate", "evidence/store"):
        (folder / stage).mkdir(parents=True)
    (folder / "recipe.yaml").write_text(
        "name: demo\nseed: 7\nsource: {name: movielens}\nstudent: {path: Qwen/Qwen3-8B}\n"
        "evaluate: {temperature: 0.7, top_p: 0.95}\n"
    )
    figures = {
        "tasks": {"visible_fingerprint": "f" * 12},
        "sft": {"rows": 100, "steps": 20, "loss": 0.5},
        "grpo_set": {"total": 10, "taken": {"easy": 3, "medium": 4, "hard": 3}},
        "grpo": {"steps": 5, "reward": "star", "first5": 0.1, "last5": 0.9},
    }
    for stage, found in figures.items():
        key = {"stage": stage, "versions": {"verl": "0.9.1"}}
        manifest = {"figures": found, "finished": "2026-01-01T00:00:00Z", "key": key, "outputs": {}}
        (folder / stage / "manifest.json").write_text(json.dumps(manifest))
    inputs = {stage: digest(read_json(folder / stage / "manifest.json")) for stage in ("sft", "grpo")}
    (folder / "evaluate/manifest.json").write_text(json.dumps({"key": {"inputs": inputs}, "figures": {}}))
    (folder / "evidence/store/manifest.json").write_text(json.dumps({"fingerprint": "e" * 12}))
    method = {"hr1": 40.0, "hr3": 60.0, "hr5": 80.0, "hr_avg": 60.0, "hr_avg_low": 55.0, "hr_avg_high": 65.0}
    rows = [
        {"name": name, "format_rate": rate, **method} for name, rate in (("random", None), ("sft", 0.9), ("star", 1))
    ]
    (folder / "evaluate/metrics.json").write_text(json.dumps({"n": 400, "methods": rows, "pairs": []}))
    for stage in ("sft", "grpo"):
        final = folder / stage / "final"
        final.mkdir()
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
            (final / name).write_text("{}")
        (final / "generation_config.json").write_text('{"eos_token_id": [1], "temperature": 1.0}')
    return folder


def test_the_folder_holds_weights_card_and_decoding(run, tmp_path, capsys):
    out = tmp_path / "exported"
    assert cli.main(["export", str(run), "--out", str(out)]) == 0
    assert f"vllm serve {out}" in capsys.readouterr().out
    decoding = json.loads((out / "generation_config.json").read_text())
    assert decoding == {"eos_token_id": [1], "temperature": 0.7, "top_p": 0.95, "do_sample": True}
    about = json.loads((out / "star_rl.json").read_text())
    assert about["fingerprints"] == {"visible interactions": "f" * 12, "evidence store": "e" * 12}
    text = (out / "README.md").read_text()
    for part in (
        'base_model: "Qwen/Qwen3-8B"', "| reward | `star` |", "5 steps on total 10, taken (easy 3, medium 4, hard 3)",
        "| **star** (this model) | 40.0 | 60.0 | 80.0 | 60.0 (55.0 to 65.0) | 100.0 |", "| random | 40.0",
        "400 held-out",
    ):  # fmt: skip
        assert part in text, part
    assert "synthetic" not in text


def test_an_earlier_export_is_replaced_and_nothing_else(run, tmp_path):
    out = tmp_path / "exported"
    export(run, out, "sft")
    assert json.loads((out / "star_rl.json").read_text())["grpo"] is None
    (out / "left.txt").write_text("")
    export(run, out)
    assert not (out / "left.txt").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("")
    with pytest.raises(StarError, match="is no earlier export"):
        export(run, other)
    assert (other / "mine.txt").exists()


def test_what_is_not_whole_is_not_exported(run, tmp_path):
    final = run / "grpo/final"
    (final / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(StarError, match=r"lacks weights: model-1\.safetensors"):
        export(run, tmp_path / "out")
    (final / "tokenizer.json").unlink()
    with pytest.raises(StarError, match=r"holds no tokenizer\.json"):
        export(run, tmp_path / "out")
    (run / "grpo/manifest.json").unlink()
    with pytest.raises(StarError, match="has not finished stage grpo"):
        export(run, tmp_path / "out")
    with pytest.raises(StarError, match="no run folder"):
        export(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_the_figures_of_an_earlier_checkpoint_are_no_figures_of_this_one(run, tmp_path, stage):
    assert "400 held-out" in (export(run, tmp_path / "out", stage) / "README.md").read_text()
    file = run / stage / "manifest.json"
    file.write_text(json.dumps({**read_json(file), "outputs": {"final/model.safetensors": {"bytes": 1}}}))
    card = (export(run, tmp_path / "out", stage) / "README.md").read_text()
    assert "This checkpoint was not evaluated." in card and "held-out" not in card


def test_a_run_without_evaluation_says_so_and_a_synthetic_one_claims_nothing(run, tmp_path):
    out = export(run, tmp_path / "out")
    about = json.loads((out / "star_rl.json").read_text())
    assert "was not evaluated" in card({**about, "evaluation": None})
    assert "no claim about recommendation" in card({**about, "source": "synthetic", "base_model": None})
