"""GRPO whole: verl's trainer, Ray, FSDP2, vLLM, real tool calls from a store, on this machine's CPU."""

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_rl.errors import StarError
from star_rl.integrations import processes
from star_rl.integrations.verl.checkpoints import last_checkpoint
from star_rl.integrations.verl.grpo import export, read_metrics, run_grpo
from star_rl.integrations.verl.overrides import merge
from star_rl.integrations.verl.recipe import Paths, load_recipe
from tests.policy import toy

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]
PROMPTS, SAMPLES = 4, 4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grpo")
    model, store, tasks = toy.make_policy(folder)
    pq.write_table(pa.Table.from_pylist(toy.grpo_rows(tasks[:32])), folder / "train.parquet")
    (folder / "reward.py").write_text(toy.REWARD)
    return Paths(folder / "run", model, folder / "train.parquet", store)


def recipe(world, steps, reward="reward.py", sampler=None, algorithm=(), more=None):
    return load_recipe(
        ["grpo/tiny", *algorithm],
        merge(
            {
                "reward": str(world.train.parent / reward),
                "device": "cpu",
                "policy": {"opener": "tests.policy.toy:ToyStore.open"},
                "env": {"PYTHONPATH": str(ROOT)},
                "verl": {
                    "data": {"train_batch_size": PROMPTS, "max_prompt_length": 128, "max_response_length": 192},
                    "actor_rollout_ref": {
                        "actor": {"ppo_mini_batch_size": PROMPTS},
                        "rollout": {"n": SAMPLES, "max_model_len": 320, "max_num_seqs": 32},
                    },
                    "trainer": {
                        "total_training_steps": steps,
                        "save_freq": 1,
                        "v1": {"sampler": {"sampler_kwargs": sampler or {}}},
                    },
                },
            },
            more or {},
        ),
    )


def test_two_steps_on_the_real_engines(world):
    seen = []
    result = run_grpo(recipe(world, 2), world, on_step=seen.append)
    assert [step.step for step in seen] == [1, 2] and result.steps == 2 and result.resumed_from == 0
    metrics = read_metrics(world)
    # The second step samples from synchronised weights: a broken weight sync shows here.
    assert all(row["training/rollout_probs_diff_max"] < 1e-4 for row in metrics)
    assert all(row["training/rollout_probs_diff_mean"] < 1e-5 for row in metrics)
    assert all(row["rollout/tool_calls_ok/sum"] > 0 for row in metrics)

    details = [json.loads(line) for line in (world.details / "1.jsonl").read_text().splitlines()]
    assert Counter(Counter(row["group"] for row in details).values()) == {SAMPLES: PROMPTS}
    for group in {row["group"] for row in details}:
        members = [row for row in details if row["group"] == group]
        assert len({row["task_id"] for row in members}) == 1, "a group mixes prompts"
        assert [row["sample"] for row in members] == list(range(SAMPLES))
    tools = [m["content"] for row in details for m in row["messages"] if m["role"] == "tool"]
    assert tools and all("Among the candidates" in text or text.endswith(".") for text in tools)

    for row in details:
        own = "\n".join(message["content"] for message in row["messages"] if message["role"] == "assistant")
        assert row["scores"]["seen"] == zlib.crc32(own.encode()), "a reward saw more than the model wrote, or less"

    changed = export(result, world.run / "student", world.model)
    assert (changed / "model.safetensors").is_file() and (changed / "tokenizer.json").is_file()
    assert not processes.members(world.run), "processes of the run are left"


