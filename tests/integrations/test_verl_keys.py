"""verl's whole configuration, key by key: honoured, forwarded or refused, and never ignored in silence."""

import fnmatch
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf, open_dict

from star_rl.errors import StarError
from star_rl.integrations.verl import keys
from star_rl.integrations.verl.config_checks import problems
from star_rl.integrations.verl.overrides import leaves, overrides_of
from star_rl.integrations.verl.recipe import Paths, compose, load_recipe, verl_tree

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]
RUN = Path("run")
PATHS = Paths(RUN, RUN / "model", RUN / "train", RUN / "store")
ENGINES = ("dp", "megatron")
#: Parts of verl's package that a synchronous V1 training does not run, and where its keys are declared.
OTHER = (
    "workers/config/", "trainer/config/", "experimental/fully_async_policy/", "experimental/one_step_off_policy/",
    "experimental/separation/", "trainer/main_ppo_v0.py", "trainer/sft_trainer", "trainer/main_generation",
    "trainer/main_eval", "experimental/agent_loop/tool_agent_loop.py", "experimental/agent_loop/single_turn",
)  # fmt: skip
#: Sections that verl hands over whole, to Megatron, Ray, TransferQueue or an engine; and keys that only verl's
#: dataclasses read, as another name for a newer one.
WHOLE = (
    "*._target_", "*.turbo_config.*", "*.lora.*", "*.engine_kwargs.*", "*override_*", "transfer_queue.*", "critic.*",
    "ray_kwargs.*", "*profiler*", "distillation.*inference.*", "*.muon_*", "*.optim.*", "*.disaggregation.*",
    "*.megatron.*", "*.mbridge_config", "model_engine", "actor_rollout_ref.rollout.mode",
)  # fmt: skip


@pytest.fixture(scope="module")
def configurations():
    return {engine: compose([f"model_engine={engine}"]) for engine in ENGINES}


def values(config):
    return {name: value for name, value, _ in leaves(OmegaConf.to_container(config))}


def words():
    """Return every name in the Python sources of verl that a synchronous V1 training may run."""
    package = Path(find_spec("verl").origin).parent
    found = set()
    for file in package.rglob("*.py"):
        if not file.relative_to(package).as_posix().startswith(OTHER):
            found.update(re.findall(r"\w+", file.read_text(errors="ignore")))
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_every_key_of_verl_has_a_rule(configurations, engine):
    without = [name for name in values(configurations[engine]) if not keys.rules_of(name)]
    assert without == [], "a newer verl has keys without a rule"


@pytest.mark.parametrize("engine", ENGINES)
def test_an_honoured_key_is_read_by_verl(configurations, engine):
    read = words()
    unread = [
        name
        for name in values(configurations[engine])
        if keys.rules_of(name)[-1].status == "honoured"
        and not any(fnmatch.fnmatchcase(name, whole) for whole in WHOLE)
        and name.rpartition(".")[2] not in read
    ]
    assert unread == []


def test_a_key_that_nothing_reads_has_not_come_to_life(configurations):
    dead = [name for name in values(configurations["dp"]) if "nothing in verl 0.9.1" in keys.rules_of(name)[-1].reason]
    assert dead and not {name.rpartition(".")[2] for name in dead} & words()


@pytest.mark.parametrize("engine", ENGINES)
def test_every_refused_key_that_is_changed_is_named_with_the_reason_and_the_remedy(engine):
    recipe = load_recipe("grpo/tiny" if engine == "dp" else "grpo/megatron-32b")
    config = compose(overrides_of(verl_tree(recipe, PATHS, "x")))
    assert problems(config) == []
    changed = {}
    for name in values(config):
        for rule in keys.rules_of(name):
            if rule.status == "refused" and not rule.by_run and not name.endswith("_target_"):
                changed[name] = (rule.values or ("changed",))[0]
                break
    with open_dict(config):
        for name, value in changed.items():
            OmegaConf.update(config, name, value)
    found = problems(config)
    said = {re.match(r"verl\.(\S+)=", entry.what)[1]: entry for entry in found}
    assert said.keys() == changed.keys() and len(said) > 100
    for name, entry in said.items():
        rule = keys.refusal(name, changed[name])
        assert (
            entry.what == f"verl.{name}={changed[name]} is refused: {rule.reason}" and entry.remedy == rule.remedy != ""
        )


