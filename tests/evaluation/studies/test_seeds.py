"""Several seeds of one recipe: what they share, how they resume, and the report."""

import pytest

from star_rl import cli
from star_rl.errors import StarError
from star_rl.evaluation import paper
from star_rl.evaluation.studies import seeds
from star_rl.files import read_json, write_text
from star_rl.pipeline import chain, runner
from star_rl.pipeline.stage import Stage, manifest_of
from star_rl.report.grid import markdown
from tests.evaluation.studies.test_ablation import FAIR, GOOD, POOR, RECIPE, evaluated

CALLS: list[tuple[str, str, int]] = []
KILL: list[tuple[str, int]] = []


def body(context):
    if (context.folder.name, context.seed) in KILL:
        raise KeyboardInterrupt
    CALLS.append((context.run.name, context.folder.name, context.seed))
    (context.folder / "out.json").write_text(f'"{context.folder.name} {context.seed}"')
    return {"summary": "written"}


def evaluate(context):
    trained = context.config["train_seed"]
    star = GOOD if trained == 7 else [*GOOD[:-1], 9]
    evaluated(context.run, popularity=POOR, **{paper.RULES: FAIR, "sft": FAIR, "star": star})
    return {"summary": "scored"}


STAGES = (
    Stage("tables", body, seed=None),
    Stage("tasks", body, ("tables",)),
    Stage("teach", body, ("tasks",), aside=True),
    Stage("student", body, ("teach",), seed="train_seed"),
    Stage("evaluate", evaluate, ("tasks", "student"), ("train_seed",)),
)


@pytest.fixture(autouse=True)
def recipe(tmp_path, monkeypatch):
    CALLS.clear()
    KILL.clear()
    monkeypatch.setattr(chain, "STAGES", STAGES)
    write_text(tmp_path / "small.yaml", f"{RECIPE}\nout: {tmp_path}\n")
    return str(tmp_path / "small.yaml")


def run(recipe, count=2, vary="training", overrides=()):
    return seeds.run_seeds(recipe, overrides, count, vary, STAGES, lambda one, stages: runner.run(one, stages))


def ran(folder):
    return [(stage, seed) for run, stage, seed in CALLS if run == folder]


def test_seeds_share_data_and_teacher_and_differ_from_the_student_on(recipe, tmp_path):
    folders = run(recipe)
    assert folders == {7: tmp_path / "small-seed7", 8: tmp_path / "small-seed8"}
    assert ran("small-seed7") == [("tables", 0), ("tasks", 7), ("teach", 7), ("student", 7)]
    assert ran("small-seed8") == [("student", 8)]
    keys = {stage.name: manifest_of(folders[8] / stage.name)["key"] for stage in STAGES}
    assert [key["seed"] for key in keys.values()] == [None, 7, 7, 8, 7]
    assert keys["evaluate"]["config"] == {"train_seed": 8}
    CALLS.clear()
    run(recipe)
    one = seeds.recipe.load(recipe, ["name=small-seed8", "train_seed=8"])
    assert {outcome.state for outcome in runner.run(one, STAGES)} == {"done"} and CALLS == []


def test_with_vary_all_the_tables_alone_are_shared(recipe):
    folders = run(recipe, vary="all", overrides=["train_seed=3"])
    assert list(folders) == [7, 8]
    assert ran("small-seed8") == [("tasks", 8), ("teach", 8), ("student", 8)]
    assert manifest_of(folders[8] / "tables") == manifest_of(folders[7] / "tables")


def test_the_first_seed_of_training_is_the_recipe_s(recipe):
    assert list(run(recipe, 1, overrides=["train_seed=30"])) == [30]
    assert ran("small-seed30") == [("tables", 0), ("tasks", 7), ("teach", 7), ("student", 30)]


def test_the_same_command_resumes_after_a_kill_in_the_second_seed(recipe):
    KILL.append(("student", 8))
    with pytest.raises(KeyboardInterrupt):
        run(recipe, 3)
    KILL.clear()
    CALLS.clear()
    assert list(run(recipe, 3)) == [7, 8, 9]
    assert CALLS == [("small-seed8", "student", 8), ("small-seed9", "student", 9)]


def test_a_change_before_the_student_reaches_every_seed_once(recipe, tmp_path, monkeypatch):
    run(recipe)
    CALLS.clear()
    run(recipe, overrides=["seed=9", "train_seed=7"])
    assert ran("small-seed7") == [("tasks", 9), ("teach", 9), ("student", 7)]
    assert ran("small-seed8") == [("student", 8)]
    assert (tmp_path / "small-seed8/teach/out.json").read_text() == '"teach 9"'
    assert len(list((tmp_path / "small-seed8").glob("teach.old-*"))) == 1


def test_until_a_shared_stage_ends_every_seed_there(recipe):
    words = (recipe, [], 2, "training", STAGES[:2], lambda one, stages: runner.run(one, stages))
    assert list(seeds.run_seeds(*words)) == [7, 8]
    assert CALLS == [("small-seed7", "tables", 0), ("small-seed7", "tasks", 7)]


@pytest.mark.parametrize(
    "pair",
    ["student.shape.seed=3", "sft.overrides.seed=0", "grpo.overrides.verl.data.seed=1", "engine.options.seed=5"],
)
def test_an_option_that_fixes_a_seed_is_refused(recipe, pair):
    with pytest.raises(StarError, match=f"{pair} is the same for every seed"):
        run(recipe, overrides=[pair])
    assert CALLS == []


def test_a_seed_beyond_the_largest_is_refused(recipe):
    with pytest.raises(StarError, match="train_seed=4294967296"):
        run(recipe, 2, overrides=[f"seed={2**32 - 1}"])


