"""models/synthetic: the student that comes with the project answers, and its training sets are whole."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from star_rl import parse
from star_rl.evaluation.evaluate import evaluate
from star_rl.files import import_file

MODEL = Path("models/synthetic")


@pytest.fixture(scope="module")
def recommend():
    return import_file(Path("examples/recommend.py"))


def test_the_student_answers_in_transformers_with_tool_calls(recommend, tmp_path, capsys):
    rankings = recommend.main(["--tasks", "8", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.count("ItemCF") >= 8 and printed.count("UserCF") >= 8
    assert sum(len(ranks) == len(set(ranks)) == 5 for ranks in rankings) >= 7
    run = recommend.Run.open(tmp_path / "learn-synthetic")
    for task, ranks in zip(run.tasks("test"), rankings, strict=False):
        assert set(ranks) <= set(task.candidates)


def test_its_sets_hold_what_the_card_says():
    card = (MODEL / "data" / "README.md").read_text()
    for name in ("sft", "train", "valid"):
        table = pq.read_table(MODEL / "data" / f"{name}.parquet")
        assert f"| `{name}.parquet` | {table.num_rows:,} |" in card
    taught = pq.read_table(MODEL / "data" / "sft.parquet", columns=["messages"]).slice(0, 20).to_pylist()
    assert all(parse("".join(m["content"] for m in row["messages"] if m["role"] == "assistant")) for row in taught)
    tasks = pq.read_table(MODEL / "data" / "train.parquet").to_pylist()
    assert all(row["reward_model"]["ground_truth"] in row["extra_info"]["candidates"] for row in tasks)


def test_the_folder_is_small_and_names_its_data():
    assert sum(file.stat().st_size for file in MODEL.rglob("*") if file.is_file()) < 5e6
    assert json.loads((MODEL / "star_rl.json").read_text())["source"] == "synthetic"


@pytest.mark.slow
@pytest.mark.engine
def test_the_student_answers_in_vllm(recommend, tmp_path):
    recommend.main(["--tasks", "0", "--out", str(tmp_path)])
    [row] = evaluate([f"star:{MODEL}"], tmp_path / "learn-synthetic", tmp_path / "scored", limit=60)["methods"]
    assert row["hr_avg"] > 40 and row["format_rate"] > 0.9
