from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_rl.errors import StarError
from star_rl.scenarios import Histories, assert_no_leak, split
from star_rl.scenarios.narrow import core, latest
from tests.scenarios.test_split import many, sequence, world

NAMES = ("user_id", "item_id", "timestamp", "rating")


def rated(tables, ratings):
    column = pa.array(ratings, tables.interactions.schema.field("rating").type)
    return replace(tables, interactions=tables.interactions.set_column(3, "rating", column))


def rows_of(table):
    return list(zip(*(table[name].to_pylist() for name in NAMES), strict=True))


def plain_core(rows, least):
    """The k-core by taking one user or item away at a time."""
    rows = list(rows)
    while True:
        for place in (0, 1):
            few = [name for name, count in Counter(row[place] for row in rows).items() if count < least]
            if few:
                rows = [row for row in rows if row[place] != few[0]]
                break
        else:
            return rows


def last_of_each(rows, most):
    kept = []
    for user in {row[0] for row in rows}:
        kept += sorted((row for row in rows if row[0] == user), key=lambda row: row[2])[-most:]
    return kept


pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60)


@given(pairs, st.integers(0, 4))
def test_the_core_is_what_is_left_when_the_rare_go_one_by_one(rows, least):
    user, item = np.array(rows, np.int64).reshape(-1, 2).T
    assert [rows[k] for k in core(user, item, least)] == plain_core(rows, least)


def test_a_core_of_a_million_rows_falls_apart_step_by_step():
    """A chain of users and items, each known by the next alone, beside a block that stays."""
    block = np.stack([np.repeat(np.arange(500), 2000), np.tile(np.arange(2000), 500)])
    chain = np.stack([np.repeat(np.arange(500, 600), 2), 2000 + np.arange(200) // 2 + np.arange(200) % 2])
    rows = core(*np.concatenate([chain, block], axis=1), 2)
    assert rows.tolist() == list(range(200, 1_000_200))


@given(st.lists(st.integers(1, 9), max_size=8), st.integers(1, 12))
def test_the_latest_rows_of_each_user(sizes, most):
    start = np.concatenate([[0], np.cumsum(np.array(sizes, np.int64))])
    expected = [row for k, size in enumerate(sizes) for row in range(start[k] + max(0, size - most), start[k + 1])]
    assert latest(start, most).tolist() == expected


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.integers(0, 9).map(str),
            st.integers(0, 30),
            st.sampled_from([1.0, 3.0, 4.5, None]),
        ),
        min_size=20,
        max_size=90,
        unique_by=lambda row: (row[0], row[2]),
    ),
    least=st.integers(0, 3),
    most=st.integers(0, 12),
    positive=st.sampled_from([0, 3.0, 4]),
    test=st.sampled_from(["users", "last"]),
    negatives=st.sampled_from(["all", "chosen"]),
    others=st.sampled_from(["visible", "hidden"]),
)
def test_what_a_narrowed_split_makes_tasks_of(rows, least, most, positive, test, negatives, others):
    """Random worlds with returns to an item and missing ratings; 20 items that are touched by one user each."""
    rows += [(f"u{k}", str(k), 5, 5.0) for k in range(10, 30)] if not least else []
    rows += [(f"w{user}", str(item), user, 5.0) for user in range(3) for item in range(30, 52)]
    tables = rated(world([row[:3] for row in rows]), [row[3] for row in rows])
    options = {"core": least, "max_history": most, "positive": positive, "test": test, "negatives": negatives}
    options |= {"others": others, "min_history": 2, "test_share": 0.5, "valid_share": 0.2, "train_per_user": 2}
    try:
        parts = split(tables, options, 0)
    except StarError as error:
        assert "no test task" in str(error)
        return
    members = plain_core(rows, least)
    kept = last_of_each(members, most) if most else members
    table = tables.interactions if parts.kept is None else tables.interactions.take(pa.array(parts.kept))
    assert Counter(rows_of(table)) == Counter(kept) and (parts.kept is None) == (not least and not most)
    histories, cut = Histories(table), {}
    for task in parts.tasks:
        cut[task.user_id] = min(task.cutoff, cut.get(task.user_id, task.cutoff))
        touched = [row for row in rows if row[0] == task.user_id]
        first = min((row for row in touched if row[1] == task.ground_truth), key=lambda row: row[2])
        assert first in kept and first[2] == task.cutoff
        assert not positive or (first[3] or 0) >= positive
        others_of = set(task.candidates) - {task.ground_truth}
        assert len(others_of) == 19 and not others_of & {row[1] for row in touched}
        assert not least or others_of <= {row[1] for row in members}
        assert negatives == "all" or others_of <= {row[1] for row in kept}
        history = histories.history(task)
        assert len(history) >= 2 and all(stamp < task.cutoff for _, stamp, _ in history)
        assert Counter(history) == Counter(r[1:] for r in kept if r[0] == task.user_id and r[2] < task.cutoff)
    shown = [row for row in kept if row[2] < cut.get(row[0], 0 if others == "hidden" else 99)]
    assert Counter(rows_of(parts.visible)) == Counter(shown)
    assert_no_leak(parts.visible, parts.tasks)


