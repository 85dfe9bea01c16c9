"""Every recipe that ships: chains load, overlays exist, and verl and its dataclasses take the GRPO ones."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from star_rl.errors import StarError
from star_rl.integrations.verl.overrides import overrides_of
from star_rl.integrations.verl.recipe import Paths, cluster_overrides, compose, load_recipe, verl_tree
from star_rl.layers import recipe_path
from star_rl.pipeline.overlays import named, sft_layers
from star_rl.pipeline.recipe import load
from star_rl.teacher import summaries_of

CHAINS = sorted(Path("recipes").glob("*.yaml"))
ALGORITHMS = ("dapo", "drgrpo", "gspo", "cispo", "rloo", "reinforce_pp", "kl_cov", "tis", "opd", "lora")
GRPO = [path for path in sorted(Path("recipes/grpo").glob("*.yaml")) if path.stem not in ALGORITHMS]


@pytest.mark.parametrize("path", CHAINS, ids=lambda path: path.stem)
def test_a_chain_loads_and_its_overlays_exist(path):
    recipe = load(path)
    assert recipe.name == path.stem
    assert sft_layers(asdict(recipe.sft)) and all(recipe_path(name).is_file() for name in named(recipe.grpo.recipe))


def test_games_are_split_and_taught_as_sequences_are():
    games, sequences = (asdict(load(f"recipes/{name}.yaml")) for name in ("learn-games", "sequences"))
    games["evaluate"].pop("methods"), sequences["evaluate"].pop("methods")
    assert {**games, "name": ""} == {**sequences, "name": ""}


@pytest.mark.parametrize("name, total", [("amazon", 500), ("goodreads", 470), ("yelp", 486)])
def test_the_paper_s_sources_differ_in_their_domain_and_their_total(name, total):
    recipe = load(Path("recipes") / f"{name}.yaml")
    assert (recipe.source.name, recipe.source.options["domain"]) == ("agentrecbench", name)
    assert (recipe.grpo_set.total, recipe.student.path, recipe.tools.lens) == (total, "Qwen/Qwen3-8B", "text")


@pytest.mark.parametrize("path", CHAINS, ids=lambda path: path.stem)
def test_full_prompts_of_a_served_teacher_have_summaries_by_the_same_model(path):
    recipe = load(path, ["teacher.options.chat={endpoints: [http://h/v1], model: m}"])
    options = summaries_of(asdict(recipe))
    if recipe.memory.interactions:
        assert options == {"by": "none"} and recipe.sft_set.setting == "fast"
    elif recipe.teacher.backend == "llm":
        assert recipe.prompt.profile == "full" and options["by"] == "llm"
        assert options["chat"] == {"endpoints": ["http://h/v1"], "model": "m"}
        other = load(path, ["teacher.options.chat={endpoints: [http://h/v1]}", "summaries.chat.model=small"])
        assert summaries_of(asdict(other))["chat"] == {"endpoints": ["http://h/v1"], "model": "small"}
        assert summaries_of(asdict(load(path, ["teacher.backend=rules"])))["by"] == "rules"
    else:
        assert options == {"by": "none"}


@pytest.mark.parametrize("name", ["starec-ml1m", "starec-cds"])
def test_starec_s_recipes_train_both_modes_by_its_reward(name):
    from star_rl.pipeline.check import check_recipe

    recipe = load(f"recipes/{name}.yaml", ["source.root=.", "teacher.options.chat.endpoints=[http://h/v1]"])
    check_recipe(recipe, here=False)
    split = recipe.split.options
    assert (split["core"], split["max_history"], split["positive"]) == (10, 40, 4)
    assert split["test_users"] == split["train_users"] == 1000
    assert recipe.grpo.reward == "starec" and recipe.sample.reflections > 0 and recipe.memory.interactions > 0
    assert recipe.loop.environment == "star_rl.memory.follow_up:FollowUp"
    verl = recipe.grpo.overrides["verl"]
    assert verl["data"]["train_batch_size"] == 64


@pytest.mark.parametrize("path", CHAINS, ids=lambda path: path.stem)
def test_the_options_of_components_are_theirs(path):
    from star_rl.policy.engines import EngineOptions
    from star_rl.policy.loop import Budget
    from star_rl.scenarios import SplitOptions

    recipe = load(path)
    SplitOptions(**recipe.split.options)
    Budget(**recipe.loop.budget)
    EngineOptions(**recipe.engine.options)


def test_another_source_drops_the_options_of_the_one_before():
    assert load("recipes/quickstart.yaml").source.options
    assert load("recipes/movielens.yaml").source.options == {}
    assert load("recipes/quickstart.yaml", ["source=movielens"]).source.options == {}
    kept = load("recipes/quickstart.yaml", ["source.name=synthetic", "source.options.users=50"]).source.options
    assert kept["users"] == 50 and len(kept) > 1


def composed(path, overrides=None):
    recipe = load_recipe(path, overrides)
    folder = Path("run")
    paths = Paths(folder, folder / "model", folder / "train.parquet", folder / "store")
    return compose(overrides_of(verl_tree(recipe, paths, "test")))


@pytest.mark.engine
@pytest.mark.parametrize("path", GRPO, ids=lambda path: path.stem)
def test_verl_s_dataclasses_take_a_grpo_recipe(path, monkeypatch):
    from verl.utils.config import omega_conf_to_dataclass

    config = composed(path)
    part = config.actor_rollout_ref
    actor = omega_conf_to_dataclass(part.actor)
    rollout = omega_conf_to_dataclass(part.rollout)
    algorithm = omega_conf_to_dataclass(config.algorithm)
    assert algorithm.adv_estimator == "grpo" and rollout.n == 8 and rollout.top_p == 1
    assert rollout.agent.default_agent_loop == "star_agent"
    assert actor.optim.lr == part.actor.optim.lr
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    actor.validate(gpus, config.data.train_batch_size, part.model)
    assert gpus % rollout.tensor_model_parallel_size == 0
    assert config.data.train_batch_size % actor.ppo_mini_batch_size == 0


@pytest.mark.engine
@pytest.mark.parametrize("base", ["tiny", "table5"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_verl_s_dataclasses_take_an_algorithm_over_an_overlay(name, base):
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
    from verl.utils.config import omega_conf_to_dataclass

    from star_rl.integrations.verl.config_checks import problems

    teacher = {"distillation": {"teacher_models": {"teacher_model": {"model_path": "large"}}}}
    config = composed([f"grpo/{base}", f"grpo/{name}"], {"verl": teacher})
    assert problems(config) == []
    OmegaConf.resolve(config)  # as verl's TaskRunner does
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    algorithm, plain = omega_conf_to_dataclass(config.algorithm), composed(f"recipes/grpo/{base}.yaml")
    assert get_policy_loss_fn(actor.policy_loss.loss_mode) and get_adv_estimator_fn(algorithm.adv_estimator)
    assert config != plain and config.data == plain.data and config.actor_rollout_ref.rollout.n == 8
    assert actor.loss_scale_factor == (config.data.max_response_length if name == "drgrpo" else None)
    if name == "opd":
        (made,) = omega_conf_to_dataclass(config.distillation).teacher_models.values()
        assert (made.model_path, made.num_replicas) == ("large", 2)
    said = Path(f"recipes/grpo/{name}.yaml").read_text()
    assert f"grpo/{name}]" in said and "# When: " in said and "# Watch: " in said


@pytest.mark.engine
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name not in ("opd", "lora")])
def test_verl_s_advantages_and_loss_of_an_algorithm(name):
    """Two groups of four with verl's own functions: one has signal, in the other all samples score 2."""
    import torch
    from verl.protocol import DataProto
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories
    from verl.utils.config import omega_conf_to_dataclass

    config = composed(["grpo/tiny", f"grpo/{name}"])
    OmegaConf.resolve(config)
    rows, tokens = 8, 6
    mask = torch.ones(rows, tokens)
    mask[:, 2:4] = 0  # a tool's answer
    scores = torch.zeros(rows, tokens)
    scores[:, -1] = torch.tensor([2.0, 1.0, 1.0, -1.0] + [2.0] * 4)
    groups = np.array(["a"] * 4 + ["b"] * 4, dtype=object)
    data = DataProto.from_dict(
        {"response_mask": mask, "token_level_rewards": scores, "responses": mask.long()}, {"uid": groups}
    )
    made = compute_advantage_for_multi_trajectories(
        data,
        [f"{group}_{row % 4}_0" for row, group in enumerate(groups)],
        adv_estimator=config.algorithm.adv_estimator,
        gamma=config.algorithm.gamma,
        num_repeat=4,
        norm_adv_by_std_in_grpo=config.algorithm.norm_adv_by_std_in_grpo,
        config=config.algorithm,
    )
    advantages = made.batch["advantages"]
    best, spread, certain = advantages[0, 0], advantages[:4].std(), advantages[4:]
    assert best > 0 and spread > 0
    assert (certain.abs().max() > 0) == (name == "reinforce_pp"), "a group without signal teaches in REINFORCE++ alone"
    if name in ("drgrpo", "rloo"):
        assert best == pytest.approx({"drgrpo": 1.25, "rloo": 2 - 1 / 3}[name]), "nothing is divided by the deviation"

    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    old = torch.full((rows, tokens), -1.0)
    new = (old + 0.22).requires_grad_()  # every ratio is 1.25
    loss, _ = get_policy_loss_fn(actor.policy_loss.loss_mode)(
        old_log_prob=old,
        log_prob=new,
        advantages=advantages,
        response_mask=mask,
        loss_agg_mode=actor.loss_agg_mode,
        config=actor,
    )
    loss.backward()
    assert torch.isfinite(new.grad).all() and not new.grad[:, 2:4].any(), "a tool's answer is trained on"
    assert new.grad[3].any(), "a bad response whose ratio has grown is pushed back"
    assert bool(new.grad[0].any()) == (name not in ("drgrpo", "gspo", "rloo", "reinforce_pp", "tis")), "clipped"


