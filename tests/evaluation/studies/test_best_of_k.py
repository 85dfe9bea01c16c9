"""Best-of-k by its definition, and the ways to choose that need no oracle."""

import itertools

import numpy as np
import pytest

from star_rl.errors import StarError
from star_rl.evaluation import metrics, results
from star_rl.evaluation.results import Answer
from star_rl.evaluation.studies import best_of_k
from star_rl.records import Task
from star_rl.report.grid import markdown

IDS = tuple(str(number) for number in range(20))


def task(number=0):
    return Task(f"t{number}", "amazon", "classic", "u", IDS, "7", 5)


def test_best_of_k_is_the_mean_over_all_subsets():
    values = np.random.default_rng(0).choice([0.0, 1 / 3, 2 / 3, 1.0], (6, 9))
    for k in range(1, 7):
        subsets = [values[list(chosen)].max(axis=0) for chosen in itertools.combinations(range(6), k)]
        assert best_of_k.best_of(values, k) == pytest.approx(np.mean(subsets, axis=0))
    assert best_of_k.best_of(values, 6) == pytest.approx(values.max(axis=0))
    assert best_of_k.best_of(values, 1) == pytest.approx(values.mean(axis=0))


def test_the_surest_of_k_is_the_mean_over_all_subsets_and_ties():
    source = np.random.default_rng(1)
    values = source.choice([0.0, 1 / 3, 1.0], (5, 7))
    sure = source.choice([-2.0, -1.0, -0.5], (5, 7))
    for k in range(1, 6):
        expected = []
        for column in range(7):
            means = []
            for chosen in itertools.combinations(range(5), k):
                top = max(sure[c, column] for c in chosen)
                means.append(np.mean([values[c, column] for c in chosen if sure[c, column] == top]))
            expected.append(np.mean(means))
        assert best_of_k.most_confident(values, sure, k) == pytest.approx(expected)


def test_a_sample_without_confidence_is_chosen_last():
    values, sure = np.array([[1.0], [0.0]]), np.array([[np.nan], [-5.0]])
    assert best_of_k.most_confident(values, sure, 2) == [0.0]


@pytest.mark.parametrize("k", [0, 4, -1])
def test_more_than_was_sampled_is_refused(k):
    with pytest.raises(StarError, match=f"k={k} of 3 samples"):
        best_of_k.subset_weights(3, k)


@pytest.mark.parametrize("points", [best_of_k.borda, best_of_k.reciprocal])
def test_an_aggregate_holds_every_candidate_once(points):
    nasty = [["3", "3", "x", None, "3"], None, [], ["5", "3"], ["3"] * 50]
    found = best_of_k.aggregate(nasty, IDS, points, "s")
    assert sorted(found) == sorted(IDS) and found[:2] == ["3", "5"]
    assert best_of_k.aggregate(nasty, IDS, points, "s") == found


def test_borda_follows_the_majority_and_not_the_loudest():
    rankings = [["1", "7"], ["2", "7"], ["3", "7"]]
    assert best_of_k.aggregate(rankings, IDS, best_of_k.borda, "s")[0] == "7"


def test_equals_stand_in_no_order_that_could_betray_the_truth():
    firsts = [best_of_k.aggregate([], IDS, best_of_k.borda, f"{seed}")[0] for seed in range(400)]
    assert len(set(firsts)) == 20


def test_subsets_are_all_there_are_or_distinct_draws():
    assert best_of_k.subsets(4, 2, "s") == list(itertools.combinations(range(4), 2))
    drawn = best_of_k.subsets(16, 8, "s")
    assert len(set(drawn)) == best_of_k.SUBSETS and all(len(set(one)) == 8 for one in drawn)
    assert drawn == best_of_k.subsets(16, 8, "s") != best_of_k.subsets(16, 8, "t")


def answers(samples=4, tasks=3, **more):
    source = np.random.default_rng(2)
    return [
        Answer("star", task(t), [str(x) for x in source.permutation(20)[:5]], sample=k, **more)
        for t in range(tasks)
        for k in range(samples)
    ]


def test_curves_over_k():
    tasks = [task(number) for number in range(30)]
    found = best_of_k.curves(results.table_of(answers(5, 30)), tasks, "star", 200)
    assert (found["n"], found["samples"], set(found["curves"])) == (30, 5, {"best", "borda", "reciprocal"})
    best = [row["hr_avg"] for row in found["curves"]["best"]]
    assert best == sorted(best) and all(row["low"] <= row["hr_avg"] <= row["high"] for row in found["curves"]["best"])
    firsts = {rows[0]["hr_avg"] for rows in found["curves"].values()}
    ranks = [metrics.rank_of(one.ranking, "7") for one in answers(5, 30)]
    assert min(firsts) == pytest.approx(100 * metrics.hr_avg(np.array(ranks)).mean())
    assert "best is an oracle" in markdown(best_of_k.grid(found))


def test_confidence_is_a_curve_where_it_is_stored():
    found = best_of_k.curves(results.table_of(answers(confidence=-1.0)), [task(n) for n in range(3)], "star", 100)
    rows = found["curves"]["confidence"]
    assert [row["hr_avg"] for row in rows] == pytest.approx([rows[0]["hr_avg"]] * 4)


def test_what_cannot_be_counted_is_refused():
    tasks = [task(number) for number in range(3)]
    table = results.table_of(answers())
    with pytest.raises(StarError, match="no answers of sft"):
        best_of_k.curves(table, tasks, "sft")
    with pytest.raises(StarError, match="task t2, which is not among the 2 tasks"):
        best_of_k.curves(table, tasks[:2], "star")
    with pytest.raises(StarError, match="task t3 has fewer than 4 samples"):
        best_of_k.curves(table, [*tasks, task(3)], "star")
    with pytest.raises(StarError, match="task t2 has fewer than 4 samples"):
        best_of_k.curves(table.slice(0, len(table) - 1), tasks, "star")
