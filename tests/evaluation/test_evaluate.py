"""``star-rl evaluate`` and ``compare`` on a small world, without an engine."""

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest

from star_rl import locks
from star_rl.cli.evaluate import compare
from star_rl.errors import StarError
from star_rl.evaluation import evaluate as evaluation
from star_rl.evaluation.evaluate import is_official, open_tasks, run_methods, seal
from star_rl.evaluation.methods import make
from star_rl.evaluation.paper import RULES
from star_rl.evaluation.studies import ablation
from star_rl.evaluation.tasks import read_tasks
from star_rl.files import read_json
from tests.fakes import star_rl

OWN = """
import time

class Method:
    def __init__(self, kind):
        self.name, self.kind = kind, kind

    def rank(self, context):
        task = context.task
        if self.kind == "raises":
            raise OSError("no")
        if self.kind == "hangs":
            time.sleep(60)
        return ",".join(task.candidates) if self.kind == "says" else list(task.candidates)

def make(world, seed, kind="fine"):
    return Method(kind)

def nothing(world, seed):
    return 3
"""
SHUT = """
from star_rl.evaluation.methods import Method

class Shut(Method):
    name = "shut"

    async def __aenter__(self):
        raise ValueError("no such device")

    async def rank(self, context):
        return context.task.candidates

def make(world, seed):
    return Shut()
"""


def test_methods_answer_and_a_second_call_adds_to_them(run, tmp_path, capsys):
    assert star_rl("evaluate", "random", "item_knn", "--tasks", run, "--out", tmp_path / "e") == 0
    assert "item" in capsys.readouterr().out
    assert star_rl("evaluate", "teacher", "mars:tools=off", "--tasks", run, "--out", tmp_path / "e") == 0
    scored = read_json(tmp_path / "e" / "metrics.json")
    assert [row["name"] for row in scored["methods"]] == ["random", "item_knn", RULES, f"{RULES} w/o tools"]
    assert [row["n"] for row in scored["methods"]] == [12] * 4
    assert scored["methods"][3]["tool_calls"] == 0 and scored["methods"][2]["tool_calls"] > 0
    assert scored["tasks"]["official"] is False
    first, second = scored["caveats"]
    assert first.startswith("The teacher is made of rules") and second.startswith("The data are synthetic")
    assert all(words in (tmp_path / "e" / "report.html").read_text() for words in scored["caveats"])
    assert all(f"note: {words}" in capsys.readouterr().out for words in scored["caveats"][:1])
    table = pq.read_table(tmp_path / "e" / "answers.parquet")
    assert len(table) == 48
    shuffled = {task.task_id: task.candidates for task in read_tasks(tmp_path / "e" / "tasks.parquet")}
    given = {task.task_id: task.candidates for task in read_tasks(run / "tasks" / "test.parquet")}
    assert shuffled != given and all(sorted(shuffled[name]) == sorted(given[name]) for name in given)
    assert star_rl("compare", tmp_path / "e", "--out", tmp_path / "t") == 0
    out = capsys.readouterr().out
    assert "Not comparable" in out and f"{RULES} w/o tools" in out
    assert {path.name for path in (tmp_path / "t").iterdir()} == {
        f"comparison.{kind}" for kind in ("md", "tex", "json", "html")
    }


def test_the_answers_of_a_method_do_not_depend_on_who_else_is_asked(run, tmp_path):
    star_rl("evaluate", "item_knn", "teacher", "--tasks", run, "--out", tmp_path / "both")
    star_rl("evaluate", "teacher", "--tasks", run, "--out", tmp_path / "one")

    def answers(name):
        rows = pq.read_table(tmp_path / name / "answers.parquet").to_pylist()
        return {row["task_id"]: row["ranking"] for row in rows if row["method"] == RULES}

    assert answers("both") == answers("one")


