import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from star_rl.errors import StarError
from star_rl.neighbours import Graph
from star_rl.records import INTERACTIONS, ITEMS, USERS, Task, tasks_to
from star_rl.scenarios import Histories, SplitOptions, Tables, assert_no_leak, split
from star_rl.sources import write_tables


def world(rows, items=60, tasks=None, time="seconds"):
    """Tables of (user, item, timestamp) rows, in the order given."""
    users, things, stamps = zip(*rows, strict=True) if rows else ((), (), ())
    table = pa.table(
        {
            "user_id": users,
            "item_id": things,
            "timestamp": stamps,
            "rating": [4.0] * len(rows),
            "text": [None] * len(rows),
        }
    )
    names = [f"{k}" for k in range(items)]
    return Tables(
        pa.table([table[f.name].cast(f.type) for f in INTERACTIONS], schema=INTERACTIONS),
        pa.table([names, names, [["c"]] * items, ["{}"] * items], schema=ITEMS),
        pa.table([sorted(set(users)), ["{}"] * len(set(users))], schema=USERS),
        tasks=None if tasks is None else tasks_to(tasks),
        manifest={"source": "test", "time": time},
    )


def sequence(user, items, start=1, step=1):
    return [(user, str(item), start + k * step) for k, item in enumerate(items)]


def many(users=30, length=12, seed=0):
    rng = np.random.default_rng(seed)
    return [row for u in range(users) for row in sequence(f"u{u}", rng.permutation(60)[:length], 1000 * u + 1)]


def hr_avg(ranks):
    return float(np.mean([np.mean(np.array(ranks) <= k) for k in (1, 3, 5)]))


def judge(tables, parts, tasks):
    """HR_avg of a brute-force ItemKNN (cosine over ``visible``, summed over the history) and of popularity."""
    place = {item: k for k, item in enumerate(tables.items["item_id"].to_pylist())}
    users = {}
    seen = np.zeros((len(set(parts.visible["user_id"].to_pylist())), len(place)), np.float32)
    for user, item in zip(parts.visible["user_id"].to_pylist(), parts.visible["item_id"].to_pylist(), strict=True):
        seen[users.setdefault(user, len(users)), place[item]] = 1
    popularity = seen.sum(0)
    likeness = seen.T @ seen / np.maximum(np.sqrt(popularity[:, None] * popularity[None, :]), 1)
    np.fill_diagonal(likeness, 0)
    histories, rng = Histories(tables.interactions), np.random.default_rng(0)
    ranks = {"itemknn": [], "popularity": []}
    for task in tasks:
        history = [place[item] for item, _, _ in histories.history(task)]
        candidates = [place[item] for item in task.candidates]
        truth = task.candidates.index(task.ground_truth)
        scores = {"itemknn": likeness[history][:, candidates].sum(0), "popularity": popularity[candidates]}
        for name, score in scores.items():
            score = score + 1e-7 * rng.random(len(score))
            ranks[name].append(1 + int((score > score[truth]).sum()))
    return {name: hr_avg(values) for name, values in ranks.items()}


def check(tables, parts):
    """What must hold of every split."""
    rows = list(zip(*(tables.interactions[n].to_pylist() for n in ("user_id", "item_id", "timestamp")), strict=True))
    touched = {(user, item) for user, item, _ in rows}
    seen = list(zip(*(parts.visible[n].to_pylist() for n in ("user_id", "item_id", "timestamp")), strict=True))
    assert not Counter(seen) - Counter(rows)
    histories = Histories(tables.interactions)
    cut = {}
    for task in parts.tasks:
        cut[task.user_id] = min(task.cutoff, cut.get(task.user_id, task.cutoff))
        assert (task.user_id, task.ground_truth) not in {(u, i) for u, i, _ in seen}
        history = histories.history(task)
        assert [e[1] for e in history] == sorted(e[1] for e in history)
        assert all(stamp < task.cutoff and item != task.ground_truth for item, stamp, _ in history)
        before = [(i, t) for u, i, t in sorted(rows, key=lambda r: r[2]) if u == task.user_id and t < task.cutoff]
        assert [(i, t) for i, t, _ in history] == before
        if not task.task_id.startswith("own"):
            assert len(task.candidates) == len(set(task.candidates)) == 20
            assert task.candidates.count(task.ground_truth) == 1
            assert not any((task.user_id, c) in touched for c in task.candidates if c != task.ground_truth)
    for user, _, stamp in seen:
        assert user not in cut or stamp < cut[user]
    expected = [row for row in rows if row[0] not in cut or row[2] < cut[row[0]]]
    assert Counter(seen) == Counter(expected)
    assert_no_leak(parts.visible, parts.tasks)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", "d", "two"]), st.integers(0, 35).map(str), st.integers(0, 12)),
        min_size=1,
        max_size=120,
    ),
    test=st.sampled_from(["users", "last"]),
    train=st.sampled_from(["recent", "last"]),
    scenario=st.sampled_from(["auto", "classic"]),
    seed=st.integers(0, 5),
)
def test_nothing_of_a_ground_truth_or_after_it_is_visible(rows, test, train, scenario, seed):
    """Random worlds with ties, repeated rows, returns to an item, and users with two interactions."""
    rows = [row for row in rows if row[0] != "two"] + [row for row in rows if row[0] == "two"][:2]
    rows += rows[:3]
    tables = world(rows)
    options = SplitOptions(test=test, train=train, scenario=scenario, min_history=1, test_share=0.4, valid_share=0.2)
    try:
        parts = split(tables, options, seed)
    except StarError as error:
        assert "no test task" in str(error)
        return
    check(tables, parts)


