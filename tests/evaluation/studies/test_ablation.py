"""Table 2: which runs are made, what they share, and how the table is filled. The chain itself is tested elsewhere."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from star_rl import cli
from star_rl.errors import StarError
from star_rl.evaluation import paper, results
from star_rl.evaluation.results import Answer
from star_rl.evaluation.scores import score
from star_rl.evaluation.studies import ablation
from star_rl.evaluation.tasks import fingerprint_of, task_set, write_tasks
from star_rl.files import write_json, write_text
from star_rl.integrations.swift.sft import sieve_long_rows
from star_rl.pipeline import chain, runner
from star_rl.records import Task
from star_rl.report.grid import latex, markdown

RECIPE = """
name: small
source: {name: synthetic, options: {users: 120, items: 60, categories: 6, shortest: 14, longest: 20}}
split: {options: {train_per_user: 2, max_test: 6, max_valid: 2}}
neighbours: {items_k: 20, users_k: 10, liked_k: 20, threads: 1}
evidence: {size: short, budget: 6}
prompt: {profile: compact, history: 8, top: 10}
tools: {lens: candidates}
"""


SCENARIOS = ("classic", "long_term")
IDS = tuple(f"i{place}" for place in range(20))


def evaluated(folder: Path, users="u", caveats=(), **ranks):
    """What the stage ``evaluate`` leaves: method -> ranks of the truth by task, of either scenario in turn."""
    count = len(next(iter(ranks.values())))
    tasks = task_set([Task(f"t{k}", "x", SCENARIOS[k % 2], f"{users}{k}", IDS, "i7", 5) for k in range(count)], 7)
    answers = []
    for name, own in ranks.items():
        for task, rank in zip(tasks.tasks, own, strict=True):
            ranking = [item for item in task.candidates if item != "i7"]
            ranking.insert(rank - 1, "i7")
            answers.append(Answer(name, task, ranking))
    made = results.table_of(answers)
    cells = [
        {"source": source, "scenario": scenario, "n": len(own), "fingerprint": fingerprint_of(own)}
        for (source, scenario), own in tasks.cells.items()
    ]
    about = {"fingerprint": tasks.fingerprint, "official": False, "cells": cells}
    out = folder / "evaluate"
    figures = {**score(made, tasks.tasks, 1, 200, 0), "tasks": about, "notes": [], "caveats": list(caveats)}
    write_json(out / "metrics.json", figures)
    write_tasks(out / "tasks.parquet", tasks.tasks)
    results.write(out / "answers.parquet", made)
    return folder


GOOD, FAIR, POOR = [1, 1, 1, 3, 1, 1], [1, 9, 3, 9, 1, 9], [9, 9, 1, 9, 9, 9]


def test_the_table_is_filled_in_the_papers_order(tmp_path):
    folders = {
        "full": evaluated(
            tmp_path / "full", caveats=["Made of rules."], **{paper.RULES: POOR, "sft": FAIR, "star": GOOD}
        ),
        "no_tools": evaluated(tmp_path / "no_tools", **{paper.RULES: POOR, "sft": POOR, "star": FAIR}),
    }
    made = ablation.table(folders)
    assert {name: round(row["average"], 1) for name, row in made["rows"].items()} == {
        "MARS (rules)": 16.7, "STAR": 94.4, "STAR w/o GRPO": 44.4, "MARS (rules) w/o Tools": 16.7,
        "STAR w/o Tools": 44.4,
    }  # fmt: skip
    grid = ablation.grid(made)
    text = markdown(grid)
    assert "| STAR w/o GRPO | 88.9 | 0.0 | 44.4 | 44.4 [" in text and "| -50.0 [-" in text
    assert "| STAR | 100.0 | 88.9 | 94.4 | 94.4 [83.3, 100.0] | \u2013 | 78.4 |" in text
    assert "| STAR w/o Planner | \u2013 | \u2013 | \u2013 | \u2013 | \u2013 | 76.9 |" in text
    assert "| MARS w/o Planner | \u2013 |" in text and "| MARS (rules) w/o Tools | 33.3 |" in text
    assert "Not comparable" in text and "MARS-Planner needs a served model" in text
    assert "Made of rules." in text and "are no rows of the paper's MARS" in text
    assert r"MARS (rules) w/o Tools & 33.3 & 0.0 &" in latex(grid) and latex(grid).count(r"\midrule") == 2


def test_the_table_of_a_language_models_teacher_keeps_the_papers_name(tmp_path):
    made = ablation.table({"full": evaluated(tmp_path / "full", teacher=POOR, sft=FAIR, star=GOOD)})
    assert list(made["rows"]) == ["MARS", "STAR", "STAR w/o GRPO"]
    assert "no rows of the paper's" not in markdown(ablation.grid(made))


def test_runs_on_different_tasks_or_without_a_method_make_no_table(tmp_path):
    full = evaluated(tmp_path / "full", teacher=POOR, sft=FAIR, star=GOOD)
    other = evaluated(tmp_path / "no_tools", "v", teacher=POOR, sft=POOR, star=FAIR)
    with pytest.raises(StarError, match="different tasks"):
        ablation.table({"full": full, "no_tools": other})
    with pytest.raises(StarError, match="holds no answers of star"):
        ablation.table({"full": evaluated(tmp_path / "less", teacher=POOR, sft=FAIR)})


def test_the_table_is_written_after_each_variant(tmp_path, capsys):
    write_text(tmp_path / "small.yaml", RECIPE)
    seen = []

    def run(loaded):
        if loaded.name.endswith("no_planner"):
            raise StarError("the engine is gone")
        seen.append((tmp_path / "small-table2.md").exists())
        evaluated(tmp_path / loaded.name, teacher=POOR, sft=FAIR, star=GOOD)

    words = (str(tmp_path / "small.yaml"), [f"out={tmp_path}"], ["full", "no_tools", "no_planner"])
    with pytest.raises(StarError, match="the engine is gone"):
        ablation.run_variants(*words, run, ablation.show)
    assert seen == [False, True]
    for kind in ("md", "tex", "html", "json"):
        assert "STAR w/o Tools" in (tmp_path / f"small-table2.{kind}").read_text()
    assert capsys.readouterr().out.count("Table 2: HR_avg") == 2


def test_variants_share_what_comes_before_the_teacher_and_differ_after_it(tmp_path):
    write_text(tmp_path / "small.yaml", RECIPE)
    states = {}

    def until_the_set(loaded):
        states[loaded.name] = [one.state for one in runner.run(loaded, chain.STAGES, until="sft_set")]

    wanted = ["full", "no_tools", "no_planner"]
    folders = ablation.run_variants(str(tmp_path / "small.yaml"), [f"out={tmp_path}"], wanted, until_the_set)
    assert list(folders) == wanted and folders["no_tools"] == tmp_path / "small-no_tools"
    assert states == {
        "small-full": ["ran"] * 8,
        "small-no_tools": ["done"] * 5 + ["ran"] * 3,
        "small-no_planner": ["done"] * 5 + ["ran"] * 3,
    }
    ablation.run_variants(str(tmp_path / "small.yaml"), [f"out={tmp_path}"], wanted, until_the_set)
    assert all(found == ["done"] * 8 for found in states.values())


@pytest.mark.parametrize("variant", ablation.VARIANTS)
def test_a_student_of_every_variant_can_be_made_and_trained_on_its_set(tmp_path, variant):
    write_text(tmp_path / "small.yaml", RECIPE)

    def until_the_student(loaded):
        runner.run(loaded, chain.STAGES, until="student")

    folders = ablation.run_variants(str(tmp_path / "small.yaml"), [f"out={tmp_path}"], [variant], until_the_student)
    data, model = folders[variant] / "sft_set" / "sft.parquet", folders[variant] / "student" / "model"
    assert ("tools" in pq.read_schema(data).names) == (variant != "no_tools")
    kept, rows, dropped, tokens = sieve_long_rows(data, model, 4096, tmp_path / "kept.parquet")
    assert kept == data and rows == pq.read_metadata(data).num_rows > 0 and dropped == 0 and tokens > 50


def test_what_the_variants_set_themselves_is_refused(tmp_path, capsys):
    write_text(tmp_path / "small.yaml", RECIPE)
    for pair in ("sft_set.setting=full", "name=x"):
        assert cli.main(["ablate", str(tmp_path / "small.yaml"), pair]) == 2
        assert "set name and sft_set.setting themselves" in capsys.readouterr().err
    assert cli.main(["ablate", str(tmp_path / "small.yaml"), "--only", "no_luck"]) == 2
    assert "there is no variant 'no_luck'" in capsys.readouterr().err