def test_the_truth_is_the_last_positive_item_and_the_history_keeps_what_was_disliked():
    rows = many(users=10)
    ratings = [2.0 if place in (3, 11) else 5.0 for _ in range(10) for place in range(12)]
    parts = split(
        rated(world(rows), ratings), {"positive": 4, "test": "last", "train_per_user": 1, "min_history": 3}, 0
    )
    items = {f"u{user}": [row[1] for row in rows if row[0] == f"u{user}"] for user in range(10)}
    for part, place in ((parts.test, 10), (parts.valid, 9), (parts.train, 8)):
        assert {task.user_id: task.ground_truth for task in part} == {user: own[place] for user, own in items.items()}
    assert Counter(parts.visible["rating"].to_pylist()) == {5.0: 70, 2.0: 10}


def test_a_return_to_an_item_from_before_the_last_ones_is_no_truth_and_the_item_no_negative():
    rows = many(users=12, length=30) + sequence("back", [*range(20, 41), *range(20, 26)])
    parts = split(world(rows, items=60), {"max_history": 12, "test": "last", "min_history": 2}, 0)
    own = [task for task in parts.tasks if task.user_id == "back"]
    assert {task.ground_truth for task in own} == {"37", "38", "39", "40"}
    assert not {c for task in own for c in task.candidates if c != task.ground_truth} & {str(k) for k in range(20, 41)}


@pytest.mark.parametrize("others", ["visible", "hidden"])
def test_so_many_users_to_train_and_others_to_test(others):
    rows = many(users=40) + [row for user in range(20) for row in sequence(f"brief{user}", [1, 2, 3], 9000)]
    options = {"test_users": 12, "train_users": 20, "train_per_user": 2, "valid_share": 0.1, "others": others}
    parts = split(world(rows), options, 3)
    users = [{task.user_id for task in part} for part in (parts.test, parts.train, parts.valid)]
    assert list(map(len, users))[:2] == [12, 20] and (len(parts.test), len(parts.train)) == (12, 40)
    assert len(set.union(*users)) == sum(map(len, users)) and not any(u.startswith("b") for u in set.union(*users))
    seen = set(parts.visible["user_id"].to_pylist())
    assert seen == (set.union(*users) if others == "hidden" else {row[0] for row in rows})
    assert parts.tasks == split(world(rows), options, 3).tasks != split(world(rows), options, 4).tasks


@pytest.mark.parametrize(
    "options, named",
    [
        ({"core": 500}, "no user and no item is left with core=500"),
        ({"positive": 4.5}, "no interaction has a rating of positive=4.5 or more"),
        ({"core": -1}, "core=-1"),
        ({"max_history": 2.5}, "max_history=2.5"),
        ({"positive": "good"}, "positive='good'"),
        ({"max_history": 5}, "no test task is left"),
        ({"test_users": 8, "train_users": 8}, "are more than the 10 users with enough history"),
        ({"test": "last", "train_users": 8}, "need held-out users, not test=last - choose test=users"),
    ],
)
def test_options_that_leave_nothing(options, named):
    with pytest.raises(StarError, match=named):
        split(world(many(users=10)), options, 0)
