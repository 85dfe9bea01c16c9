"""Baselines: permutations of the candidates, no trust in their order, and the right winner by hand."""

import pyarrow as pa
import pytest

from star_rl.baselines import ItemKNN, Popularity, Random, UserKNN
from star_rl.errors import StarError
from star_rl.evaluation.methods import TaskContext
from star_rl.records import INTERACTIONS, Task

ROWS = [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2"), ("c", "3"), ("c", "1"), ("d", "4")]
VISIBLE = pa.Table.from_pylist(
    [{"user_id": u, "item_id": i, "timestamp": n, "rating": None, "text": None} for n, (u, i) in enumerate(ROWS)],
    schema=INTERACTIONS,
)
TASK = Task("t", "s", "classic", "u", ("4", "3", "unseen", "2"), "2", 99)


def test_every_method_returns_each_candidate_once():
    for method in (Random(0), Popularity().fit(VISIBLE), ItemKNN().fit(VISIBLE), UserKNN().fit(VISIBLE)):
        assert sorted(method.rank(TaskContext.of_ids(TASK, ["1"]))) == sorted(TASK.candidates)


def test_item_knn_follows_co_occurrence():
    # users(1) = a b c, users(2) = a b, users(3) = c: cosines 2/sqrt(6) and 1/sqrt(3); items 4 and unseen share nobody.
    assert ItemKNN().fit(VISIBLE).rank(TaskContext.of_ids(TASK, ["1"]))[:2] == ["2", "3"]


def test_popularity_counts_visible_users():
    assert Popularity().fit(VISIBLE).rank(TaskContext.of_ids(TASK, []))[0] == "2"


def test_an_empty_or_unknown_history_still_ranks():
    assert sorted(ItemKNN().fit(VISIBLE).rank(TaskContext.of_ids(TASK, []))) == sorted(TASK.candidates)
    assert sorted(ItemKNN().fit(VISIBLE).rank(TaskContext.of_ids(TASK, ["nobody"]))) == sorted(TASK.candidates)


def test_ties_do_not_follow_the_order_of_the_candidates():
    first = {
        Random(0).rank(TaskContext.of_ids(Task(f"t{n}", "s", "classic", "u", TASK.candidates, "2", 9), []))[0]
        for n in range(60)
    }
    assert first == set(TASK.candidates)


def test_the_same_seed_gives_the_same_order():
    assert Random(3).rank(TaskContext.of_ids(TASK, [])) == Random(3).rank(TaskContext.of_ids(TASK, []))


def test_user_knn_sums_the_similarity_of_those_who_have_the_item():
    # cosines of {1} with a, b: 1/sqrt(2), with c: 1/sqrt(2), with d: 0; so 2 has two users behind it, 3 one, 4 none.
    ranked = UserKNN().fit(VISIBLE).rank(TaskContext.of_ids(TASK, ["1", "1", "nobody"]))
    assert ranked[:2] == ["2", "3"] and set(ranked[2:]) == {"4", "unseen"}


def test_user_knn_takes_only_the_nearest():
    task = Task("t", "s", "classic", "u", ("3", "2"), "2", 99)
    assert UserKNN(neighbours=1).fit(VISIBLE).rank(TaskContext.of_ids(task, ["3", "1"])) == ["3", "2"]  # c alone
    assert UserKNN(neighbours=3).fit(VISIBLE).rank(TaskContext.of_ids(task, ["1"])) == ["2", "3"]


def test_user_knn_does_not_count_the_user_as_a_neighbour():
    task = Task("t", "s", "classic", "c", ("3", "2"), "2", 99)
    assert UserKNN(neighbours=1).fit(VISIBLE).rank(TaskContext.of_ids(task, ["3", "1"])) == ["2", "3"]  # c would say 3


def test_user_knn_without_anything_to_go_by():
    for history in ([], ["nobody"], ["4"]):
        assert sorted(UserKNN().fit(VISIBLE).rank(TaskContext.of_ids(TASK, history))) == sorted(TASK.candidates)
    empty = UserKNN().fit(VISIBLE.slice(0, 0))
    assert sorted(empty.rank(TaskContext.of_ids(TASK, ["1"]))) == sorted(TASK.candidates)
    with pytest.raises(StarError, match="neighbours=0"):
        UserKNN(neighbours=0).fit(VISIBLE)
