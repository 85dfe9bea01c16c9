"""From answers to figures: misses stay in the denominator, sub-tasks apart, foreign results refused."""

from dataclasses import replace

import pytest

from star_rl.errors import StarError
from star_rl.evaluation import results
from star_rl.evaluation.metrics import is_valid
from star_rl.evaluation.results import Answer
from star_rl.evaluation.scores import score
from star_rl.records import Task


def task(number: int, scenario: str = "classic") -> Task:
    return Task(f"t{number}", "synthetic", scenario, "u", tuple(str(n) for n in range(20)), "7", 0)


TASKS = [task(number) for number in range(4)]


def test_a_failed_task_is_a_miss_and_stays_in_the_denominator():
    answers = [
        Answer("sft", TASKS[0], ["7"], well_formed=True),
        Answer("sft", TASKS[1], ["1", "2", "7"], well_formed=True),
        Answer("sft", TASKS[2], None, well_formed=False),
    ]
    answers.append(Answer("sft", TASKS[3], None))
    row = score(results.table_of(answers), TASKS, 1, 200, 0)["methods"][0]
    assert (row["n"], row["failed"], row["hr1"], row["hr3"], row["hr5"]) == (4, 2, 25.0, 50.0, 50.0)
    assert row["hr_avg"] == pytest.approx(125 / 3)
    for name in ("hr1", "hr3", "hr5", "hr_avg", "ndcg1", "ndcg5", "ndcg10", "ndcg20", "mrr"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert row["format_rate"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "length, candidates, longest", [(20, 20, None), (12, 20, 12), (5, 20, 5), (8, 8, None), (5, 8, 5)]
)
def test_lists_are_short_against_the_candidates(length, candidates, longest):
    tasks = [replace(one, candidates=one.candidates[:candidates]) for one in TASKS]
    answers = [Answer("a", one, list(one.candidates[:length])) for one in tasks]
    (row,) = score(results.table_of(answers), tasks, 1, 200, 0)["methods"]
    assert row["longest"] == longest and row["ndcg1"] == row["hr1"] == 0.0
    assert row["ndcg10"] == row["ndcg20"] == (pytest.approx(100 / 3.17, rel=1e-3) if length > 7 else 0.0)


def test_what_nobody_asked_is_no_miss_and_is_set_against_nobody():
    answers = [Answer(name, one, ["7"]) for name in ("whole", "other") for one in TASKS]
    answers += [Answer("half", one, ["1", "7"], tokens=5) for one in TASKS[:2]]
    found = score(results.table_of(answers), TASKS, 1, 200, 0)
    rows = {row["name"]: row for row in found["methods"]}
    assert (rows["half"]["n"], rows["half"]["missing"], rows["half"]["failed"]) == (2, 2, 0)
    assert rows["half"]["hr3"] == 100.0
    assert (rows["whole"]["n"], rows["whole"]["missing"]) == (4, 0)
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [("whole", "other")]
    assert score(results.table_of(answers), TASKS, 1, 200, 0, [("whole", "half")])["pairs"] == []
    assert len(found["notes"]) == 1 and found["notes"][0].startswith("half has answered 2 of 4 tasks so far")


def test_only_samples_that_all_tasks_have_are_counted_with_their_costs():
    answers = [Answer("a", one, ["7"], sample=k, tokens=10) for one in TASKS for k in range(2)]
    answers += [Answer("a", one, ["1"], sample=2, tokens=900, seconds=9.0) for one in TASKS[:3]]
    found = score(results.table_of(answers), TASKS, 4, 200, 0)
    (row,) = found["methods"]
    assert (row["samples"], row["n"], row["hr1"], row["tokens"], row["latency_p50"]) == (2, 4, 100.0, 10.0, None)
    assert found["notes"][0].startswith("a has 2 of 3 samples of all its tasks")
    fewer = score(results.table_of(answers), TASKS, 1, 200, 0)["methods"][0]
    assert (fewer["samples"], fewer["hr1"]) == (1, 100.0)
    assert score(results.table_of(answers[:7]), TASKS, None, 200, 0)["methods"][0]["samples"] == 1
    late = [Answer("a", TASKS[0], ["7"]), Answer("a", TASKS[1], ["7"], sample=1)]  # its first is still to come
    assert score(results.table_of(late), TASKS, 2, 200, 0)["methods"][0]["n"] == 1
    assert score(results.table_of(late[1:]), TASKS, 2, 200, 0)["methods"] == []


def test_failures_are_counted_in_tasks_whatever_the_number_of_samples():
    answers = [Answer("a", one, None, sample=k) for one in TASKS[:2] for k in range(3)]
    answers += [Answer("a", one, ["7"] if k else None, sample=k) for one in TASKS[2:] for k in range(3)]
    (row,) = score(results.table_of(answers), TASKS, 3, 200, 0)["methods"]
    assert (row["n"], row["failed"], row["samples"]) == (4, 4, 3)


def test_methods_are_paired_over_the_same_tasks():
    answers = [Answer("star", one, ["7"]) for one in TASKS] + [Answer("sft", one, ["1", "7"]) for one in TASKS]
    (pair,) = score(results.table_of(answers), TASKS, 1, 200, 0, [("star", "sft"), ("star", "absent")])["pairs"]
    assert (pair["a"], pair["b"]) == ("star", "sft")
    assert pair["difference"] == pytest.approx(100 / 3)


def test_several_samples_of_a_student_are_averaged_within_the_task():
    answers = [Answer("star", TASKS[0], ["7"], sample=0), Answer("star", TASKS[0], ["1"], sample=1)]
    row = score(results.table_of(answers), TASKS[:1], 2, 200, 0)["methods"][0]
    assert row["hr1"] == 50.0


def test_answers_to_another_task_set_are_refused():
    table = results.table_of([Answer("sft", task(99), ["7"])])
    with pytest.raises(StarError, match="task t99, which is not among the 4 tasks"):
        score(table, TASKS, 1, 200, 0)


@pytest.mark.parametrize(
    "ranked, valid",
    [(["7", "1"], True), ([], False), (None, False), (["7", "7"], False), (["7", "x"], False), (["7", None], False)],
)
def test_a_valid_list_names_distinct_candidates_only(ranked, valid):
    assert is_valid(ranked, TASKS[0].candidates, 1) is valid


@pytest.mark.parametrize(
    "length, top, valid", [(1, 5, False), (4, 5, False), (5, 5, True), (20, 5, True), (19, 99, False), (20, 99, True)]
)
def test_a_valid_list_is_as_long_as_was_asked_for(length, top, valid):
    assert is_valid(TASKS[0].candidates[:length], TASKS[0].candidates, top) is valid


def test_without_pairs_the_best_is_set_against_every_other():
    answers = [Answer(name, one, ["7"][:hit]) for name, hit in (("a", 0), ("b", 1), ("c", 0)) for one in TASKS]
    pairs = score(results.table_of(answers), TASKS, 1, 200, 0)["pairs"]
    assert [(pair["a"], pair["b"]) for pair in pairs] == [("b", "a"), ("b", "c")]
    assert all(pair["difference"] == 100.0 and pair["p"] < 0.05 for pair in pairs)


def test_every_sub_task_has_its_row():
    tasks = [task(0), task(1, "long_term"), task(2, "long_term")]
    answers = [Answer("a", tasks[0], ["7"], tool_calls=4), Answer("a", tasks[1], ["1", "7"], tool_calls=2)]
    cells = {row["scenario"]: row for row in score(results.table_of(answers), tasks, 1, 200, 0)["cells"]}
    assert (cells["classic"]["n"], cells["classic"]["hr_avg"], cells["classic"]["tool_calls"]) == (1, 100.0, 4.0)
    assert (cells["long_term"]["n"], cells["long_term"]["missing"]) == (1, 1)
    assert cells["long_term"]["hr3"] == 100.0 and cells["long_term"]["mrr"] == 50.0
    alone = score(results.table_of(answers[:1]), tasks, 1, 200, 0)["cells"]
    assert [row["scenario"] for row in alone] == ["classic"]


def test_a_table_without_answers_has_no_methods():
    assert score(results.table_of([]), TASKS, 1, 200, 0)["methods"] == []


def test_a_file_that_is_no_table_of_answers_is_refused(tmp_path):
    import pyarrow.parquet as pq

    table = results.table_of([Answer("a", TASKS[0], ["7"])])
    results.write(tmp_path / "answers", table)
    assert results.read(tmp_path / "answers").equals(table)
    pq.write_table(table.drop(["rank"]), tmp_path / "none")
    with pytest.raises(StarError, match="has no column rank"):
        results.read(tmp_path / "none")
    with pytest.raises(StarError, match="holds no answers"):
        results.read(tmp_path / "absent")