@pytest.mark.parametrize(
    "kind, words",
    [("raises", "error: OSError: no"), ("hangs", "timeout: no answer within 0.2 s"), ("says", "error: returned a str")],
)
def test_a_method_that_fails_is_counted_and_said(run, tmp_path, capsys, kind, words):
    (tmp_path / "own.py").write_text(OWN)
    method, limit = f"python:{tmp_path}/own.py:make:kind={kind}", 0.2 if kind == "hangs" else 60
    assert star_rl("evaluate", method, "--tasks", run, "--out", tmp_path / "e", "--timeout", limit, "--limit", 3) == 0
    said = f"problem: {kind}: 3 of 3 answers failed and count as misses (3 x {words}"
    assert said in capsys.readouterr().out
    assert star_rl("evaluate", "random", "--tasks", run, "--out", tmp_path / "e", "--limit", "3") == 0
    assert said in capsys.readouterr().out  # whoever is asked now
    row = read_json(tmp_path / "e" / "metrics.json")["methods"][0]
    assert (row["n"], row["failed"], row["hr5"]) == (3, 3, 0.0)


def test_the_part_is_recorded_and_training_tasks_are_no_result(run, tmp_path, capsys):
    for part in ("test", "train"):
        assert star_rl("evaluate", "random", "--tasks", run, "--part", part, "--out", tmp_path / part) == 0
        assert read_json(tmp_path / part / "metrics.json")["tasks"]["part"] == part
        assert ("students were trained on them" in capsys.readouterr().out) is (part == "train")
    assert "students were trained on them" in (tmp_path / "train" / "report.html").read_text()


def test_a_ranking_shorter_than_the_recipe_asks_for_is_not_valid(run, tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN.replace("else list(task.candidates)", "else list(task.candidates)[:9]"))
    assert star_rl("evaluate", f"python:{tmp_path}/own.py:make", "--tasks", run, "--out", tmp_path / "e") == 0
    assert "12 of 12 rankings are not valid (12 shorter than asked for)" in capsys.readouterr().out
    assert read_json(tmp_path / "e" / "metrics.json")["methods"][0]["valid_rate"] == 0.0


def test_failures_of_many_kinds_are_said_in_a_few_words(run, tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN.replace('OSError("no")', "OSError(task.task_id)"))
    method = f"python:{tmp_path}/own.py:make:kind=raises"
    assert star_rl("evaluate", method, "--tasks", run, "--out", tmp_path / "e") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "raises" in line and "problem" in line]
    assert "12 of 12 answers failed" in line and "; 9 other reasons" in line


def test_one_that_cannot_work_takes_nothing_from_the_others(run, tmp_path, capsys):
    (tmp_path / "own.py").write_text(SHUT)
    out, shut = tmp_path / "e", f"python:{tmp_path}/own.py:make"
    nobody = "cot:endpoint=http://localhost:9/v1:model=x"
    assert star_rl("evaluate", "random", shut, nobody, "item_knn", "--tasks", run, "--out", out) == 2
    said = capsys.readouterr()
    assert "method shut cannot start (ValueError: no such device)" in said.err and "localhost:9" in said.err
    assert [row["name"] for row in read_json(out / "metrics.json")["methods"]] == ["random", "item_knn"]
    assert "item_knn" in said.out and "shut has answered no task yet" in said.out and (out / "report.html").is_file()
    assert star_rl("evaluate", shut, "--tasks", run, "--out", tmp_path / "alone") == 2
    assert not (tmp_path / "alone" / "metrics.json").exists()


def test_a_command_that_is_stopped_shows_what_there_is(run, tmp_path, monkeypatch, capsys):
    real = evaluation.run_methods

    def stopped(methods, *rest):
        real(methods[:1], *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "run_methods", stopped)
    assert star_rl("evaluate", "random", "item_knn", "--tasks", run, "--out", tmp_path / "e") == 130
    assert [row["name"] for row in read_json(tmp_path / "e" / "metrics.json")["methods"]] == ["random"]
    assert "random" in capsys.readouterr().out


def test_a_folder_takes_one_command_at_a_time(run, tmp_path, capsys):
    (tmp_path / "e").mkdir()
    with locks.hold(tmp_path / "e" / ".lock", "", ""):
        assert star_rl("evaluate", "random", "--tasks", run, "--out", tmp_path / "e") == 2
    assert "another process evaluates into" in capsys.readouterr().err
    assert star_rl("evaluate", "random", "--tasks", run, "--out", tmp_path / "e") == 0