@pytest.mark.slow
def test_verl_validates_on_rows_of_its_own_before_and_after_a_step(world):
    tasks = toy.make_tasks(toy.ToyStore.open(world.store), 38)[32:]
    valid = world.train.with_name("valid.parquet")
    pq.write_table(pa.Table.from_pylist(toy.grpo_rows(tasks)), valid)
    paths = Paths(world.run.with_name("validated"), world.model, world.train, world.store, valid)
    made, seen = recipe(world, 1), []
    made.verl["trainer"] |= {"test_freq": 1, "val_before_train": True, "validation_data_dir": str(paths.run / "valid")}
    assert run_grpo(made, paths, on_step=seen.append).steps == 1
    assert [step.step for step in seen] == [1], "a validation is no step"
    before, after = read_metrics(paths)
    assert (before["step"], after["step"]) == (0, 1) and not any(name.startswith("critic/") for name in before)
    for row in (before, after):
        assert 0.0 <= row["val-core/toy/acc/mean@1"] <= 1.0
        assert row["val-aux/toy/loop_tool_calls/mean@1"] > 0 and row["val-aux/toy/loop_stop_answered/mean@1"] > 0.5
    assert after["critic/score/mean"] != 0 and after["groups/successes/0"] is not None
    for step in (0, 1):
        lines = [json.loads(line) for line in (paths.run / f"valid/{step}.jsonl").read_text().splitlines()]
        assert Counter(line["gts"] for line in lines) == Counter(task["ground_truth"] for task in tasks)
        row = (before, after)[step]
        assert sum(line["acc"] for line in lines) / len(lines) == pytest.approx(row["val-core/toy/acc/mean@1"])
    assert {path.name for path in paths.details.iterdir()} == {"1.jsonl"}, "a validation's rollouts are there"


def spoilt(world, name):
    """The world with one prompt of four that verl has no room for."""
    rows = toy.grpo_rows([dict(task) for task in toy.make_tasks(toy.ToyStore.open(world.store), 4)])
    rows[2]["prompt"] = [*rows[2]["prompt"][:-1], {"role": "user", "content": "i7 " * 80}]
    train = world.train.with_name(f"{name}.parquet")
    pq.write_table(pa.Table.from_pylist(rows), train)
    return Paths(world.run.with_name(name), world.model, train, world.store)


def test_failed_rollouts_are_left_out_of_a_step(world):
    paths = spoilt(world, "spoilt")
    assert run_grpo(recipe(world, 1), paths).steps == 1
    details = [json.loads(line) for line in (paths.details / "1.jsonl").read_text().splitlines()]
    bad = [row for row in details if row["stop"] == "prompt_too_long"]
    assert len(bad) == SAMPLES and {row["task_id"] for row in bad} == {"t2"} and "at most 128" in bad[0]["error"]
    (metrics,) = read_metrics(paths)
    assert metrics["rollout/failed/share"] == 1 / PROMPTS
    healthy = [row["scores"]["score"] for row in details if row not in bad]
    assert metrics["critic/score/mean"] == pytest.approx(sum(healthy) / len(healthy), abs=1e-4)
    assert metrics["actor/grad_norm"] > 0


