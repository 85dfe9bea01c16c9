"""A store or a task file of another world is refused by every command and stage that reads one."""

import shutil
from dataclasses import asdict, replace

import pytest

from star_rl.errors import StarError
from star_rl.evaluation.tasks import read_tasks
from star_rl.pipeline import chain, recipe
from star_rl.pipeline.stage import Context
from star_rl.records import tasks_to, write_table
from tests.fakes import make_run, star_rl


@pytest.fixture(scope="module")
def runs(run, tmp_path_factory):
    """Two runs of other worlds, and a copy of the first that holds the second's store."""
    folder = tmp_path_factory.mktemp("runs")
    two, mixed = make_run(folder, "seed=5"), folder / "mixed"
    shutil.copytree(run, mixed)
    shutil.rmtree(mixed / "evidence" / "store")
    shutil.copytree(two / "evidence" / "store", mixed / "evidence" / "store")
    return run, two, mixed


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "random", "--tasks", "RUN", "--out", "OUT"],
        ["corpus", "random", "--tasks", "RUN", "--out", "OUT"],
        ["sample", "RUN", "--model", "OUT", "--out", "OUT/o.jsonl"],
        ["official", "RUN", "random", "--out", "OUT"],
        ["latency", "RUN", "--out", "OUT"],
    ],
)
def test_a_command_refuses_the_store_of_another_run(runs, tmp_path, capsys, words):
    places = {"RUN": str(runs[2]), "OUT": str(tmp_path / "out")}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    assert star_rl(*words) == 2
    assert "was built from data" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["teach", "sample", "grpo", "evaluate"])
def test_a_stage_refuses_the_store_of_another_run(runs, tmp_path, stage):
    mixed = runs[2]
    config = asdict(recipe.load(mixed / "recipe.yaml"))
    body = {one.name: one.body for one in chain.STAGES}[stage]
    inputs = {name: mixed / name for name in ("tables", "tasks", "evidence", "sft", "grpo", "grpo_set", "student")}
    with pytest.raises(StarError, match="was built from data"):
        body(Context(tmp_path, config, 0, inputs, mixed, lambda *_: None))


def test_teach_refuses_a_store_of_other_data_or_that_saw_a_target(runs, tmp_path, capsys):
    one, two, _ = runs
    words = ["teach", one / "tables", tmp_path / "out", "--tasks", one / "tasks" / "train.parquet", "--first", 1]
    assert star_rl(*words, "--store", one / "evidence" / "store") == 0
    assert star_rl(*words, "--store", two / "evidence" / "store") == 2
    assert "was built from data" in capsys.readouterr().err
    assert star_rl(*words, "--store", one / "evidence" / "store", "--scenario", "user_cold_start") == 2
    assert "scenario 'classic', not 'user_cold_start'" in capsys.readouterr().err
    visible = one / "tasks" / "visible.parquet"
    seen = replace(read_tasks(one / "tasks" / "train.parquet")[0], **target_of(visible))
    write_table(tmp_path / "seen.parquet", tasks_to([seen]), "tasks")
    words = ["teach", one / "tables", tmp_path / "new", "--tasks", tmp_path / "seen.parquet", "--visible", visible]
    assert star_rl(*words, "--store", one / "evidence" / "store") == 2
    assert "hold its target" in capsys.readouterr().err


def target_of(visible):
    """A pair that the visible interactions hold, as the fields of a task."""
    from star_rl.records import read_interactions

    row = read_interactions(visible).slice(0, 1).to_pylist()[0]
    names = [row["item_id"], "i1", "i2"]
    return {"user_id": row["user_id"], "ground_truth": row["item_id"], "candidates": tuple(dict.fromkeys(names))}


def test_a_task_file_of_another_world_is_refused(runs, tmp_path, capsys):
    one = runs[0]
    task = read_tasks(one / "tasks" / "test.parquet")[0]
    foreign = replace(task, candidates=("x1", "x2"), ground_truth="x1")
    for name, change, said in (
        ("foreign", foreign, "of another world"),
        ("seen", replace(task, **target_of(one / "tasks" / "visible.parquet")), "hold its target"),
    ):
        file = tmp_path / f"{name}.parquet"
        write_table(file, tasks_to([change]), "tasks")
        for command in ("evaluate", "corpus"):
            assert star_rl(command, "random", "--tasks", file, "--world", one, "--out", tmp_path / "e") == 2
            assert said in capsys.readouterr().err
