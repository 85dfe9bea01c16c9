"""``star-rl best-of-k`` and ``corpus`` on a small world, without an engine."""

import shutil

import pytest

from star_rl.evaluation import results
from star_rl.evaluation.results import Answer
from star_rl.evaluation.tasks import write_tasks
from star_rl.files import read_json
from star_rl.records import Task
from tests.fakes import star_rl

TASKS = [Task(f"t{n}", "films", "classic", "u", tuple(map(str, range(20))), "7", 5) for n in range(3)]


def test_curves_are_printed_and_kept(tmp_path, capsys):
    answers = [Answer("star", task, ["7"] if k else ["1"], sample=k) for task in TASKS for k in range(2)]
    results.write(tmp_path / "answers.parquet", results.table_of(answers))
    write_tasks(tmp_path / "tasks.parquet", TASKS)
    assert star_rl("best-of-k", tmp_path) == 0
    assert "| best | 50.0 [50.0, 50.0] | 100.0 [43.9, 100.0] |" in capsys.readouterr().out
    (found,) = read_json(tmp_path / "best_of_k.json")["methods"]
    assert found["samples"] == 2
    assert star_rl("best-of-k", tmp_path, "mars") == 2
    assert "there are no answers of mars" in capsys.readouterr().err
    assert star_rl("best-of-k", tmp_path / "absent") == 2


def test_all_items_are_ranked(run, tmp_path, capsys):
    words = ["corpus", "item_knn", "random", "--tasks", run, "--out", tmp_path, "--depth", "30"]
    assert star_rl(*words, "--retrieve", "popularity", "item_knn") == 0
    rows = read_json(tmp_path / "corpus.json")["rows"]
    assert [(row["retriever"], row["method"]) for row in rows] == [
        ("popularity", "\u2013"), ("item_knn", "\u2013"), ("popularity", "item_knn"), ("item_knn", "item_knn"),
        ("popularity", "random"), ("item_knn", "random"),
    ]  # fmt: skip
    assert all(row["n"] == 12 and row["failed"] == 0 and row["hr20"] <= row["retrieved"] for row in rows)
    assert rows[0]["retrieved"] == rows[2]["retrieved"] == rows[4]["retrieved"]
    assert "| item_knn | random | 30 | 12 | 0 |" in capsys.readouterr().out


FAILING = """
import pathlib
class Fails:
    name = "fails"
    def rank(self, context):
        raise ValueError("no")
class Counts:
    name = "counts"
    def __init__(self, file):
        self.file = pathlib.Path(file)
    def rank(self, context):
        with self.file.open("a") as handle:
            handle.write("x")
        return context.task.candidates
def fails(world, seed):
    return Fails()
def counts(world, seed, file):
    return Counts(file)
"""


def test_a_method_that_always_fails_has_not_what_its_retriever_has(run, tmp_path, capsys):
    (tmp_path / "m.py").write_text(FAILING)
    words = ["corpus", f"python:{tmp_path}/m.py:fails", "--tasks", run, "--out", tmp_path / "o", "--depth", "60"]
    assert star_rl(*words, "--retrieve", "item_knn") == 0
    alone, row = read_json(tmp_path / "o" / "corpus.json")["rows"]
    assert alone["hr20"] > 0 and row["hr20"] == row["hr10"] == row["ndcg20"] == 0.0
    assert row["failed"] == row["n"] == 12 and row["retrieved"] == alone["retrieved"] and not alone["failed"]
    assert (
        "fails on what item_knn retrieved: 12 of 12 tasks failed and count as misses (12 x " in capsys.readouterr().out
    )


def test_what_was_answered_is_not_asked_again_and_earlier_rows_stay(run, tmp_path):
    (tmp_path / "m.py").write_text(FAILING)
    count, out = tmp_path / "count", tmp_path / "o"
    counts = f"python:{tmp_path}/m.py:counts:file={count}"
    words = ["--tasks", run, "--out", out, "--depth", "30", "--retrieve", "popularity", "--timeout", "20"]
    assert star_rl("corpus", counts, *words, "--limit", 2) == 0
    few = len(count.read_text())
    assert star_rl("corpus", counts, *words) == 0
    every = len(count.read_text())
    assert every > few and star_rl("corpus", counts, *words) == 0 and len(count.read_text()) == every
    assert star_rl("corpus", "random", *words) == 0
    assert [row["method"] for row in read_json(out / "corpus.json")["rows"]] == ["counts", "\u2013", "random"]
    (ledger,) = out.glob("corpus/counts*.jsonl")
    lines = ledger.read_text().splitlines()
    ledger.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    assert star_rl("corpus", counts, *words) == 0 and every < len(count.read_text()) < 2 * every
    assert star_rl("corpus", counts, *words, "--seed", 5) == 2  # another order of the windows
    assert star_rl("corpus", counts, *words, "--window", 10) == 2
    before = len(count.read_text())
    assert star_rl("corpus", counts + ":name=other", *words, "--limit", 2) == 2  # fewer tasks than were answered
    assert len(count.read_text()) == before


def test_other_parts_and_files_of_tasks_are_ranked_too(run, tmp_path, capsys):
    words = ["corpus", "random", "--depth", "20", "--retrieve", "popularity", "--out"]
    assert star_rl(*words, tmp_path / "a", "--tasks", run, "--part", "valid") == 0
    file = tmp_path / "some.parquet"
    file.write_bytes((run / "tasks" / "test.parquet").read_bytes())
    assert star_rl(*words, tmp_path / "b", "--tasks", file) == 2
    assert star_rl(*words, tmp_path / "b", "--tasks", file, "--world", run) == 0
    assert star_rl(*words, tmp_path / "c", "--tasks", file, "--world", run, "--timeout", 0) == 2
    assert "'--timeout': 0" in capsys.readouterr().err


@pytest.mark.parametrize("option, value", [("--depth", 0), ("--window", 1), ("--retrieve", "bm25")])
def test_options_out_of_range_are_refused(run, tmp_path, capsys, option, value):
    assert star_rl("corpus", "random", "--tasks", run, "--out", tmp_path, option, value) == 2
    assert str(value) in capsys.readouterr().err


def test_latency_is_that_of_a_student(run, tmp_path, capsys):
    untrained = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("sft", "grpo"))
    assert star_rl("latency", untrained, "--out", tmp_path) == 2
    assert "there is no checkpoint" in capsys.readouterr().err
    assert star_rl("latency", run, "--method", "random", "--out", tmp_path) == 2
    assert "star-rl: " in capsys.readouterr().err
