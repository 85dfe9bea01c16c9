"""The stages evaluate and report: examples are not chosen to flatter."""

import json

import pytest

from star_rl.evaluation import stages
from star_rl.evaluation.evaluate import open_tasks
from star_rl.files import read_json
from star_rl.ledger import read_rows
from star_rl.pipeline.stage import Context
from star_rl.records import Task

TASKS = [
    Task(f"t{number}", "synthetic", "classic", "u", tuple(str(n) for n in range(20)), "7", 0) for number in range(4)
]

FURTHER = ["star:temperature=0", "mars:strategy=users"]
NAMED = ["star temperature=0", "MARS (rules) strategy=users"]


def test_examples_are_the_best_the_middle_and_the_worst():
    gain = {"t0": -1.0, "t1": 0.5, "t2": 0.0, "t3": 2.0}
    assert [one.task_id for one in stages.extremes(TASKS, gain)] == ["t3", "t2", "t0"]


def test_a_stage_moved_aside_is_none_of_the_report(tmp_path):
    for name in ("sft", "sft.old-20260101-000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    assert stages._stages(tmp_path) == ["sft"]


def test_the_stage_answers_with_every_method_resumes_and_keeps_what_students_wrote(run, engine, tmp_path):
    opened, seed, tasks = open_tasks(run)
    text = f"<recommend>\n<Thinking>So.</Thinking>\n<JSON>{json.dumps(['5'])}</JSON>\n</recommend>"
    options = {**opened.config["evaluate"], "samples": 2, "bootstrap": 200, "methods": FURTHER}
    config = {**opened.config, "evaluate": options, "train_seed": 8}
    context = Context(tmp_path, config, seed, {}, run, lambda *now: None)
    student = engine(text, fails=True)
    with pytest.raises(Exception, match="the engine failed"):
        stages.evaluate_stage(context)
    student.fails = False
    figures = stages.evaluate_stage(context)
    assert [row["name"] for row in figures["methods"]] == [
        "random", "popularity", "item_knn", "MARS (rules)", "sft", "star", *NAMED,
    ]  # fmt: skip
    assert seed != engine.options.seed == 8  # students sample by the seed of training, all else is the run's
    assert {row["samples"] for row in figures["methods"][:4]} == {1} and figures["methods"][5]["samples"] == 2
    assert {(pair["a"], pair["b"]) for pair in figures["pairs"]} == {
        ("star", "sft"), ("star", "MARS (rules)"), ("star", "item_knn"), ("sft", "MARS (rules)"),
        *(("star", name) for name in NAMED),
    }  # fmt: skip
    asked = student.asked
    assert stages.evaluate_stage(context)["n"] == len(tasks) and student.asked == asked
    assert read_json(tmp_path / "metrics.json")["tasks"]["fingerprint"] == tasks.fingerprint
    rows = list(read_rows(tmp_path / "answers" / "star.jsonl"))
    assert len(rows) == 2 * len(tasks) and rows[0]["trace"]["model_text"] == text