def first_turns(model, tasks):
    """What a student writes greedily before its tools answer, by task."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from star_rl.own import schemas
    from star_rl.policy.loop import render_prompt
    from star_rl.tools import schemas_of

    tokenizer = AutoTokenizer.from_pretrained(model)
    student = AutoModelForCausalLM.from_pretrained(model)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    found = {}
    for task in tasks:
        ids = render_prompt(tokenizer, task["prompt"], schemas_of(schemas([])))
        written = student.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=128, eos_token_id=end)[0]
        found[task["task_id"]] = tokenizer.decode(written[len(ids) :]).removesuffix("<|im_end|>")
    return found


@pytest.mark.slow
def test_adapters_are_trained_resumed_and_merged_into_a_student_that_answers_as_the_policy_did(world):
    """The policy's answers are vLLM's in the validation after the last step, greedy and with the adapters apart."""
    tasks = toy.make_tasks(toy.ToyStore.open(world.store), 38)[32:]
    valid = world.train.with_name("valid-lora.parquet")
    pq.write_table(pa.Table.from_pylist(toy.grpo_rows(tasks)), valid)
    paths = Paths(world.run.with_name("lora"), world.model, world.train, world.store, valid)
    actor = {"optim": {"lr": 1.0e-2}, "use_kl_loss": True, "kl_loss_coef": 0.001}
    more = {"actor_rollout_ref": {"model": {"lora_rank": 8, "lora_alpha": 16}, "actor": actor}}
    more["trainer"] = {"test_freq": 1}
    run_grpo(recipe(world, 1, algorithm=["grpo/lora"], more={"verl": more}), paths)
    result = run_grpo(recipe(world, 2, algorithm=["grpo/lora"], more={"verl": more}), paths)
    assert (result.resumed_from, result.steps) == (1, 2)
    assert all(row["training/rollout_probs_diff_max"] < 1e-4 for row in read_metrics(paths))
    assert all(row["actor/grad_norm"] > 0 for row in read_metrics(paths))
    sizes = {file.name: file.stat().st_size for file in result.checkpoint.glob("*.pt")}
    assert sizes["model_world_size_1_rank_0.pt"] < (world.model / "model.safetensors").stat().st_size / 2
    student = export(result, paths.run / "student", paths.model)
    rows = [json.loads(line) for line in (paths.validation / "2.jsonl").read_text().splitlines()]
    policy = {row["task_id"]: next(m["content"] for m in row["messages"] if m["role"] == "assistant") for row in rows}
    assert first_turns(student, tasks) == policy
    assert first_turns(world.model, tasks) != policy, "the adapters changed nothing, so the test shows nothing"


@pytest.mark.slow
def test_the_best_checkpoint_is_the_student_and_stays_when_verl_s_limit_is_reached(world):
    """The learning rate destroys the student, so that its first checkpoint is the best."""
    tasks = toy.make_tasks(toy.ToyStore.open(world.store), 38)[32:]
    valid = world.train.with_name("valid-best.parquet")
    pq.write_table(pa.Table.from_pylist(toy.grpo_rows(tasks)), valid)
    paths = Paths(world.run.with_name("best"), world.model, world.train, world.store, valid)
    sampler = {"+keep": "best", "+patience": 2}
    more = {"actor_rollout_ref": {"actor": {"optim": {"lr": 0.1}}}, "trainer": {"max_actor_ckpt_to_keep": 1}}
    result = run_grpo(recipe(world, 9, sampler=sampler, more={"verl": more}), paths)
    assert (result.ended, result.steps - result.best.step) == ("no gain in 2 validations", 2)
    assert result.checkpoint == paths.checkpoints / f"global_step_{result.best.step}" / "actor"
    left = {int(path.name.split("_")[-1]) for path in paths.checkpoints.glob("global_step_*")}
    assert left == {result.best.step, result.steps}
    means = {row["step"]: row["val-core/toy/acc/mean@1"] for row in read_metrics(paths)}
    assert result.best.mean == pytest.approx(means[result.best.step]) == max(means.values())
    assert (export(result, paths.run / "student", paths.model) / "model.safetensors").is_file()


#: An algorithm -> a metric of its step, and whether that is what the algorithm says.
STEPS = {
    "dapo": ("groups/without_signal", lambda share: share == 0.0),
    "drgrpo": ("actor/grad_norm", lambda norm: norm > 0),
    "gspo": ("actor/grad_norm", lambda norm: norm > 0),
    "cispo": ("actor/pg_clipfrac", lambda share: share == 0.0),
    "rloo": ("critic/advantages/max", lambda most: most > 0),
    "reinforce_pp": ("critic/advantages/mean", lambda mean: abs(mean) < 1e-3),
    "kl_cov": ("actor/grad_norm", lambda norm: norm > 0),
    "tis": ("rollout_corr/rollout_is_mean", lambda mean: abs(mean - 1) < 1e-3),
    "opd": ("actor/distillation/loss", lambda loss: abs(loss) < 1e-3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_an_algorithm_takes_a_step(world, name):
    """``opd`` distils the policy from itself, so there is nothing to learn."""
    made = recipe(world, 1, algorithm=[f"grpo/{name}"])
    if name == "opd":
        inference = {
            "tensor_model_parallel_size": 1,
            "max_model_len": 512,
            "max_num_seqs": 32,
            "+enable_sleep_mode": False,
        }
        inference |= {"engine_kwargs": {"vllm": {"+distributed_executor_backend": "uni"}}}
        teacher = {"model_path": str(world.model), "inference": inference}
        made.verl["distillation"] |= {"n_gpus_per_node": 1, "teacher_models": {"teacher_model": teacher}}
        made.ray["num_gpus"] = 2  # logical ones
    paths = Paths(world.run.with_name(name), world.model, world.train, world.store)
    assert run_grpo(made, paths).steps == 1
    (row,) = read_metrics(paths)
    metric, holds = STEPS[name]
    assert holds(row[metric]), (metric, row[metric])


@pytest.mark.slow
def test_two_steps_with_a_tool_and_an_environment_of_ones_own(tmp_path):
    model, store, tasks = toy.make_policy(tmp_path, own="tests.policy.toy:near")
    pq.write_table(pa.Table.from_pylist(toy.grpo_rows(tasks[:32])), tmp_path / "train.parquet")
    (tmp_path / "reward.py").write_text(toy.REWARD)
    paths = Paths(tmp_path / "run", model, tmp_path / "train.parquet", store)
    policy = {"own": ["tests.policy.toy:near"], "environment": "tests.policy.toy:Doubter"}
    sizes = {"data": {"max_prompt_length": 256, "max_response_length": 384}}
    sizes["actor_rollout_ref"] = {"rollout": {"max_model_len": 640}}
    made = recipe(paths, 2, more={"policy": policy, "verl": sizes})
    assert run_grpo(made, paths).steps == 2
    assert all(row["rollout/user_turns/mean"] > 0 for row in read_metrics(paths))
    assert all(row["training/rollout_probs_diff_max"] < 1e-4 for row in read_metrics(paths))
    rows = [json.loads(line) for line in (paths.details / "2.jsonl").read_text().splitlines()]
    talked = [row["messages"] for row in rows if {"role": "user", "content": "Sure?"} in row["messages"]]
    near = [
        row for row in rows if '"Near"' in row["messages"][0]["content"] and row["scores"]["loop_tool_calls_ok"] > 1
    ]
    assert talked and near and all(messages[-1]["role"] == "assistant" for messages in talked)


@pytest.mark.slow
def test_groups_without_signal_are_refilled(world):
    """Every second task pays the same for any answer."""
    uneven = toy.REWARD.replace('"score": score', '"score": 1.0 if extra_info["task_id"][-1] in "13579" else score')
    (world.train.parent / "uneven.py").write_text(uneven)
    paths = Paths(world.run.with_name("refilled"), world.model, world.train, world.store)
    made = recipe(world, 2, "uneven.py")
    made.verl["algorithm"]["filter_groups"] = {"enable": True, "metric": "score", "max_num_gen_batches": 10}
    assert run_grpo(made, paths).ended == ""
    for row in read_metrics(paths):
        assert row["groups/dropped"] > 0 and row["groups/refills"] > 0 and row["groups/without_signal"] == 0.0
        details = [json.loads(line) for line in (paths.details / f"{row['step']}.jsonl").read_text().splitlines()]
        assert len({entry["group"] for entry in details}) == PROMPTS + row["groups/refills"]
        assert len({entry["group"] for entry in details if entry["trained"]}) == PROMPTS


@pytest.mark.slow
def test_training_ends_with_a_checkpoint_when_no_group_has_signal(world):
    (world.train.parent / "same.py").write_text(toy.REWARD.replace('"score": score', '"score": 1.0'))
    paths = Paths(world.run.with_name("same"), world.model, world.train, world.store)
    made = recipe(world, 9, "same.py", {"+max_steps_without_signal": 2})
    made.verl["trainer"]["save_freq"] = 9
    made.verl["algorithm"]["filter_groups"] = {"enable": True, "metric": "reward", "max_num_gen_batches": 2}
    result = run_grpo(made, paths)
    assert (result.steps, result.ended) == (2, "no group had signal in 2 steps in a row")
    assert (export(result, paths.run / "student", paths.model) / "model.safetensors").is_file()
    assert [row["groups/refills"] for row in read_metrics(paths)] == [PROMPTS, PROMPTS]


@pytest.mark.slow
def test_too_many_failed_rollouts_stop_the_training_with_the_first_of_them(world):
    paths = spoilt(world, "stopped")
    with pytest.raises(StarError, match=r"4 of 16 rollouts of this step failed.*t2: prompt_too_long"):
        run_grpo(recipe(world, 1, sampler={"+max_failed": 0.2}), paths)
    assert not processes.members(paths.run)


@pytest.mark.slow
def test_a_finished_run_goes_on_to_more_steps(world):
    paths = Paths(world.run.with_name("more"), world.model, world.train, world.store)
    run_grpo(recipe(world, 1), paths)
    again = run_grpo(recipe(world, 2), paths)
    assert (again.resumed_from, again.steps) == (1, 2)
    assert [row["step"] for row in read_metrics(paths)] == [1, 2]


@pytest.mark.slow
def test_a_reward_that_fails_in_training_stops_it_with_the_cause(world):
    body = toy.REWARD.replace("found =", "assert extra_info['task_id'] == 'check', 'no such task'\n    found =")
    (world.train.parent / "failing.py").write_text(body)
    broken = Paths(world.run.with_name("broken"), world.model, world.train, world.store)
    with pytest.raises(StarError, match="a rollout of group"):
        run_grpo(recipe(world, 1, "failing.py"), broken)
    assert not processes.members(broken.run)


@pytest.mark.slow
def test_killed_training_resumes_at_its_checkpoint_with_the_data_order_kept(world):
    whole = Paths(world.run.with_name("whole"), world.model, world.train, world.store)
    run_grpo(recipe(world, 4), whole)
    cut = Paths(world.run.with_name("cut"), world.model, world.train, world.store)
    code = (
        "import sys; from pathlib import Path; from star_rl.integrations.verl.recipe import Paths\n"
        "from tests.integrations import test_verl_grpo as t\n"
        "w = Paths(*map(Path, sys.argv[1:])); t.run_grpo(t.recipe(w, 4), w)\n"
    )
    arguments = [str(path) for path in (cut.run, cut.model, cut.train, cut.store)]
    launcher = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT
    )
    deadline = time.monotonic() + 400
    while (last_checkpoint(cut) or 0) < 2:
        assert launcher.poll() is None and time.monotonic() < deadline, "no second checkpoint"
        time.sleep(0.2)
    launcher.kill()
    launcher.wait()
    for process in processes.members(cut.run):
        process.send_signal(signal.SIGKILL)
    wandb = (cut.run / "wandb_id").read_text()
    result = run_grpo(recipe(world, 4), cut)
    assert result.resumed_from >= 2 and result.steps == 4
    assert (cut.run / "wandb_id").read_text() == wandb
    # verl saves a checkpoint before it logs the step, so the step of the kill may lack its metrics, and only that one.
    steps = [row["step"] for row in read_metrics(cut)]
    assert set(range(1, 5)) - set(steps) <= {result.resumed_from} and steps == sorted(set(steps))

    def tasks(paths, step):
        return sorted(
            {json.loads(line)["task_id"] for line in (paths.details / f"{step}.jsonl").read_text().splitlines()}
        )

    assert [tasks(cut, step) for step in range(1, 5)] == [tasks(whole, step) for step in range(1, 5)]
