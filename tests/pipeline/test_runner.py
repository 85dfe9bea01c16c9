"""The local runner: from a stage, until a stage, one process per run, and what the terminal shows."""

import os

import pytest

from star_rl.errors import StarError
from star_rl.pipeline import runner
from star_rl.pipeline.options import Recipe
from star_rl.pipeline.recipe import load
from star_rl.pipeline.stage import Stage, manifest_of
from star_rl.run import Run

CALLS: list[str] = []


def body(context):
    CALLS.append(context.folder.name)
    return {"summary": "2 rows"}


STAGES = (Stage("one", body, config=("sample",)), Stage("two", body, reads=("one",)), Stage("three", body))


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


@pytest.fixture
def demo(tmp_path):
    return Recipe(name="demo", out=str(tmp_path))


def test_a_second_run_finds_everything_done(demo, capsys):
    runner.run(demo, STAGES)
    assert [outcome.state for outcome in runner.run(demo, STAGES)] == ["done"] * 3
    assert CALLS == ["one", "two", "three"]
    assert "2/3 two" in capsys.readouterr().out


def test_from_a_stage_runs_it_and_all_after_it_again(demo):
    runner.run(demo, STAGES)
    CALLS.clear()
    runner.run(demo, STAGES, start="two")
    assert CALLS == ["two", "three"]


def test_what_is_moved_aside_is_said_on_the_terminal(demo, tmp_path, capfd):
    stages = (Stage("one", body, aside=True),)
    runner.run(demo, stages)
    runner.run(demo, stages, start="one")
    assert f"moved to {tmp_path}/demo/one.old-" in capfd.readouterr().out


def test_a_stage_has_the_seed_that_it_asks_for_and_its_manifest_says_so(tmp_path):
    seen = []

    def seeded(context):
        seen.append((context.folder.name, context.seed, context.config))
        return {}

    stages = (
        Stage("data", seeded),
        Stage("training", seeded, seed="train_seed"),
        Stage("still", seeded, config=("train_seed",), seed=None),
    )
    recipe = Recipe(name="demo", out=str(tmp_path), seed=3)
    runner.run(recipe, stages)
    assert seen == [("data", 3, {}), ("training", 3, {}), ("still", 0, {"train_seed": 3})]
    recipe.train_seed = 4
    assert [outcome.state for outcome in runner.run(recipe, stages)] == ["done", "ran", "ran"]
    assert [manifest_of(tmp_path / "demo" / stage.name)["key"]["seed"] for stage in stages] == [3, 4, None]
    assert load(tmp_path / "demo" / "recipe.yaml").seeds == {"seed": 3, "train_seed": 4}


def test_until_stops_after_a_stage(demo):
    runner.run(demo, STAGES, until="one")
    assert CALLS == ["one"]


def test_curves_are_kept_here_where_their_server_is_out_of_reach(demo, capsys, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_MODE", "online")
    runner.run(demo, STAGES)
    assert os.environ["WANDB_MODE"] == "online"  # nothing trains
    runner.run(demo, [Stage("four", body, packages=("numpy",))])
    assert "W&B (http://127.0.0.1:9) cannot be reached from here" in capsys.readouterr().out
    assert os.environ["WANDB_MODE"] == "offline"


def test_an_unknown_stage_lists_the_known_ones(demo):
    with pytest.raises(StarError, match="no stage 'four' - the stages are one, two, three"):
        runner.run(demo, STAGES, start="four")


def test_two_processes_never_share_a_run(demo, tmp_path):
    with runner._only_run(tmp_path / "demo"), pytest.raises(StarError, match="another process works"):
        runner.run(demo, STAGES)


def test_a_run_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StarError, match="cannot write"):
        runner.run(Recipe(name="demo", out=str(tmp_path / "file")), STAGES)


def test_what_a_stage_prints_goes_to_its_log_and_its_end_is_shown_when_it_fails(demo, tmp_path, capfd):
    def noisy(context):
        os.system("echo from a child")
        print("from Python")
        if context.seed == 13:
            raise RuntimeError("engine died")
        return {"summary": "fine"}

    stages = (Stage("noisy", noisy),)
    runner.run(demo, stages)
    shown = capfd.readouterr().out
    assert "fine" in shown
    assert "from" not in shown
    log = (tmp_path / "demo" / "logs" / "noisy.log").read_text()
    assert "from a child" in log
    assert "from Python" in log
    demo.seed = 13
    with pytest.raises(
        StarError, match=r"stage noisy failed: RuntimeError: engine died; the end of .*noisy\.log"
    ) as end:
        runner.run(demo, stages)
    assert "FAILED" in capfd.readouterr().out and "--from" not in end.value.remedy
    with pytest.raises(StarError, match=r"it goes on from here; leave out --from noisy then"):
        runner.run(demo, stages, start="noisy")


def test_a_refusal_after_from_says_how_to_go_on(demo):
    def refuse(context):
        raise StarError("the endpoint is gone", "run again")

    with pytest.raises(StarError, match=r"the endpoint is gone - run again; leave out --from one then"):
        runner.run(demo, (Stage("one", refuse),), start="one")


def test_a_secret_is_masked_in_our_output_and_messages_and_a_log_is_private(demo, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "wb-0123456789abcdef")

    def telling(context):
        os.system("echo child $WANDB_API_KEY")
        print(os.environ["WANDB_API_KEY"])
        context.progress(1, 2, f"live {os.environ['WANDB_API_KEY']}")
        if context.seed == 13:
            raise RuntimeError(f"refused {os.environ['WANDB_API_KEY']}")
        return {"summary": f"with {os.environ['WANDB_API_KEY']}"}

    stages = (Stage("telling", telling),)
    runner.run(demo, stages)
    assert "with ***" in capfd.readouterr().out
    demo.seed = 13
    with pytest.raises(StarError, match=r"refused \*\*\*; the end of") as caught:
        runner.run(demo, stages)
    log = tmp_path / "demo" / "logs" / "telling.log"
    assert log.stat().st_mode & 0o777 == 0o600
    own = [line for line in log.read_text().splitlines() if not line.startswith("child")]
    assert "***" in own and "child ***" in str(caught.value)
    for text in (*own, str(caught.value), *capfd.readouterr()):
        assert "0123456789abcdef" not in text


def test_stages_are_run_by_name_and_the_run_opens(tmp_path):
    small = ["source.options={users: 60, items: 60}", "prompt={profile: compact}"]
    (tmp_path / "r.yaml").write_text(f"out: {tmp_path}")
    run = runner.run_recipe(load(tmp_path / "r.yaml", small), ["tables"])
    assert [path.name for path in run.folder.iterdir() if (path / "manifest.json").exists()] == ["tables"]
    assert len(Run.open(run.folder).items) == len(run.items) == 60
    with pytest.raises(StarError, match="there is no stage 'nowhere'"):
        runner.run_recipe(load(tmp_path / "r.yaml", small), ["nowhere"])
    with pytest.raises(StarError, match="is not a run folder"):
        Run.open(tmp_path / "nothing")