def test_the_report_has_mean_spread_and_paired_intervals(tmp_path):
    better, same = [1, 1, 1, 1, 1, 1], [1, 9, 3, 9, 1, 9]
    folders = {
        7: evaluated(tmp_path / "a", caveats=["Synthetic."], popularity=POOR, teacher=FAIR, sft=same, star=GOOD),
        8: evaluated(tmp_path / "b", caveats=["Synthetic."], popularity=POOR, teacher=FAIR, sft=POOR, star=better),
    }
    made = seeds.table(folders, seeds.pairs_of(["star:popularity", "star:sft"]))
    star = made["methods"]["star"]["hr_avg"]
    assert star["seeds"] == {"7": pytest.approx(94.44, abs=0.01), "8": pytest.approx(100)}
    assert (star["mean"], star["sd"]) == (pytest.approx(97.22, abs=0.01), pytest.approx(3.93, abs=0.01))
    assert (star["min"], star["max"]) == (star["seeds"]["7"], star["seeds"]["8"])
    assert [(pair["a"], pair["b"]) for pair in made["pairs"]] == [
        ("star", "sft"), ("star", "teacher"), ("sft", "popularity"), ("star", "popularity"),
    ]  # fmt: skip
    own = made["pairs"][0]["seeds"]
    assert [pair["n"] for pair in own.values()] == [6, 6, 6]
    assert own["all"]["difference"] == pytest.approx((own["7"]["difference"] + own["8"]["difference"]) / 2)
    assert own["all"]["low"] <= own["all"]["difference"] <= own["all"]["high"]
    text = "\n".join(markdown(grid) for grid in seeds.grids_of(made))
    assert "| star | 94.4 | 100.0 | 97.2 | 3.9 | 94.4 .. 100.0 |" in text
    assert "Pairs are tasks (7: 6, 8: 6, all: 6)" in text and text.count("Synthetic.") == 1


def test_runs_on_other_tasks_are_pooled_task_by_task(tmp_path):
    folders = {
        7: evaluated(tmp_path / "a", popularity=POOR, teacher=FAIR, sft=FAIR, star=GOOD),
        8: evaluated(tmp_path / "b", popularity=POOR[:4], teacher=FAIR[:4], sft=FAIR[:4], star=GOOD[:4]),
    }
    own = seeds.table(folders)["pairs"][0]["seeds"]
    assert [pair["n"] for pair in own.values()] == [6, 4, 6]


def test_one_seed_has_no_deviation(tmp_path):
    made = seeds.table({7: evaluated(tmp_path / "a", popularity=POOR, teacher=FAIR, sft=FAIR, star=GOOD)})
    assert made["methods"]["star"]["hr_avg"]["sd"] is None
    assert "| star | 94.4 | 94.4 | \u2013 | 94.4 .. 94.4 |" in markdown(seeds.grids_of(made)[0])


def test_a_method_of_the_recipe_is_compared_by_its_name():
    further = ["fusion", "mars:strategy=history:name=best", "star:temperature=0"]
    assert seeds.pairs_of(["star:fusion", "star:best"], further)[-2:] == [("star", "fusion"), ("star", "best")]
    with pytest.raises(StarError, match="is not a pair A:B of two methods"):
        seeds.pairs_of(["sft:star:temperature=0"], further)


def test_a_run_without_a_method_is_named(tmp_path):
    with pytest.raises(StarError, match="not every run has answers of teacher"):
        seeds.table({7: evaluated(tmp_path / "a", popularity=POOR, sft=FAIR, star=GOOD)})


def test_the_command_runs_reports_and_writes_beside_the_runs(recipe, tmp_path, capsys):
    assert cli.main(["run", recipe, "--seeds", "2", "--pairs", "star:popularity"]) == 0
    shown = capsys.readouterr().out
    assert "small-seed8" in shown and "star minus MARS (rules)" in shown and "all: 6" in shown
    made = read_json(tmp_path / "small-seeds.json")
    assert list(made["runs"]) == ["7", "8"] and len(made["pairs"]) == 4
    assert "star minus popularity" in (tmp_path / "small-seeds.md").read_text()


def test_without_an_evaluation_there_is_no_report(recipe, tmp_path):
    assert cli.main(["run", recipe, "--seeds", "1", "--until", "student"]) == 0
    assert (tmp_path / "small-seed7/student").is_dir() and not (tmp_path / "small-seeds.json").exists()


@pytest.mark.parametrize(
    "words, says",
    [
        (["--seeds", "2", "grpo.overrides.verl=5"], "verl"),
        (["--seeds", "0"], "0 is not in the range"),
        (["--seeds", "two"], "'two' is not a valid integer"),
        (["--seeds", "2", "--from", "student"], "would run every seed again after a kill"),
        (["--seeds", "2", "--pairs", "star:luck"], "--pairs star:luck is not a pair A:B of two methods"),
        (["--seeds", "2", "--pairs", "star"], "--pairs star is not a pair"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_exit_code_2(recipe, words, says, capsys):
    assert cli.main(["run", recipe, *words]) == 2
    assert says in capsys.readouterr().err and CALLS == []


def test_a_second_command_at_once_is_refused_at_the_run_that_is_being_made(recipe, tmp_path, capsys):
    run(recipe, 1)
    CALLS.clear()
    with runner._only_run(tmp_path / "small-seed8"):
        assert cli.main(["run", recipe, "--seeds", "2"]) == 2
    assert "another process works in" in capsys.readouterr().err and CALLS == []
