"""Overlays as a chain takes them: every one that ships, alone and in a list, as far as the engines' own arguments."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from star_rl.errors import StarError
from star_rl.integrations.swift.recipe import BASE, OFFLINE, arguments, compose
from star_rl.integrations.verl.overrides import overrides_of
from star_rl.integrations.verl.recipe import Paths, verl_tree
from star_rl.integrations.verl.recipe import compose as verl_compose
from star_rl.pipeline import chain
from star_rl.pipeline.overlays import (
    grpo_recipe,
    grpo_sources,
    reward_code,
    sft_layers,
    sft_processes,
    sft_sources,
    with_code_in,
)
from star_rl.pipeline.recipe import load
from star_rl.pipeline.stage import key_of
from star_rl.plan import plan_recipe

SFT = sorted(path.stem for path in Path("recipes/sft").glob("*.yaml"))


def through_a_chain(names, model="Qwen/Qwen3-8B", chain="recipes/amazon.yaml"):
    listed = f"[{', '.join(f'recipes/sft/{name}.yaml' for name in names)}]" if len(names) > 1 else None
    recipe = load(chain, [f"sft.recipe={listed or f'recipes/sft/{names[0]}.yaml'}"])
    return compose(sft_layers(asdict(recipe.sft)), data=Path("d"), out=Path("out"), model=model)


def test_an_overlay_of_table_4_is_reached_by_a_chain():
    config = through_a_chain(["section41"])
    assert (config["learning_rate"], config["num_train_epochs"]) == (2e-5, 3)
    assert (config["bf16"], config["deepspeed"], config["max_length"]) == (True, "zero2", 16384)


def test_several_overlays_are_laid_over_each_other():
    config = through_a_chain(["gpu1", "lora"])
    assert (config["ENV"]["NPROC_PER_NODE"], config["tuner_type"], config["learning_rate"]) == ("1", "lora", 1e-4)
    assert config["gradient_accumulation_steps"] == 64


def test_the_seed_of_training_reaches_ms_swift_and_an_override_wins():
    section = asdict(load("recipes/amazon.yaml", ["sft.overrides.data_seed=3"]).sft)
    made = compose(sft_layers(section, 8), data=Path("d"), out=Path("out"), model="Qwen/Qwen3-8B")
    assert (made["seed"], made["data_seed"]) == (8, 3)


@pytest.mark.engine
def test_the_seed_of_training_reaches_verl_and_an_override_wins():
    config = sections(grpo={"overrides": {"verl": {"actor_rollout_ref": {"rollout": {"seed": 3}}}}})
    paths = Paths(Path("run"), Path("model"), Path("train.parquet"), Path("store"))
    made = verl_compose(overrides_of(verl_tree(grpo_recipe(config, 8), paths, "test")))
    policy = made.actor_rollout_ref
    assert (made.data.seed, policy.actor.data_loader_seed, policy.rollout.seed) == (8, 8, 3)
    assert grpo_recipe(config).verl["data"]["seed"] == 1  # the overlay's


@pytest.mark.parametrize("value", ["{a: 1}", "[]", "[1]", "7"])
def test_a_recipe_that_is_no_name_is_refused(value):
    with pytest.raises(StarError, match=r"sft\.recipe=.* (names no overlay|is not valid)"):
        load("recipes/amazon.yaml", [f"sft.recipe={value}"])


def test_an_overlay_that_is_absent_is_named():
    with pytest.raises(StarError, match=r"no recipe recipes/sft/lra\.yaml - give a file, or one of grpo/lora, sft"):
        through_a_chain(["table4", "lra"])


def sections(**changes):
    options = asdict(load("recipes/quickstart.yaml"))
    for name, values in changes.items():
        options[name] |= values
    return options


def test_an_edited_overlay_is_another_key_and_its_comments_are_not(tmp_path):
    for kind, of in (("sft", sft_sources), ("grpo", grpo_sources)):
        base, file = tmp_path / f"{kind}-base.yaml", tmp_path / f"{kind}.yaml"
        text = "learning_rate: 1.0e-4\n" if kind == "sft" else "verl: {data: {train_batch_size: 16}}\n"
        base.write_text(text)
        file.write_text(f"base: {base.name}\n")
        config = sections(**{kind: {"recipe": str(file)}})
        before = of(config)
        base.write_text("# a remark\n" + text)
        assert of(config) == before
        base.write_text(text.replace("1.0e-4", "2.0e-4").replace("16", "32"))
        assert of(config) != before


@pytest.mark.parametrize(
    "kind, base, knob, other",
    [
        ("sft", {}, {"ENV": {"A": "b"}, "save_steps": 7, "dataloader_num_workers": 1}, {"learning_rate": 1.0e-3}),
        ("sft", {}, {"padding_free": True, "attn_impl": "flash_attn"}, {"dataloader_drop_last": True}),
        (
            "sft",
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
            {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
            {"per_device_train_batch_size": 1},
        ),
        ("sft", {}, {"report_to": ["wandb"]}, {"ENV": {"NPROC_PER_NODE": "2"}}),
        (
            "grpo",
            {},
            {
                "ray": {"address": "auto"},
                "env": {"A": "b"},
                "verl": {
                    "actor_rollout_ref": {
                        "actor": {"ppo_max_token_len_per_gpu": 9, "fsdp_config": {"param_offload": True}},
                        "rollout": {"gpu_memory_utilization": 0.3, "max_num_seqs": 5, "tensor_model_parallel_size": 2},
                    },
                    "trainer": {"save_freq": 3, "+max_actor_ckpt_to_keep": 1},
                },
            },
            {"verl": {"actor_rollout_ref": {"actor": {"optim": {"lr": 1.0e-3}}}}},
        ),
    ],
)
def test_knobs_of_memory_and_speed_are_in_no_key(tmp_path, kind, base, knob, other):
    """Not as overrides and not in an overlay, whose name says nothing either."""
    stage = next(stage for stage in chain.STAGES if stage.name == kind)

    def key(overrides, overlaid=None, **more):
        section = {"overrides": overrides, **more}
        if overlaid is not None:
            shipped = "sft/tiny_cpu.yaml" if kind == "sft" else "grpo/tiny.yaml"
            file = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
            file.write_text(json.dumps({"base": str(Path("recipes", shipped).resolve()), **overlaid}))
            section["recipe"] = str(file)
        return key_of(stage, {name: sections(**{kind: section})[name] for name in stage.config}, 1, {})

    assert key(base) == key({**base, **knob}) == key({**base, **knob}, keep_checkpoints=True)
    assert key(base, {}) == key(base, knob if not base else {})
    assert key(base) != key({**base, **other})
    assert key(base, {}) != key(base if not base else {}, other)


def test_an_edited_reward_is_another_key(tmp_path, monkeypatch):
    reward = tmp_path / "mine.py"
    reward.write_text("def compute_score(): ...\n")
    config = sections(grpo={"reward": str(reward)})
    before = grpo_sources(config)
    reward.write_text("def compute_score(): return 1\n")
    assert grpo_sources(config) != before
    assert {"star_rl.rewards.star", "star_rl.rewards.keys"} <= set(reward_code("star"))
    package = tmp_path / "mypackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "terms.py").write_text("WEIGHT = 1\n")
    (package / "score.py").write_text("import os\nfrom mypackage import terms\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = reward_code("pkg://mypackage.score")
    assert set(before) == {"mypackage", "mypackage.score", "mypackage.terms"}
    (package / "terms.py").write_text("WEIGHT = 2\n")
    assert reward_code("pkg://mypackage.score") != before
    with pytest.raises(StarError, match="names no module"):
        reward_code("pkg://no_such_package.score")


def test_a_reward_s_file_goes_where_every_node_finds_it(tmp_path):
    file = tmp_path / "here/mine.py"
    file.parent.mkdir()
    file.write_text("def score(): ...\n")
    joined = {"reward": f"{file}:score", "overrides": {"ray": {"address": "auto"}}}
    recipe = with_code_in(tmp_path, grpo_recipe(sections(grpo=joined)))
    assert recipe.reward == f"{tmp_path / 'reward.py'}:score"
    assert (tmp_path / "reward.py").read_text() == file.read_text()
    alone = grpo_recipe(sections(grpo={"reward": f"{file}:score"}))
    assert with_code_in(tmp_path, alone).reward == f"{file}:score"
    package = grpo_recipe(sections(grpo={"overrides": joined["overrides"]}))
    assert with_code_in(tmp_path, package).reward == "pkg://star_rl.rewards.star:compute_score"


def test_tools_and_environment_reach_grpo_and_every_node(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("class Talk: ...\n")
    own = {"tools": {"own": [f"{file}:Search", "mcp:python server.py"]}, "loop": {"environment": f"{file}:Talk"}}
    alone = grpo_recipe(sections(**own))
    assert (alone.policy.own, alone.policy.environment) == (tuple(own["tools"]["own"]), f"{file}:Talk")
    assert with_code_in(tmp_path, alone) is alone
    there = with_code_in(
        tmp_path / "run", grpo_recipe(sections(**own, grpo={"overrides": {"ray": {"address": "auto"}}}))
    )
    assert there.policy.own == (f"{tmp_path}/run/tool0.py:Search", "mcp:python server.py")
    assert there.policy.environment == f"{tmp_path}/run/environment.py:Talk"
    assert (tmp_path / "run/environment.py").read_text() == file.read_text()
    before = grpo_sources(sections(**own))
    file.write_text("class Talk: pass\n")
    assert grpo_sources(sections(**own)) != before


def test_a_reward_that_the_chain_would_overrule_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("reward: ndcg\n")
    for grpo in ({"recipe": str(file)}, {"overrides": {"reward": "ndcg"}}):
        with pytest.raises(StarError, match=r"says reward=ndcg, the chain grpo.reward=star - name a chain's reward"):
            grpo_recipe(sections(grpo=grpo))
    assert (
        grpo_recipe(sections(grpo={"recipe": str(file), "reward": "ndcg"})).reward
        == "pkg://star_rl.rewards.ndcg:compute_score"
    )


def test_processes_of_sft_are_what_its_overlays_say():
    table4 = {"recipe": "recipes/sft/table4.yaml", "overrides": {}}
    assert sft_processes(table4) == 8
    assert sft_processes({**table4, "recipe": ["recipes/sft/table4.yaml", "recipes/sft/gpu1.yaml"]}) == 1
    assert sft_processes({**table4, "overrides": {"ENV": {"NPROC_PER_NODE": None}}}) == 1
    assert sft_processes({"recipe": "recipes/sft/tiny_cpu.yaml", "overrides": {"ENV": None}}) == 1


def test_the_keys_of_the_chain_hold_them():
    by_name = {stage.name: stage for stage in chain.STAGES}
    for name in ("sft", "grpo"):
        config = {section: sections()[section] for section in by_name[name].config}
        assert key_of(by_name[name], config, 1, {})["sources"]["overlay"]
    assert "sources" not in key_of(by_name["tasks"], {}, 1, {})


@pytest.mark.engine
def test_a_plan_takes_any_of_them():
    overrides = ["sft.recipe=[recipes/sft/gpu1.yaml, recipes/sft/lora.yaml]"]
    (sft, _) = plan_recipe("recipes/amazon.yaml", overrides, model="Qwen/Qwen3-1.7B")
    assert "LoRA of rank 32, 1 GPU(s)" in sft.title
    (alone,) = plan_recipe("recipes/sft/zero3_offload.yaml", model="Qwen/Qwen3-32B")
    assert "ZeRO-3 with offload" in alone.title and not alone.problems


@pytest.mark.engine
def test_ms_swift_takes_every_overlay_of_a_chain(tmp_path):
    """SftArguments of each; the weights are tiny and the device is the CPU."""
    from star_rl.student.model import StudentShape, make_student
    from star_rl.student.tokenizer import train_tokenizer

    train_tokenizer(["Rank 20, 21 and 22."] * 20, [str(i) for i in range(20, 40)], tmp_path)
    make_student(tmp_path, tmp_path, StudentShape(hidden_size=32, intermediate_size=64, head_dim=16, max_length=512))
    data = tmp_path / "sft.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    argvs = {}
    for name in SFT:
        # Those of a CPU name no model and go with the quickstart; the others are taken as they are on GPUs.
        chain = "recipes/quickstart.yaml" if name.endswith("_cpu") else "recipes/amazon.yaml"
        config = through_a_chain([name], tmp_path, chain)
        config |= {"use_cpu": True, "dataset": [str(data)], "output_dir": str(tmp_path / "out")}
        config.pop("deepspeed", None)  # it needs its launcher
        argvs[name] = arguments(config)
    (tmp_path / "argv.json").write_text(json.dumps(argvs))
    script = f"""
import json
from swift.arguments import SftArguments
from swift.trainers.arguments import TrainArgumentsMixin
from swift.utils import parse_args
TrainArgumentsMixin._init_liger = lambda self: None  # it looks for the kernels, which the extra `gpu` alone installs
for name, argv in json.load(open({str(tmp_path / "argv.json")!r})).items():
    args, rest = parse_args(SftArguments, argv)
    assert not rest, (name, rest)
    print("RESULT", json.dumps([name, args.max_length, args.learning_rate, args.gradient_accumulation_steps]))
"""
    env = {**os.environ, **BASE["ENV"], **OFFLINE, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line.split(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("RESULT")]
    seen = {name: tuple(rest) for name, *rest in rows}
    assert sorted(seen) == SFT
    assert seen["section41"] == (16384, 2e-5, 1) and seen["lora"] == (16384, 1e-4, 4) and seen["gpu1"][2] == 64
    assert {row[0] for name, row in seen.items() if name.endswith("_cpu")} == {1024}
