"""Judging: misses stay in the denominator, foreign results are refused, examples are not chosen to flatter."""

import pytest

from launch import judging
from star_rl.errors import StarError
from star_rl.evaluation import results
from star_rl.evaluation.results import Answer
from star_rl.records import Task


def task(number: int) -> Task:
    return Task(f"t{number}", "synthetic", "classic", "u", tuple(str(n) for n in range(20)), "7", 0)


TASKS = [task(number) for number in range(4)]


def test_a_failed_task_is_a_miss_and_stays_in_the_denominator():
    answers = [
        Answer("sft", TASKS[0], ["7"], well_formed=True),
        Answer("sft", TASKS[1], ["1", "2", "7"], well_formed=True),
        Answer("sft", TASKS[2], None, well_formed=False),
    ]
    row = judging.judge(results.table_of(answers), TASKS, 1, 200, 0)["methods"][0]
    assert (row["n"], row["hr1"], row["hr3"], row["hr5"]) == (4, 25.0, 50.0, 50.0)
    assert row["hr_avg"] == pytest.approx(125 / 3)
    assert row["hr_avg_low"] <= row["hr_avg"] <= row["hr_avg_high"]
    assert row["format_rate"] == pytest.approx(2 / 3)


def test_methods_are_paired_over_the_same_tasks():
    answers = [Answer("star", one, ["7"]) for one in TASKS] + [Answer("sft", one, ["1", "7"]) for one in TASKS]
    (pair,) = judging.judge(results.table_of(answers), TASKS, 1, 200, 0)["pairs"]
    assert (pair["a"], pair["b"]) == ("star", "sft")
    assert pair["difference"] == pytest.approx(100 / 3)


def test_several_samples_of_a_student_are_averaged_within_the_task():
    answers = [Answer("star", TASKS[0], ["7"], sample=0), Answer("star", TASKS[0], ["1"], sample=1)]
    row = judging.judge(results.table_of(answers), TASKS[:1], 2, 200, 0)["methods"][0]
    assert row["hr1"] == 50.0


def test_answers_to_another_task_set_are_refused():
    table = results.table_of([Answer("sft", task(99), ["7"])])
    with pytest.raises(StarError, match="task t99, which is not among the 4 tasks"):
        judging.judge(table, TASKS, 1, 200, 0)


@pytest.mark.parametrize(
    "ranked, valid",
    [(["7", "1"], True), ([], False), (None, False), (["7", "7"], False), (["7", "x"], False), (["7", None], False)],
)
def test_a_valid_list_names_distinct_candidates_only(ranked, valid):
    assert judging.names_candidates(ranked, TASKS[0]) is valid


def test_examples_are_the_best_the_middle_and_the_worst():
    gain = {"t0": -1.0, "t1": 0.5, "t2": 0.0, "t3": 2.0}
    assert [one.task_id for one in judging._chosen(TASKS, lambda one: gain[one.task_id])] == ["t3", "t2", "t0"]