@pytest.mark.engine
def test_table_5_is_the_paper_s():
    config = composed("recipes/grpo/table5.yaml")
    part = config.actor_rollout_ref
    assert (config.data.max_prompt_length, config.data.max_response_length) == (6000, 8192)
    assert (part.actor.optim.lr, part.actor.ppo_mini_batch_size) == (1e-6, 4)
    assert (part.actor.use_kl_loss, part.actor.kl_loss_coef) == (True, 0.001)
    assert (part.rollout.temperature, part.rollout.n, part.rollout.tensor_model_parallel_size) == (0.7, 8, 2)
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node, part.actor.strategy) == (2, 8, "fsdp2")
    assert part.rollout.enable_prefix_caching and part.rollout.enable_chunked_prefill
    assert part.rollout.max_model_len >= 6000 + 8192


@pytest.mark.engine
def test_a_recipe_over_another_keeps_what_it_does_not_name():
    eight, sixteen = load_recipe("recipes/grpo/gpu8.yaml"), load_recipe("recipes/grpo/table5.yaml")
    assert eight.verl["trainer"]["nnodes"] == 1 and sixteen.verl["trainer"]["nnodes"] == 2
    assert eight.verl["data"] == sixteen.verl["data"] and eight.device == "cuda"


def test_an_overlay_over_another_leaves_its_own_base_out():
    recipe = load_recipe(["grpo/gpu1", "grpo/tiny-refill"])
    assert recipe.device == "cuda" and recipe.verl["data"]["train_batch_size"] == 8
    assert recipe.verl["algorithm"]["filter_groups"]["enable"]
    with pytest.raises(StarError, match="there is no recipe grpo/dap"):
        load_recipe(["grpo/tiny", "grpo/dap"])


def test_a_missing_base_is_named(tmp_path):
    (tmp_path / "child.yaml").write_text("base: none.yaml\nverl: {}\n")
    with pytest.raises(StarError, match=r"child\.yaml names the base none\.yaml, which does not exist"):
        load_recipe(tmp_path / "child.yaml")
    (tmp_path / "broken.yaml").write_text("verl: [1,")
    with pytest.raises(StarError, match="not valid YAML"):
        load_recipe(tmp_path / "broken.yaml")


def test_the_environment_travels_to_a_cluster_and_nowhere_else():
    there = load_recipe({"ray": {"address": "auto"}})
    assert cluster_overrides(there, {"A": "x=1, 'y'"}) == ["+ray_kwargs.ray_init.runtime_env.env_vars.A='x=1, \\'y\\''"]
    assert cluster_overrides(load_recipe({}), {"A": "1"}) == []