def test_the_terminal_shows_words_as_they_are_and_paired_differences(run, tmp_path, capsys):
    words = ("evaluate", "random", "item_knn", "mars", "--tasks", run, "--out", tmp_path / "e")
    assert star_rl(*words) == 0
    out = capsys.readouterr().out
    assert "item_knn" in out and "\\" not in out and "|" not in out
    assert out.count("[95 %]") == 2 and len(re.findall(r"  p (?:< )?[01]\.", out)) == 2
    assert star_rl(*words, "--against", "random") == 0
    out = capsys.readouterr().out
    assert re.search(r"item_knn - random +[+-]\d+\.\d \[[+-]", out) and "- item_knn " not in out
    pairs = read_json(tmp_path / "e" / "metrics.json")["pairs"]
    assert sum(pair["b"] == "random" for pair in pairs) == 2
    assert star_rl(*words, "--against", "star") == 2
    assert "--against names an unknown method: star - one of random, item_knn, MARS" in capsys.readouterr().err


def test_progress_is_that_of_all_methods(run, tmp_path):
    world, seed, tasks = open_tasks(run)
    said = []
    methods = [make(name, world, seed, tmp_path) for name in ("random", "popularity")]
    run_methods(methods, world, tasks, tmp_path, progress=lambda *now: said.append(now))
    assert said[0] == (0, 24, "0/24  random gets ready") and said[-1] == (24, 24, "24/24  popularity")
    assert (13, 24, "13/24  popularity") in said


def test_what_is_written_does_not_depend_on_who_reads_the_terminal(run, tmp_path, monkeypatch):
    star_rl("evaluate", "random", "--tasks", run, "--out", tmp_path / "e")

    def closed(*_):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", closed)
    with pytest.raises(BrokenPipeError):
        compare.callback([tmp_path / "e"], tmp_path / "t")
    assert len(list((tmp_path / "t").iterdir())) == 4


def test_what_was_not_asked_is_not_failed_and_is_said(run, tmp_path, capsys):
    out = tmp_path / "e"
    assert star_rl("evaluate", "item_knn", "--tasks", run, "--out", out, "--limit", "5") == 0
    alone = read_json(out / "metrics.json")["methods"][0]
    capsys.readouterr()
    assert star_rl("evaluate", "random", "popularity", "--tasks", run, "--out", out) == 0
    said = "item_knn has answered 5 of 12 tasks so far"
    assert said in capsys.readouterr().out
    scored = read_json(out / "metrics.json")
    rows = {row["name"]: row for row in scored["methods"]}
    assert rows["item_knn"] | {"missing": 0, "latency_p50": 0, "latency_p95": 0} == alone | {
        "missing": 0,
        "latency_p50": 0,
        "latency_p95": 0,
    }
    assert len(scored["pairs"]) == 1 and scored["notes"][0].startswith(said)
    page = (out / "report.html").read_text()
    assert said in page and "item_knn is best" not in page
    assert star_rl("compare", out) == 0
    table = capsys.readouterr().out
    assert said in table and "| item_knn" not in table


def test_samples_asked_later_for_another_method_rewrite_nobodys_row(run, tmp_path):
    out = tmp_path / "e"
    star_rl("evaluate", "mars", "--tasks", run, "--out", out, "--limit", "4", "--samples", "3")
    before = read_json(out / "metrics.json")["methods"][0]
    assert before["samples"] == 3
    star_rl("evaluate", "random", "--tasks", run, "--out", out, "--limit", "4")
    assert read_json(out / "metrics.json")["methods"][0] == before


def test_a_folder_holds_one_task_set_which_may_grow(run, tmp_path, capsys):
    out = tmp_path / "e"
    assert star_rl("evaluate", "random", "--tasks", run, "--out", out, "--limit", "5") == 0
    assert star_rl("evaluate", "popularity", "--tasks", run, "--out", out) == 0
    rows = {row["name"]: row for row in read_json(out / "metrics.json")["methods"]}
    assert (rows["popularity"]["n"], rows["popularity"]["failed"]) == (12, 0)
    assert (rows["random"]["n"], rows["random"]["missing"], rows["random"]["failed"]) == (5, 7, 0)
    assert star_rl("evaluate", "random", "--tasks", run, "--out", out) == 0
    assert [read_json(out / "metrics.json")["methods"][0][name] for name in ("n", "missing")] == [12, 0]
    capsys.readouterr()
    assert star_rl("evaluate", "random", "--tasks", run, "--out", out, "--part", "valid") == 2
    assert "holds answers to another task set" in capsys.readouterr().err
    assert star_rl("evaluate", "random", "--tasks", run, "--out", out, "--seed", "99") == 2
    assert "holds answers to another task set" in capsys.readouterr().err