drawn = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 35).map(str), st.integers(0, 12)), min_size=1, max_size=80
)
picked = st.lists(st.tuples(st.sampled_from("abz"), st.integers(0, 35), st.integers(0, 14)), min_size=1, max_size=5)


def own_tasks(picks):
    return [
        Task(f"own-{n}", "test", "classic", u, tuple(str((i + k) % 60) for k in range(20)), str(i), c)
        for n, (u, i, c) in enumerate(picks)
    ]


@settings(max_examples=80, deadline=None)
@given(rows=drawn, picks=picked)
def test_a_sources_own_tasks_are_cut_at_the_first_contact(rows, picks):
    tasks = own_tasks(picks)
    tables = world(rows, tasks=tasks)
    parts = split(tables, {"test": "tasks", "min_history": 1, "train": "last"}, 0)
    check(tables, parts)
    assert {task.user_id for task in parts.train + parts.valid}.isdisjoint(task.user_id for task in parts.test)
    truths = {task.ground_truth for task in parts.test}
    assert truths.isdisjoint(task.ground_truth for task in parts.train)
    for old, new in zip(tasks, parts.test, strict=True):
        assert sorted(old.candidates) == sorted(new.candidates) and new.cutoff <= old.cutoff


def cut_at(rows, user, cutoff):
    return sorted(row for row in rows if row[0] == user and row[2] < cutoff)


def seen_of(parts, user):
    rows = zip(*(parts.visible[n].to_pylist() for n in ("user_id", "item_id", "timestamp")), strict=True)
    return sorted(row for row in rows if row[0] == user)


def split_or_none(tables, options, seed):
    try:
        return split(tables, options, seed)
    except StarError as error:
        assert "no test task" in str(error)
        return None


@settings(max_examples=80, deadline=None)
@given(rows=drawn, seed=st.integers(0, 5), max_test=st.integers(0, 1))
def test_a_held_out_user_shows_every_interaction_before_the_cutoff(rows, seed, max_test):
    options = {"test": "users", "test_share": 0.6, "valid_share": 0.2, "min_history": 1, "max_test": max_test}
    parts = split_or_none(world(rows), options, seed)
    for task in parts.test if parts else ():
        assert seen_of(parts, task.user_id) == cut_at(rows, task.user_id, task.cutoff) != []
    for user in {user for user, *_ in rows} - {task.user_id for task in parts.tasks} if parts else ():
        assert seen_of(parts, user) == cut_at(rows, user, 13)  # a user without a task shows everything


@settings(max_examples=80, deadline=None)
@given(rows=drawn, seed=st.integers(0, 5), many=st.integers(0, 4), max_train=st.integers(0, 2))
def test_last_hides_a_users_training_truths_and_all_after_the_first(rows, seed, many, max_train):
    options = {"test": "last", "train_per_user": many, "min_history": 1, "max_train": max_train}
    parts = split_or_none(world(rows), options, seed)
    for task in parts.test if parts else ():
        own = [other for other in parts.tasks if other.user_id == task.user_id]
        seen = seen_of(parts, task.user_id)
        assert seen == cut_at(rows, task.user_id, min(other.cutoff for other in own))
        assert not {item for _, item, _ in seen} & {other.ground_truth for other in own}


