"""SFT recipes: overlays, their bases, what the paper's tables say, and what is refused."""

from pathlib import Path

import pytest
import yaml

from star_rl.errors import StarError
from star_rl.integrations.swift.recipe import compose, layered
from star_rl.layers import RECIPES

SIZES = ["0.6b", "1.7b", "4b", "8b", "14b", "32b"]
SHIPPED = [f"sft/{file.stem}" for file in sorted((RECIPES / "sft").glob("*.yaml"))]
LISTS = [
    ["sft/tiny_cpu"],
    ["sft/tiny_cpu", "sft/zero2_cpu"],
    ["sft/table4"],
    ["sft/table4", "sft/section41"],
    ["sft/table4", "sft/lora"],
    ["sft/table4", "sft/gpu1", "sft/lora"],
    ["sft/table4", "sft/zero3_offload", "sft/qwen3-32b"],
    *[["sft/table4", f"sft/qwen3-{size}"] for size in SIZES],
]


def test_every_recipe_file_is_in_a_tested_list():
    assert set(SHIPPED) == {name for recipe in LISTS for name in recipe}


@pytest.mark.parametrize("recipe", LISTS, ids="+".join)
def test_recipes_compose(recipe, tmp_path):
    config = compose(recipe, data=Path("d.parquet"), out=tmp_path, model=None if "sft/table4" in recipe else tmp_path)
    assert config["dataset"] == ["d.parquet"]
    assert config["template"] == "star"
    assert all(isinstance(v, str) for v in config["ENV"].values())
    assert yaml.safe_load(yaml.safe_dump(config)) == config
    rates = {"sft/section41": 2e-5, "sft/lora": 1e-4, "sft/zero2_cpu": 3e-3, "sft/tiny_cpu": 1.6e-2}
    assert config["learning_rate"] == next((rate for name, rate in rates.items() if name in recipe), 1e-5)


def test_the_family_is_that_of_a_model_s_folder_and_a_recipe_s_own_wins(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    paths = {"data": Path("d"), "out": tmp_path}
    assert compose([{}], **paths, model=tmp_path)["model_type"] == "llama"
    assert compose([{"model_type": "yi"}], **paths, model=tmp_path)["model_type"] == "yi"
    assert compose([{}], **paths, model="Qwen/Qwen3-8B")["model_type"] == "qwen3"


def test_global_batches_are_those_of_the_paper(tmp_path):
    for recipe, rows in (
        (["sft/table4"], 64),
        (["sft/table4", "sft/section41"], 16),
        (["sft/table4", "sft/gpu1"], 64),
        (["sft/table4", "sft/zero3_offload"], 64),
    ):
        c = compose(recipe, data=Path("d"), out=tmp_path)
        gpus = int(c["ENV"]["NPROC_PER_NODE"])
        assert gpus * c["per_device_train_batch_size"] * c["gradient_accumulation_steps"] == rows


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ("absent", "there is no recipe absent"),
        ({"dataset": ["x"]}, "'dataset'"),
        ({"model": "/no/such/folder"}, "no model folder /no/such/folder"),
        ({}, "no model"),
    ],
)
def test_bad_recipes(recipe, named, tmp_path):
    with pytest.raises(StarError, match=named):
        compose([recipe], data=Path("d"), out=tmp_path)


def test_bad_recipe_files(tmp_path):
    for text, named in (("a: [", "not valid YAML"), ("- 1", "not a mapping"), ("just text", "not a mapping")):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(StarError, match=named):
            layered([tmp_path / "r.yaml"])
    (tmp_path / "r.yaml").write_text("learning_rate: 1e-5\n")
    assert layered([tmp_path / "r.yaml"]) == {"learning_rate": 1e-5}


def test_null_removes_a_key_and_env_is_merged(tmp_path):
    config = compose(
        [{"a": 1, "ENV": {"X": 1, "Y": 2, "Z": 4}}, {"a": None, "ENV": {"X": 3, "Z": None, "NPROC_PER_NODE": None}}],
        data=Path("d"),
        out=tmp_path,
        model=tmp_path,
    )
    assert "a" not in config and "Z" not in config["ENV"]
    assert (config["ENV"]["X"], config["ENV"]["Y"]) == ("3", "2")


@pytest.mark.parametrize("name", SHIPPED)
def test_an_overlay_taken_alone_is_whole(name, tmp_path):
    """Through its base: precision, length, batch and what the paper's table sets are there whatever it changes."""
    config = compose([name], data=Path("d"), out=tmp_path, model=tmp_path)
    assert "base" not in config
    assert {"max_length", "per_device_train_batch_size", "learning_rate", "torch_dtype", "warmup_ratio"} <= set(config)
    if not name.endswith("_cpu"):
        assert (config["bf16"], config["max_length"], "deepspeed" in config) == (True, 16384, True)


def test_overlays_behind_the_first_lose_their_base(tmp_path):
    def of(*names):
        return compose(list(names), data=Path("d"), out=tmp_path, model=tmp_path)

    assert of("sft/gpu1", "sft/lora")["gradient_accumulation_steps"] == 64  # table 4 is not laid over gpu1 again
    assert of("sft/tiny_cpu", "sft/lora")["max_length"] == 1024
    assert of("sft/lora")["max_length"] == 16384
    assert of("sft/section41") == of("sft/table4", "sft/section41")


def test_a_base_that_is_absent_or_its_own_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    with pytest.raises(StarError, match=r"names the base b\.yaml, which does not exist"):
        layered([tmp_path / "a.yaml"])
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(StarError, match="its own base"):
        layered([tmp_path / "a.yaml"])


def test_every_run_shows_such_losses_and_notices_a_rank_that_hangs():
    config = compose(["sft/tiny_cpu"], data=Path("d"), out=Path("o"), model="Qwen/Qwen3-8B")
    assert (config["logging_nan_inf_filter"], config["ddp_timeout"], config["save_steps"]) == (False, 1800, 100)
    assert compose(["sft/table4"], data=Path("d"), out=Path("o"))["save_steps"] == 25