def bad_file(run, tmp_path, **changes):
    row = pq.read_table(run / "tasks" / "test.parquet").to_pylist()[0] | changes
    (tmp_path / "tasks.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path / "tasks.jsonl"


def test_a_file_of_tasks_needs_the_world_it_belongs_to(run, tmp_path, capsys):
    file = bad_file(run, tmp_path)
    assert star_rl("evaluate", "random", "--tasks", file, "--out", tmp_path / "e") == 2
    assert "lies in no run's folder" in capsys.readouterr().err
    assert star_rl("evaluate", "random", "--tasks", file, "--world", run, "--out", tmp_path / "e") == 0
    assert star_rl("evaluate", "random", "--tasks", run / "tasks" / "valid.parquet", "--out", tmp_path / "v") == 0


@pytest.mark.parametrize(
    "changes, words",
    [({"ground_truth": None}, "has no ground truth"), ({"ground_truth": ["a", "b"]}, "has 2 ground truths")],
)
def test_tasks_that_cannot_be_judged_are_refused(run, tmp_path, capsys, changes, words):
    file = bad_file(run, tmp_path, **changes)
    assert star_rl("evaluate", "random", "--tasks", file, "--world", run, "--out", tmp_path / "e") == 2
    assert words in capsys.readouterr().err


def test_what_the_official_rules_count_is_counted_and_said(run, tmp_path, capsys):
    few = read_tasks(run / "tasks" / "test.parquet")[0].candidates[:2]
    file = bad_file(run, tmp_path, ground_truth="elsewhere", candidates=list(few))
    assert star_rl("evaluate", "random", "--tasks", file, "--world", run, "--out", tmp_path / "e") == 0
    out = capsys.readouterr().out
    assert "is no candidate" in out and "fewer than 20 candidates" in out
    assert read_json(tmp_path / "e" / "metrics.json")["methods"][0]["hr5"] == 0.0
    star_rl("compare", tmp_path / "e")
    assert "fewer than 20 candidates" in capsys.readouterr().out


@pytest.mark.parametrize(
    "method, words",
    [
        ("gpt", "there is no method 'gpt'"),
        ("star:nowhere", "there is no checkpoint at nowhere"),
        ("mars:speed=1", "has no option speed"),
        ("mars:loud", "takes no argument"),
        ("mars:planner_endpoint=http://h/v1", "a planner's endpoint alone"),
        ("python:absent.py:make", "there is no Python file absent.py"),
        ("python:star_rl.records:absent", "there is no method at"),
    ],
)
def test_methods_that_cannot_be_made_are_refused_before_any_work(run, tmp_path, capsys, method, words):
    assert star_rl("evaluate", "random", method, "--tasks", run, "--out", tmp_path / "e") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def test_answers_of_other_data_are_refused_even_to_the_same_tasks(run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    visible = pq.read_table(other / "tasks" / "visible.parquet")
    pq.write_table(visible.slice(0, len(visible) // 2), other / "tasks" / "visible.parquet")
    tasks, out = run / "tasks" / "test.parquet", tmp_path / "e"
    assert star_rl("evaluate", "random", "item_knn", "--tasks", tasks, "--world", run, "--out", out) == 0
    assert star_rl("evaluate", "item_knn", "--tasks", tasks, "--world", other, "--out", out) == 2
    assert "item_knn.jsonl holds answers with other settings (data.visible: " in capsys.readouterr().err
    assert star_rl("evaluate", "random", "--tasks", tasks, "--world", other, "--out", out) == 0


def test_answers_copied_from_another_run_are_refused(run, tmp_path, capsys):
    rows = pq.read_table(run / "tasks" / "test.parquet").to_pylist()
    for row in rows:
        row["candidates"].remove(next(item for item in row["candidates"] if item != row["ground_truth"]))
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    star_rl("evaluate", "random", "--tasks", tmp_path / "tasks.jsonl", "--world", run, "--out", tmp_path / "a")
    star_rl("evaluate", "popularity", "--tasks", run, "--out", tmp_path / "b")
    shutil.copy(tmp_path / "a" / "answers" / "random.jsonl", tmp_path / "b" / "answers")
    capsys.readouterr()
    assert star_rl("evaluate", "popularity", "--tasks", run, "--out", tmp_path / "b") == 2
    assert "an answer to another task" in capsys.readouterr().err


def test_two_methods_of_one_name_are_refused(run, tmp_path, capsys):
    assert star_rl("evaluate", "random", "random", "--tasks", run, "--out", tmp_path / "e") == 2
    assert "two methods are called 'random'" in capsys.readouterr().err
    assert star_rl("evaluate", "random", "random:name=dice:seed=9", "--tasks", run, "--out", tmp_path / "e") == 0


@pytest.mark.parametrize("option, value", [("--samples", 0), ("--limit", 0), ("--timeout", 0), ("--bootstrap", 3)])
def test_options_out_of_range_are_refused(run, tmp_path, capsys, option, value):
    assert star_rl("evaluate", "random", "--tasks", run, "--out", tmp_path / "e", option, value) == 2
    assert option in capsys.readouterr().err


def test_places_that_hold_no_run_are_refused(run, tmp_path):
    for where in (tmp_path, tmp_path / "absent"):
        with pytest.raises(StarError):
            open_tasks(where)
    assert is_official(run) is False and is_official(tmp_path) is False


def test_the_page_says_what_was_judged_and_studies_are_added_to_it(run, tmp_path, capsys):
    out = tmp_path / "e"
    assert star_rl("evaluate", "random", "item_knn", "mars", "--tasks", run, "--out", out) == 0
    page = (out / "report.html").read_text()
    titles = pq.read_table(out / "contexts.parquet").to_pylist()[0]["candidates"]
    assert all(entry["title"] for entry in titles)
    assert any(entry["title"] in page for entry in titles)
    assert "is best: HR_avg" in page and "Not comparable with the paper" in page and "Best of k" not in page
    assert star_rl("best-of-k", out, "random") == 0
    assert f"{out}/report.html" in capsys.readouterr().out
    assert "Best of k: random, 12 tasks" in (out / "report.html").read_text()


def test_what_changed_between_two_evaluations_is_printed_and_kept(run, tmp_path, capsys):
    for name, seed in (("before", 1), ("after", 2)):
        star_rl("evaluate", f"random:name=star:seed={seed}", "item_knn", "--tasks", run, "--out", tmp_path / name)
    capsys.readouterr()
    assert star_rl("compare", tmp_path / "before", tmp_path / "after", "--out", tmp_path / "c") == 0
    out = capsys.readouterr().out
    assert (
        "| star | before | after | 12 |" in out
        and "| item_knn | before | after | 12 | 0.0 | the same on every task |" in out
    )
    assert "What changed" in (tmp_path / "c" / "comparison.md").read_text()
    (star, knn) = read_json(tmp_path / "c" / "comparison.json")["changes"]
    assert star["gained"] and star["low"] <= star["mean"] <= star["high"] and not knn["gained"]
    assert "Tasks gained by star, before to after" in (tmp_path / "c" / "comparison.html").read_text()


def test_an_ablation_has_a_page(run, tmp_path, monkeypatch):
    methods = ("random:name=star:seed=1", "random:name=sft:seed=2", "random:name=teacher:seed=3")
    star_rl("evaluate", *methods, "--tasks", run, "--out", tmp_path / "a-full" / "evaluate")
    monkeypatch.setattr(ablation, "run_variants", lambda *words: words[-1]({"full": tmp_path / "a-full"}))
    assert star_rl("ablate", run / "recipe.yaml", "--only", "full") == 0
    page = (tmp_path / "a-table2.html").read_text()
    assert "STAR w/o GRPO: " in page and "on Goodreads and other tasks: not comparable" in page


def test_the_size_of_a_checkpoint_is_noted_where_it_is_known(run, tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"intermediate_size": 16, "vocab_size": 100, "tie_word_embeddings": True, "model_type": "qwen3"}
    opened, seed, tasks = open_tasks(run, limit=2)
    methods = [make(f"random:name={name}", opened, seed, tmp_path) for name in ("small", "other", "gone")]
    for method, config in zip(methods, (sizes, {"model_type": "llama"}, None), strict=True):
        method.origin = {"model": str(tmp_path / method.name)}
        if config:
            (tmp_path / method.name).mkdir()
            (tmp_path / method.name / "config.json").write_text(json.dumps(config))
    run_methods(methods, opened, tasks, tmp_path)
    small, other, gone = (row["parameters"] for row in seal(tmp_path, opened, tasks, None, 200, seed)["methods"])
    assert 800 < small < 2000 and other is gone is None
