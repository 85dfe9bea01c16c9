"""Recipes: layers, Hydra's grammar, and what a user can get wrong."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from star_rl import integrations
from star_rl.errors import StarError
from star_rl.integrations import processes
from star_rl.integrations.verl import grpo
from star_rl.integrations.verl.checkpoints import last_checkpoint
from star_rl.integrations.verl.grpo import (
    GrpoResult,
    _death,
    _follow,
    _prepare,
    check,
    export,
    read_metrics,
    run_grpo,
)
from star_rl.integrations.verl.overrides import merge, overrides_of
from star_rl.integrations.verl.recipe import (
    Paths,
    agent_loops,
    choose_device,
    compose,
    load_recipe,
    ray_folder,
    verl_tree,
)
from tests.integrations.test_verl_checkpoints import checkpoint

ROOT = Path(__file__).parents[2]
GOOD = (
    "def compute_score(data_source, solution_str, ground_truth, extra_info):\n    return {'score': 1.0, 'acc': 0.0}\n"
)


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "store").mkdir()
    pq.write_table(pa.table({"prompt": list(range(40))}), tmp_path / "train.parquet")
    (tmp_path / "reward.py").write_text(GOOD)
    return Paths(tmp_path / "run", tmp_path / "model", tmp_path / "train.parquet", tmp_path / "store")


def tiny(paths, **more):
    return load_recipe(ROOT / "recipes/grpo/tiny.yaml", {"reward": str(paths.train.parent / "reward.py"), **more})


@pytest.mark.parametrize("file", sorted((ROOT / "recipes/grpo").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_is_accepted_by_verl(file, paths):
    config = compose(overrides_of(verl_tree(load_recipe(file), paths, "name")))
    assert config.actor_rollout_ref.rollout.agent.default_agent_loop == "star_agent"
    assert (config.actor_rollout_ref.rollout.top_p, config.actor_rollout_ref.rollout.top_k) == (1.0, -1)


@pytest.mark.parametrize(
    ("verl", "said"),
    [
        (
            {"actor_rollout_ref": {"model": {"path": "/models/other"}}},
            "model.path=/models/other has no effect.*sft.recipe",
        ),
        (
            {"reward": {"custom_reward_function": {"path": "mine.py"}}},
            "custom_reward_function.path=mine.py.*set grpo.reward",
        ),
        ({"trainer": {"rollout_data_dir": None}}, "trainer.rollout_data_dir=None has no effect.*set out and name"),
    ],
)
def test_what_the_run_sets_itself_is_not_set_in_vain(verl, said, paths):
    with pytest.raises(StarError, match="(?s)" + said):
        verl_tree(tiny(paths, verl=verl), paths, "name")
    same = {"actor_rollout_ref": {"model": {"path": str(paths.model)}}}
    verl_tree(tiny(paths, verl=same), paths, "name")


def test_the_run_s_paths_and_the_cpu_s_values_reach_verl(paths):
    config = compose(check(tiny(paths, device="cpu"), paths))
    assert config.trainer.device == "cpu" and config.ray_kwargs.ray_init.num_gpus == 1
    assert config.actor_rollout_ref.model.path == str(paths.model)
    assert config.reward.custom_reward_function.path == str(paths.train.parent / "reward.py")
    assert config.trainer.v1.sampler.custom_sampler.name == "StrictReplayBuffer"


def test_on_a_gpu_machine_nothing_of_the_cpu_is_left(paths):
    config = compose(overrides_of(verl_tree(tiny(paths, device="cuda"), paths, "name")))
    assert config.trainer.device == "cuda" and config.actor_rollout_ref.rollout.enforce_eager is False
    assert "num_gpus" not in config.ray_kwargs.ray_init


@pytest.mark.parametrize(("installed", "device"), [("0.28.0", "cpu"), ("absent", "cuda")])
def test_a_laptop_s_gpu_is_left_alone_by_engines_of_a_cpu(paths, monkeypatch, installed, device):
    with monkeypatch.context() as patch:
        patch.setattr(integrations, "versions", lambda names: dict.fromkeys(names, installed))
        patch.setattr(Path, "exists", lambda self: str(self) == "/dev/nvidia0")
        assert choose_device("auto") == device and choose_device("cuda") == "cuda"
        tree = verl_tree(load_recipe(ROOT / "recipes/grpo/tiny.yaml"), paths, "name")
    config = compose(overrides_of(tree))
    assert (config.trainer.device, config.trainer.n_gpus_per_node) == (device, 1)


def test_group_filtering_reaches_the_sampler(paths):
    config = compose(overrides_of(verl_tree(load_recipe(ROOT / "recipes/grpo/tiny-refill.yaml"), paths, "name")))
    OmegaConf.resolve(config)  # as verl's TaskRunner does
    given = config.trainer.v1.sampler.sampler_kwargs
    assert given.filter_groups == config.algorithm.filter_groups and given.max_steps_without_signal == 3
    assert given.filter_groups.enable and given.filter_groups.max_num_gen_batches == 5


def test_a_running_cluster_is_joined_not_started(paths):
    config = compose(overrides_of(verl_tree(tiny(paths, ray={"address": "auto"}), paths, "name")))
    assert config.ray_kwargs.ray_init.address == "auto" and "_temp_dir" not in config.ray_kwargs.ray_init


def test_the_reward_is_one_line(paths):
    tree = verl_tree(load_recipe({"reward": "pkg://star_rl.rewards.star:other"}), paths, "name")
    assert tree["reward"]["custom_reward_function"] == {"path": "pkg://star_rl.rewards.star", "name": "other"}


def test_the_policy_s_options_reach_the_agent_loop(paths):
    paths = dataclasses.replace(paths, scenario="classic", fingerprint="data-1")
    (loop,) = agent_loops(tiny(paths), paths)
    assert (loop["scenario"], loop["fingerprint"]) == ("classic", "data-1")
    assert loop["name"] == "star_agent" and loop["lens"] == "candidates" and loop["store"] == str(paths.store)


def test_overrides_follow_hydra_s_grammar():
    tree = {"a": {"+b": {"c": "it's"}, "d": [1, None]}, "e": {}, "f": True, "g": 4e-4}
    assert overrides_of(tree) == ["+a.b.c='it\\'s'", "a.d=[1,null]", "e={}", "f=true", "g=0.0004"]


def test_later_layers_win_and_an_added_key_is_the_same_key():
    assert merge({"a": {"+x": 1, "y": 1}}, {"a": {"x": 2}}) == {"a": {"+x": 2, "y": 1}}


def test_ray_s_folder_is_short_and_its_own(tmp_path):
    one, two = ray_folder(tmp_path / ("long" * 40)), ray_folder(tmp_path)
    assert one != two and len(str(one)) < 40


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"polcy": {}}, "polcy"),
        ({"policy": {"lense": "text"}}, "lense"),
        ({"policy": {"lens": "glasses"}}, "glasses"),
        ({"policy": {"budget": {"turns": 0}}}, "turns"),
        ({"policy": {"budget": {"steps": 1}}}, "steps"),
    ],
)
def test_a_mistyped_recipe_is_named(source, message):
    with pytest.raises(StarError, match=message):
        load_recipe(source)


def test_a_key_verl_does_not_have_is_refused(paths):
    with pytest.raises(StarError, match="trainr"):
        check(tiny(paths, verl={"trainr": {"x": 1}}), paths)


def test_what_does_not_fit_is_said_before_anything_starts(paths):
    with pytest.raises(StarError, match="40 rows"):
        check(tiny(paths, verl={"data": {"train_batch_size": 64}}), paths)
    with pytest.raises(StarError, match=r"rollout\.n"):
        check(tiny(paths, verl={"actor_rollout_ref": {"rollout": {"n": 1}}}), paths)
    with pytest.raises(StarError, match="evidence store"):
        check(tiny(paths), Paths(paths.run, paths.model, paths.train, paths.store / "absent"))


@pytest.mark.parametrize("place", ["huggingface", "model/huggingface"])
def test_the_weights_that_verl_wrote_are_the_student(place, tmp_path):
    """FSDP's place with ``hf_model``, and Megatron's."""
    checkpoint = tmp_path / "checkpoints/global_step_3/actor"
    (checkpoint / place).mkdir(parents=True)
    for name in ("model-00001-of-00001.safetensors", "tokenizer.json"):
        (checkpoint / place / name).write_text(name)
    (tmp_path / "trained").mkdir()
    for folder in (checkpoint / place, tmp_path / "trained"):
        (folder / "config.json").write_text("{}")
    (checkpoint / "huggingface").mkdir(exist_ok=True)  # FSDP puts a configuration there in any case
    made = export(GrpoResult(3, checkpoint, 0), tmp_path / "final", tmp_path / "trained")
    assert {path.name for path in made.iterdir()} >= {"model-00001-of-00001.safetensors", "config.json"}


def test_the_tokenizer_is_that_of_the_model_that_was_trained(tmp_path):
    saved, base = tmp_path / "actor/huggingface", tmp_path / "base"
    for folder, says in ((saved, "saved anew"), (base, "as it was")):
        folder.mkdir(parents=True)
        for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_text(says)
        (folder / "config.json").write_text(
            json.dumps({"dtype": "float32" if folder == base else "bfloat16", "of": says})
        )
    (base / "chat_template.jinja").write_text("as it was")
    made = export(GrpoResult(3, tmp_path / "actor", 0), tmp_path / "final", base)
    texts = {path.name: path.read_text() for path in made.iterdir()}
    assert json.loads(texts.pop("config.json")) == {"dtype": "float32", "of": "saved anew"}
    assert texts == {
        "model.safetensors": "saved anew",
        **dict.fromkeys(("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"), "as it was"),
    }


def test_megatron_s_own_shards_are_merged_as_such(tmp_path, monkeypatch):
    checkpoint = tmp_path / "actor"
    (checkpoint / "model/dist_ckpt").mkdir(parents=True)
    said = []

    class Merger:
        def wait(self):
            return 1

    monkeypatch.setattr(processes, "start", lambda command, *_: (said.append(command), Merger())[1])
    (tmp_path / "merge.log").write_text("no megatron here\n")
    with pytest.raises(StarError, match="no megatron here"):
        export(GrpoResult(3, checkpoint, 0), tmp_path / "final", tmp_path / "trained")
    assert said[0][said[0].index("--backend") + 1] == "megatron"


def test_metrics_of_a_resumed_run_hold_each_step_once(paths):
    attempts = paths.run / "attempts"
    attempts.mkdir(parents=True)
    lines = [[(1, 0.1), (2, 0.2), (3, 0.3)], [(2, 0.9)]]
    for number, steps in enumerate(lines, 1):
        rows = [json.dumps({"step": step, "data": {"x": value}}) + "\n" for step, value in steps]
        (attempts / f"{number:03d}.jsonl").write_text("".join(rows))
    assert read_metrics(paths) == [{"step": 1, "x": 0.1}, {"step": 2, "x": 0.9}]


def test_a_number_that_is_none_is_left_out_and_ends_no_training(paths):
    attempts = paths.run / "attempts"
    attempts.mkdir(parents=True)
    (attempts / "001.jsonl").write_text('{"step":1,"data":{"critic/score/mean":null,"x":1}}\n{"step":2,"data":{}}\n')
    assert read_metrics(paths) == [{"step": 1, "x": 1}]
    assert [step.metrics for step in _follow(paths, 1, 0.0, 2, lambda: 0)] == [{"x": 1}]


def test_a_line_that_is_there_in_parts_is_a_step_once_it_is_whole(paths, monkeypatch):
    file = paths.run / "attempts/001.jsonl"
    file.parent.mkdir(parents=True)
    lines = [json.dumps({"step": step, "data": {"x": step}}) for step in (1, 2, 3)]
    parts = ["\n".join([lines[0], "\0" * 9 + lines[1][9:], lines[2], ""]), "\n".join([*lines, ""])]

    def look():
        file.write_text(parts.pop(0))
        return None if parts else 0

    monkeypatch.setattr(grpo, "_POLL_SECONDS", 0.0)
    assert [step.step for step in _follow(paths, 1, 0.0, 3, look)] == [1, 3, 2]
    assert [row["step"] for row in read_metrics(paths)] == [1, 2, 3]


def test_a_validation_before_training_belongs_to_the_step_that_it_judges(paths):
    attempts = paths.run / "attempts"
    attempts.mkdir(parents=True)
    lines = [
        [(0, {"val-core/toy/acc/mean@1": 0.1}), (1, {"x": 1, "val-core/toy/acc/mean@1": 0.2}), (2, {"x": 2}), (3, {})],
        [(2, {"val-core/toy/acc/mean@1": 0.3, "val-aux/num_turns/max": 4}), (3, {"x": 9})],
    ]
    for number, steps in enumerate(lines, 1):
        rows = [json.dumps({"step": step, "data": data}) + "\n" for step, data in steps]
        (attempts / f"{number:03d}.jsonl").write_text("".join(rows))
    assert [(row["step"], row.get("x"), row.get("val-core/toy/acc/mean@1")) for row in read_metrics(paths)] == [
        (0, None, 0.1), (1, 1, 0.2), (2, 2, 0.3), (3, 9, None),
    ]  # fmt: skip
    assert [step.step for step in _follow(paths, 2, 0.0, 3, lambda: 0)] == [3], "no step of training"


def test_validation_without_rows_for_it_is_refused(paths):
    for wanted in ({"test_freq": 5}, {"val_before_train": True}):
        with pytest.raises(StarError, match=r"there is no validation set - set grpo_set\.validation"):
            check(tiny(paths, verl={"trainer": wanted}), paths)
        assert check(tiny(paths, verl={"trainer": wanted}), dataclasses.replace(paths, val=paths.train))


def test_a_lost_process_or_node_is_named_as_ray_says_it():
    text = "ray.exceptions.ActorDiedError: The actor died.\n(TaskRunner pid=1) \tpid: 5\n\tip: 10.0.0.3\n"
    lost = text + "The actor is dead because its worker process has died. Worker exit"
    assert _death(lost.splitlines()) == " because a worker process on 10.0.0.3 died"
    assert _death(["The actor died because its node has died."]) == " because a node died"
    raylet = "\x1b[33m(raylet, ip=10.0.0.4)\x1b[0m Raylet is terminated. Termination is unexpected."
    gone = "ray.exceptions.ActorUnavailableError: The actor 06 is unavailable: Socket closed"
    assert _death([raylet, gone]) == " because a node (10.0.0.4) died"
    assert _death(["(raylet) The node with node id: 5 and address: 10.0.0.4 has been marked dead because"]) != ""
    assert _death([gone]) == " because a process cannot be reached: it or its node may have died"
    assert _death(["ValueError: no"]) == ""


@pytest.mark.engine
def test_a_checkpoint_whose_number_is_not_written_yet_is_gone_on_from(paths):
    from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path

    for step in (5, 10):
        checkpoint(paths, step)
    (paths.checkpoints / "global_step_old").mkdir()
    tracker = paths.checkpoints / "latest_checkpointed_iteration.txt"
    tracker.write_text("")
    with pytest.raises(ValueError, match="invalid literal"):
        find_latest_ckpt_path(str(paths.checkpoints))
    assert last_checkpoint(paths) == 10
    assert find_latest_ckpt_path(str(paths.checkpoints)) == str(paths.checkpoints / "global_step_10")
    tracker.write_text("5")
    _prepare(tiny(paths), paths, [])
    assert sorted(folder.name for folder in paths.checkpoints.glob("*_step_*")) == ["global_step_5", "global_step_old"]


@pytest.mark.parametrize(("keep", "left"), [(2, [6, 8]), (None, [2, 4, 6, 8])])
def test_checkpoints_of_earlier_attempts_do_not_pile_up(paths, keep, left):
    for step in (2, 4, 6, 8, 10):
        checkpoint(paths, step)
    (paths.checkpoints / "latest_checkpointed_iteration.txt").write_text("8")
    _prepare(tiny(paths, verl={"trainer": {"max_actor_ckpt_to_keep": keep}}), paths, [])
    assert sorted(int(folder.name.split("_")[-1]) for folder in paths.checkpoints.glob("*_step_*")) == left


def test_checkpoints_are_not_dropped_because_a_disk_does_not_answer(paths, monkeypatch):
    checkpoint(paths, 5)
    (paths.checkpoints / "latest_checkpointed_iteration.txt").write_text("5")

    def stale(*_, **__):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", stale)
        with pytest.raises(OSError, match="Stale"):
            _prepare(tiny(paths), paths, [])
    assert (paths.checkpoints / "global_step_5").is_dir() and last_checkpoint(paths) == 5


def test_a_run_that_was_killed_after_its_last_checkpoint_starts_nothing(paths, monkeypatch):
    checkpoint(paths, 4)
    (paths.checkpoints / "latest_checkpointed_iteration.txt").write_text("4")
    (paths.run / "attempts").mkdir()
    (paths.run / "attempts/001.jsonl").write_text(json.dumps({"step": 4, "data": {"a": 1.0}}) + "\n")
    recipe = tiny(paths, device="cpu", verl={"trainer": {"total_training_steps": 4}})
    result = run_grpo(recipe, paths)
    assert (result.steps, result.resumed_from, result.checkpoint.parent.name) == (4, 4, "global_step_4")
    assert json.loads(paths.metrics.read_text())["step"] == 4 and not paths.log.exists()


def validated(paths, step, hr_avg):
    paths.validation.mkdir(exist_ok=True, parents=True)
    rows = [{"task_id": f"t{task}", "scores": {"score": 0.1, "acc": 0.0, "hr_avg": hr_avg}} for task in range(5)]
    (paths.validation / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def chosen(paths, **options):
    sampler = {"sampler_kwargs": {f"+{name}": value for name, value in options.items()}}
    trainer = {"total_training_steps": 6, "save_freq": 2, "max_actor_ckpt_to_keep": 1, "v1": {"sampler": sampler}}
    valid = dataclasses.replace(paths, val=paths.train)
    return tiny(valid, device="cpu", verl={"trainer": trainer}), valid


@pytest.mark.parametrize("keep, step", [("best", 2), ("last", 6)])
def test_the_student_is_the_best_checkpoint_by_validation_or_the_last(paths, keep, step):
    for number, hr_avg in ((0, 0.9), (2, 0.6), (4, 0.6), (6, 0.5)):
        validated(paths, number, hr_avg)
        checkpoint(paths, number) if number else None
    (paths.checkpoints / "latest_checkpointed_iteration.txt").write_text("6")
    result = run_grpo(*chosen(paths, keep=keep))
    assert (result.steps, result.checkpoint.parent.name, result.ended) == (6, f"global_step_{step}", "")
    if keep == "last":
        assert result.best is None
    else:
        assert result.best.text == "HR_avg 60.0 % (60.0 to 60.0) at step 2"


def test_a_run_that_stopped_early_is_not_trained_further_and_keeps_its_best(paths):
    for number, hr_avg in ((2, 0.6), (4, 0.5)):
        validated(paths, number, hr_avg)
        checkpoint(paths, number)
    (paths.checkpoints / "latest_checkpointed_iteration.txt").write_text("4")
    result = run_grpo(*chosen(paths, keep="best", patience=1))
    assert (result.steps, result.best.step, result.ended) == (4, 2, "no gain in 1 validations")
    assert not paths.log.exists()


def test_before_a_resume_the_best_stays_and_validations_of_later_steps_go(paths):
    for number, hr_avg in ((2, 0.6), (4, 0.5), (6, 0.4), (8, 0.9)):
        validated(paths, number, hr_avg)
        checkpoint(paths, number)
    (paths.checkpoints / "latest_checkpointed_iteration.txt").write_text("6")
    _prepare(chosen(paths)[0], paths, [], best=True)
    assert sorted(int(folder.name.split("_")[-1]) for folder in paths.checkpoints.glob("*_step_*")) == [2, 6]
    assert sorted(file.stem for file in paths.validation.iterdir()) == ["2", "4", "6"]


def test_the_best_is_kept_by_the_buffer_and_not_by_verl(paths):
    recipe, valid = chosen(paths, keep="best")
    trainer = compose(overrides_of(verl_tree(recipe, valid, "x"))).trainer
    assert (trainer.test_freq, trainer.save_freq, trainer.max_actor_ckpt_to_keep) == (2, 2, None)
    assert (trainer.v1.sampler.sampler_kwargs.keep, trainer.v1.sampler.sampler_kwargs.max_checkpoints) == ("best", 1)
    last = compose(overrides_of(verl_tree(chosen(paths)[0], valid, "x"))).trainer
    assert (last.test_freq, last.max_actor_ckpt_to_keep) == (-1, 1)


def test_gradients_that_are_never_finite_end_the_run(tmp_path):
    """verl writes NaN as null, skips the update and goes on."""
    paths = Paths(tmp_path, tmp_path, tmp_path, tmp_path)
    log = tmp_path / "attempts/001.jsonl"
    log.parent.mkdir()

    def follow(norms):
        rows = [{"step": 0, "data": {"val-core/toy/acc/mean@1": 0.5}}, {"step": 1, "data": None}]
        rows += [{"step": step, "data": {"actor/grad_norm": norm, "x": 1.0}} for step, norm in enumerate(norms, 1)]
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [step.step for step in _follow(paths, 1, 0.0, 9, lambda: 0)]

    assert follow([None, None, 0.5, None, None]) == [1, 2, 3, 4, 5]
    with pytest.raises(
        StarError, match=r"not finite in steps 2, 3, 4, .*lower verl\.actor_rollout_ref\.actor\.optim\.lr"
    ):
        follow([0.5, None, None, None])
