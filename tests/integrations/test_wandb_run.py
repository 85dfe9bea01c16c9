"""W&B: online where a key is at hand, one run a folder, the user's own variables first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from star_rl.integrations import wandb_run
from star_rl.integrations.swift import sft
from star_rl.integrations.verl.recipe import Paths, environment, load_recipe, verl_tree

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_variables_of_this_machine(monkeypatch, tmp_path):
    for name in [*os.environ]:
        if name.startswith(("WANDB_", "STAR_RL_WANDB")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


def test_online_with_a_key_offline_without(tmp_path):
    assert wandb_run.mode({}) == "offline"
    assert wandb_run.mode({"WANDB_API_KEY": "k"}) == "online"
    assert wandb_run.mode({"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}) == "disabled"
    login = tmp_path / "netrc"
    login.write_text("machine wandb.example.org login user password secret\n")
    server = {"WANDB_BASE_URL": "https://wandb.example.org:8443", "NETRC": str(login)}
    assert wandb_run.mode(server) == "online"
    assert wandb_run.mode({**server, "WANDB_BASE_URL": "https://other.example.org"}) == "offline"
    assert wandb_run.mode({"NETRC": str(login)}) == "offline"
    login.write_text("not a netrc {")
    assert wandb_run.mode(server) == "offline"


def test_one_run_a_folder_and_the_user_s_variables_win(tmp_path):
    first = wandb_run.variables(tmp_path, {})
    assert wandb_run.variables(tmp_path, {}) == first and first["WANDB_RUN_ID"]
    assert (first["WANDB_DIR"], first["WANDB_PROJECT"], first["WANDB_RESUME"]) == (str(tmp_path), "star_rl", "allow")
    mine = wandb_run.variables(tmp_path, {"WANDB_PROJECT": "mine", "WANDB_RUN_ID": "x1"}, name="n")
    assert (mine["WANDB_PROJECT"], mine["WANDB_RUN_ID"], mine["WANDB_NAME"]) == ("mine", "x1", "n")
    assert "WANDB_API_KEY" not in wandb_run.variables(tmp_path, {"WANDB_API_KEY": "k"})


def test_a_resume_may_cut_the_run_back(tmp_path):
    given = {"WANDB_API_KEY": "k", wandb_run.REWIND: "1"}
    made = wandb_run.variables(tmp_path, given, rewind_to=10)
    assert made["WANDB_RESUME_FROM"] == f"{wandb_run.run_id(tmp_path)}?_step=10" and "WANDB_RESUME" not in made
    for other in (
        wandb_run.variables(tmp_path, given, rewind_to=0),  # nothing to go on from
        wandb_run.variables(tmp_path, {wandb_run.REWIND: "1"}, rewind_to=10),  # offline
        wandb_run.variables(tmp_path, {"WANDB_API_KEY": "k"}, rewind_to=10),
    ):
        assert "WANDB_RESUME_FROM" not in other and other["WANDB_RESUME"] == "allow"


@pytest.mark.engine
def test_w_and_b_reads_these_variables(tmp_path):
    made = wandb_run.variables(tmp_path, {"WANDB_API_KEY": "k", wandb_run.REWIND: "1"}, name="n", rewind_to=3)
    code = (
        "import os, wandb\ns = wandb.Settings()\ns.update_from_env_vars(os.environ)\n"
        "print(s.mode, s.project, s.run_id, s.run_name, s.resume_from.value)\n"
        "assert s.wandb_dir.startswith(os.environ['WANDB_DIR'])"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **made}, capture_output=True, text=True)
    assert done.stdout.split() == ["online", "star_rl", made["WANDB_RUN_ID"], "n", "3"], done.stderr


def test_grpo_is_online_with_a_key_and_its_names_are_the_user_s(tmp_path, monkeypatch):
    paths = Paths(tmp_path, tmp_path / "model", tmp_path / "train", tmp_path / "store")
    recipe = load_recipe({"verl": {"trainer": {"project_name": "mine", "experiment_name": "first"}}})
    trainer = verl_tree(recipe, paths, "run-grpo")["trainer"]
    assert (trainer["project_name"], trainer["experiment_name"]) == ("mine", "first")
    trainer = verl_tree(load_recipe({}), paths, "run-grpo")["trainer"]
    assert (trainer["project_name"], trainer["experiment_name"]) == ("star_rl", "run-grpo")
    assert environment(recipe, paths, 1)["WANDB_MODE"] == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "k")
    online = environment(recipe, paths, 1)
    assert (online["WANDB_MODE"], online["WANDB_DIR"]) == ("online", str(tmp_path.resolve()))
    mine = load_recipe({"env": {"WANDB_MODE": "offline", "WANDB_PROJECT": "mine"}})
    assert environment(mine, paths, 1)["WANDB_MODE"] == "offline"
    assert verl_tree(mine, paths, "n")["trainer"]["project_name"] == "mine"


def test_sft_s_process_is_told_where_its_curves_go(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    told = {}

    def watch(config, file, log, work, env, progress):
        told.update(env)
        (work / "checkpoint-1").mkdir()
        (work / "checkpoint-1/trainer_state.json").write_text('{"global_step": 1}')
        return 1, 0.5

    monkeypatch.setattr(sft, "_watch", watch)
    monkeypatch.setattr(sft, "sieve_long_rows", lambda data, *_: (data, 1, 0, 9.0))
    monkeypatch.setenv("WANDB_API_KEY", "k")
    out = tmp_path / "amazon/sft"
    sft.run_sft([{"max_steps": 1}], data=tmp_path / "d", model=tmp_path / "model", out=out)
    assert (told["WANDB_MODE"], told["WANDB_DIR"], told["WANDB_RESUME"]) == ("online", str(out), "allow")
    assert (told["WANDB_PROJECT"], told["WANDB_NAME"]) == ("star_rl", "amazon-sft")
    assert told["WANDB_RUN_ID"] == Path(out / "wandb_id").read_text().strip()
    assert "WANDB_RUN_ID" in (out / "sft.yaml").read_text()


@pytest.mark.engine
def test_the_command_that_the_documentation_shows_takes_every_attempt(tmp_path):
    """docs/training.md; a dry run uploads nothing."""
    line = next(line for line in (ROOT / "docs/training.md").read_text().splitlines() if line.startswith("wandb sync"))
    _, _, *options, place = line.split()
    for number in (1, 2):
        attempt = tmp_path / f"offline-run-2026010{number}_000000-abc"
        attempt.mkdir()
        (attempt / "run-abc.wandb").write_bytes(b"")
    attempts = sorted(map(str, tmp_path.glob(place.rpartition("/")[2])))
    command = [str(Path(sys.executable).with_name("wandb")), "sync", "--dry-run", *options, *attempts]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "sync 2 run(s)" in done.stdout + done.stderr, done.stderr