@settings(max_examples=80, deadline=None)
@given(rows=drawn, picks=picked, max_test=st.integers(0, 2))
def test_own_tasks_show_every_interaction_before_the_users_earliest_cutoff(rows, picks, max_test):
    tasks = own_tasks(picks)
    parts = split(world(rows, tasks=tasks), {"test": "tasks", "min_history": 1, "max_test": max_test}, 0)
    for user in {task.user_id for task in parts.test}:
        cutoff = min(task.cutoff for task in parts.test if task.user_id == user)
        assert seen_of(parts, user) == cut_at(rows, user, cutoff)


def test_leave_last_out():
    tables = world(many())
    parts = split(tables, {"test": "last", "train_per_user": 2}, 1)
    check(tables, parts)
    rows = tables.interactions.to_pylist()
    last = {row["user_id"]: row["item_id"] for row in rows}
    assert {task.user_id: task.ground_truth for task in parts.test} == last
    assert len(parts.valid) == 30 and len(parts.train) == 60 and not parts.dropped
    assert len(parts.visible) == 30 * 8


def test_held_out_users_have_one_task_each_and_none_in_training():
    tables = world(many())
    parts = split(tables, {"test_share": 0.3, "valid_share": 0.2}, 1)
    check(tables, parts)
    assert (len(parts.test), len(parts.valid), len(parts.train)) == (9, 6, 15 * 4)
    groups = [{task.user_id for task in part} for part in (parts.train, parts.valid, parts.test)]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 30


def test_training_as_in_the_paper_leaves_the_tests_items_out():
    tables = world(many(users=60))
    parts = split(tables, {"train": "last", "test_share": 0.3}, 1)
    check(tables, parts)
    truths = {task.ground_truth for task in parts.test}
    assert truths.isdisjoint(task.ground_truth for task in parts.train)
    assert len({task.user_id for task in parts.train}) == len(parts.train)
    assert len(parts.train) + parts.dropped["train"]["ground truth of a test task"] == 60 - 18 - 6


def test_the_same_seed_gives_the_same_split_and_candidates_are_shuffled():
    tables = world(many())
    one, two, other = (split(tables, {"test": "last"}, seed) for seed in (3, 3, 4))
    assert one.tasks == two.tasks and one.visible.equals(two.visible) and one.tasks != other.tasks
    places = Counter(task.candidates.index(task.ground_truth) for task in one.tasks)
    assert len(places) > 12 and max(places.values()) < len(one.tasks) / 4


def test_short_users_and_short_item_lists_are_counted():
    tables = world(many(users=5) + sequence("brief", [1, 2]))
    parts = split(tables, {"test": "last"}, 0)
    assert parts.dropped["test"] == {"history shorter than min_history": 1}
    assert "brief" in parts.visible["user_id"].to_pylist()
    full = world(many(users=5) + sequence("all", range(50)))
    assert split(full, {"test": "last"}, 0).dropped["test"] == {"fewer than 19 items the user never touched": 1}


def test_caps_draw_evenly_over_scenarios():
    slow = [row for u in range(20) for row in sequence(f"s{u}", range(12), 1, 400 * 86_400)]
    fast = [row for u in range(40) for row in sequence(f"f{u}", range(12), 1, 60)]
    tables = world(slow + fast + sequence("early", range(12), 0, 0))
    parts = split(tables, {"test": "last", "scenario": "auto", "max_test": 10, "cold_item": 0}, 0)
    check(tables, parts)
    assert Counter(task.scenario for task in parts.test) == {"classic": 5, "short_term": 5}


def test_rows_in_any_order_give_the_same_split():
    rows = many(users=8)
    mixed = [rows[k] for k in np.random.default_rng(0).permutation(len(rows))]
    parts = split(world(mixed), {"test": "last"}, 0)
    check(world(mixed), parts)
    assert {t.user_id: t.ground_truth for t in parts.test} == {u: i for u, i, _ in rows}


@pytest.mark.parametrize(
    "options, named",
    [
        ({"test": "some"}, "test='some'"),
        ({"train": "all"}, "train='all'"),
        ({"scenario": "warm"}, "scenario='warm'"),
        ({"test_share": 1.0}, "test_share=1.0"),
        ({"test_share": 0.6, "valid_share": 0.5}, "no user for training"),
        ({"min_history": 0}, "min_history=0"),
        ({"min_history": "8"}, "min_history='8'"),
        ({"max_train": -1}, "max_train=-1"),
        ({"cold_user": -1}, "cold_user=-1"),
        ({"short_days": 100.0}, "short_days=100.0"),
        ({"seed": 1}, "split.options.seed is not known"),
        ({"test": "tasks"}, "no tasks of its own"),
        ({"min_history": 500}, "no test task is left"),
    ],
)
def test_options_out_of_range_name_the_value(options, named):
    with pytest.raises(StarError, match=named):
        split(world(many(users=10)), options, 0)


