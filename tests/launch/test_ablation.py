"""Table 2: which runs are made, what they share, and how the table is filled. The chain itself is tested elsewhere."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from launch import ablation, chain, local
from star_rl import cli
from star_rl.errors import StarError
from star_rl.files import write_json, write_text
from star_rl.integrations.swift.sft import sieve_long_rows

RECIPE = """
name: small
source: {name: synthetic, options: {users: 120, items: 60, categories: 6, shortest: 14, longest: 20}}
split: {options: {train_per_user: 2, max_test: 6, max_valid: 2}}
neighbours: {items_k: 20, users_k: 10, liked_k: 20, threads: 1}
evidence: {size: short, budget: 6}
prompt: {profile: compact, history: 8, top: 10}
tools: {lens: candidates}
"""


def judged(folder: Path, fingerprint="f", **rates):
    """What the stage ``evaluate`` leaves, with HR_avg by method."""
    row = {"n": 6, "hr_avg_low": 1.0, "hr_avg_high": 99.0}
    methods = [{"name": name, "hr_avg": rate, **row} for name, rate in rates.items()]
    cells = [
        {**one, "source": "x", "scenario": scenario, "hr_avg": one["hr_avg"] + shift}
        for one in methods
        for scenario, shift in (("classic", -1.0), ("long_term", 1.0))
    ]
    tasks = {"fingerprint": fingerprint, "official": False}
    write_json(folder / "evaluate" / "metrics.json", {"methods": methods, "cells": cells, "tasks": tasks})
    return folder


def test_the_table_is_filled_in_the_papers_order(tmp_path):
    folders = {
        "full": judged(tmp_path / "full", teacher=50.0, sft=60.0, star=70.0),
        "no_tools": judged(tmp_path / "no_tools", teacher=40.0, sft=45.0, star=55.0),
    }
    made = ablation.table(folders)
    assert {name: row["average"] for name, row in made["rows"].items()} == {
        "MARS": 50.0, "STAR": 70.0, "STAR w/o GRPO": 60.0, "MARS w/o Tools": 40.0, "STAR w/o Tools": 55.0,
    }  # fmt: skip
    text = ablation.markdown(made)
    assert "| STAR w/o GRPO | 59.0 | 61.0 | 60.0 | 60.0 [1.0, 99.0] | 75.5 |" in text
    assert "| STAR w/o Planner | \u2013 | \u2013 | \u2013 | \u2013 | 76.9 |" in text
    assert "Not comparable" in text and "MARS-Planner needs a served model" in text


def test_runs_on_different_tasks_make_no_table(tmp_path):
    folders = {
        "full": judged(tmp_path / "full", teacher=50.0, sft=60.0, star=70.0),
        "no_tools": judged(tmp_path / "no_tools", "g", teacher=40.0, sft=45.0, star=55.0),
    }
    with pytest.raises(StarError, match="were judged on different tasks"):
        ablation.table(folders)


def test_variants_share_what_comes_before_the_teacher_and_differ_after_it(tmp_path):
    write_text(tmp_path / "small.yaml", RECIPE)
    states = {}

    def until_the_set(loaded):
        states[loaded.name] = [one.state for one in local.run(loaded, chain.STAGES, until="sft_set")]

    wanted = ["full", "no_tools", "no_planner"]
    folders = ablation.run_variants(str(tmp_path / "small.yaml"), [f"out={tmp_path}"], wanted, until_the_set)
    assert list(folders) == wanted and folders["no_tools"] == tmp_path / "small-no_tools"
    assert states == {
        "small-full": ["ran"] * 6,
        "small-no_tools": ["done"] * 4 + ["ran"] * 2,
        "small-no_planner": ["done"] * 4 + ["ran"] * 2,
    }
    ablation.run_variants(str(tmp_path / "small.yaml"), [f"out={tmp_path}"], wanted, until_the_set)
    assert all(found == ["done"] * 6 for found in states.values())


@pytest.mark.parametrize("variant", ablation.VARIANTS)
def test_a_student_of_every_variant_can_be_made_and_trained_on_its_set(tmp_path, variant):
    write_text(tmp_path / "small.yaml", RECIPE)

    def until_the_student(loaded):
        local.run(loaded, chain.STAGES, until="student")

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