def refused(verl):
    config = compose(overrides_of(verl_tree(load_recipe("grpo/tiny", {"verl": verl}), PATHS, "x")))
    return [entry.what for entry in problems(config)]


@pytest.mark.parametrize(
    ("says", "verl"),
    [
        ("algorithm.adv_estimator=remax is refused: it needs a greedy", {"algorithm": {"adv_estimator": "remax"}}),
        ("algorithm.adv_estimator=gdpo is refused", {"algorithm": {"adv_estimator": "gdpo"}}),
        ("trainer_mode=colocate_async is refused", {"trainer": {"v1": {"trainer_mode": "colocate_async"}}}),
        ("reward_manager.name=dapo is refused", {"reward": {"reward_manager": {"name": "dapo"}}}),
        ("overlong_buffer_cfg=1 is refused", {"reward": {"+reward_kwargs": {"overlong_buffer_cfg": 1}}}),
        ("actor.clip_ratio=0.1 is refused", {"actor_rollout_ref": {"actor": {"clip_ratio": 0.1}}}),
        (
            "multi_turn.max_user_turns=3",
            {"actor_rollout_ref": {"rollout": {"multi_turn": {"max_user_turns": 3}}}},
        ),
        ("enable_thinking=False is refused", {"data": {"apply_chat_template_kwargs": {"+enable_thinking": False}}}),
        ("reward_model.reward_manager=dapo", {"reward_model": {"reward_manager": "dapo"}}),
    ],
)
def test_what_users_of_verl_switch_on_first(says, verl):
    (what,) = refused(verl)
    assert says in what


def test_a_default_that_is_written_down_is_not_refused():
    assert (
        refused({"trainer": {"balance_batch": True, "v1": {"trainer_mode": "sync"}}, "reward": {"num_workers": 8}})
        == []
    )
    assert refused({"algorithm": {"adv_estimator": "rloo"}, "reward": {"num_workers": 0}}) == []


def test_what_the_run_sets_is_refused_with_what_to_set_instead():
    own = [rule for rule in keys.RULES if rule.by_run]
    assert len(own) >= 6 and all(rule.status == "refused" and rule.remedy for rule in own)
    for rule in own:
        for pattern in rule.patterns.split():
            tree = "mine"
            for part in reversed(pattern.replace("*", "num_cpus").split(".")):
                tree = {part: tree}
            with pytest.raises(StarError, match="=mine has no effect: the run sets it") as error:
                verl_tree(load_recipe({"verl": tree}), PATHS, "x")
            assert error.value.remedy == rule.remedy


def test_what_is_forwarded_arrives():
    from verl.trainer.ppo.reward import get_custom_reward_fn

    assert sum(rule.status == "forwarded" for rule in keys.RULES) == 2
    filters = {"enable": True, "metric": "score", "max_num_gen_batches": 7}
    given = {"reward": "tool_cost", "verl": {"algorithm": {"filter_groups": filters}}}
    given["verl"]["reward"] = {"custom_reward_function": {"+reward_kwargs": {"cost": 0.5}}}
    config = compose(overrides_of(verl_tree(load_recipe("grpo/tiny", given), PATHS, "x")))
    assert config.trainer.v1.sampler.sampler_kwargs.filter_groups.max_num_gen_batches == 7
    reward = get_custom_reward_fn(config)
    info = {"rollout": {"tool_calls": 1.0}}
    scores = reward(data_source="x", solution_str="", ground_truth="1", extra_info=info)
    assert scores["score"] == -1.5


def test_the_page_is_up_to_date():
    assert (ROOT / "docs/verl-keys.md").read_text() == keys.page()