def test_an_interaction_with_an_unknown_item():
    with pytest.raises(StarError, match="item '99' has interactions but no row"):
        split(world([("u", "99", 1)]), {}, 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_synthetic_world_is_predictable_by_co_occurrence_and_not_by_popularity(tmp_path, seed):
    write_tables("synthetic", None, tmp_path, {"seed": seed})
    tables = Tables.read(tmp_path)
    parts = split(tables, {}, seed)
    assert len(parts.test) == 400
    found = judge(tables, parts, parts.test)
    assert 0.45 <= found["itemknn"] <= 0.65 and found["popularity"] < 0.35, found


def test_ml_100k_leave_last_out_matches_the_known_figures(tmp_path):
    root = Path(os.environ.get("STAR_RL_DATA") or Path(__file__).parents[2] / "../shared/data") / "ml-100k"
    if not root.exists():
        pytest.skip(f"no {root}")
    manifest = write_tables("movielens", root, tmp_path, {"max_bad_share": 0.0})
    assert manifest["kept"] == {"interactions": 100_000, "items": 1682, "users": 943}
    tables = Tables.read(tmp_path)
    parts = split(tables, {"test": "last", "train_per_user": 0, "min_history": 1}, 0)
    assert len(parts.test) == 943
    found = judge(tables, parts, parts.test)
    assert abs(found["itemknn"] - 0.548) < 0.03 and abs(found["popularity"] - 0.466) < 0.03, found


def test_leave_last_out_without_validation_keeps_the_last_but_one():
    tables = world(many())
    parts = split(tables, {"test": "last", "valid_share": 0.0, "train_per_user": 2}, 1)
    check(tables, parts)
    rows = tables.interactions.to_pylist()
    assert not parts.valid and len(parts.test) == 30 and len(parts.train) == 60
    truths = {(task.user_id, task.ground_truth) for task in parts.train}
    assert truths == {(a["user_id"], a["item_id"]) for n, a in enumerate(rows) if n % 12 in (9, 10)}
    assert len(split(tables, {"test": "last", "valid_share": 0.0, "train_per_user": 0}, 1).visible) == 30 * 11


@pytest.mark.slow
def test_amazon_games_leave_last_out_matches_the_known_figures(tmp_path):
    """Known: .478 / .674 / .751 for ItemKNN and .271 / .517 / .649 for popularity, of 900 to 1,500 users.

    They hold where the last interaction of everybody is left out and nothing else: .463 / .657 / .736 of 20,000 users
    (standard error .35 points). With validation the last but one is hidden too, a fifth of what neighbours know of this
    source's users: .443 / .637 / .713.
    """
    root = Path(os.environ.get("STAR_RL_DATA") or Path(__file__).parents[2] / "../shared/data") / "amazon-games-6k"
    if not root.exists():
        pytest.skip(f"no {root}")
    write_tables("sequences", root, tmp_path, {})
    tables = Tables.read(tmp_path)
    histories, options = Histories(tables.interactions), {"test": "last", "train_per_user": 0, "min_history": 1}
    rng, found = np.random.default_rng(0), {}
    for name, share in (("without", 0.0), ("with", 0.1)):
        parts = split(tables, {**options, "valid_share": share}, 0)
        assert len(parts.test) > 50_000
        graph = Graph.from_table(parts.visible)
        ones = np.ones(graph.n_edges, np.float32)
        seen = csr_array((ones, graph.user_items, graph.user_indptr), (graph.n_users, graph.n_items))
        seen.data /= np.sqrt(np.bincount(seen.indices, minlength=graph.n_items))[seen.indices]
        cosine = (seen.T @ seen).tocsr()
        ranks = []
        for at in np.random.default_rng(0).choice(len(parts.test), 3000, replace=False):
            task = parts.test[at]
            history = graph.item_codes([event[0] for event in histories.history(task)])
            asked = graph.item_codes(list(task.candidates))
            scores = cosine[history[history >= 0]].sum(0)[asked] * (asked >= 0) + 1e-7 * rng.random(20)
            ranks.append(1 + int((scores > scores[task.candidates.index(task.ground_truth)]).sum()))
        found[name] = [float(np.mean(np.array(ranks) <= k)) for k in (1, 3, 5)]
    # Two standard errors of 3,000 tasks are 1.8 points, of the known figures' 1,500 at most 2.5.
    assert np.abs(np.array(found["without"]) - (0.478, 0.674, 0.751)).max() < 0.035, found
    assert 0.01 < np.mean(found["without"]) - np.mean(found["with"]) < 0.045, found
