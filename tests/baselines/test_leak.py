"""No method sees the ground truth or what its user did after the cutoff."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from star_rl.baselines import MF, ItemKNN, LightGCN, Popularity, SASRec, UserKNN
from star_rl.evaluation.methods import TaskContext
from star_rl.records import INTERACTIONS, ITEMS, USERS
from star_rl.scenarios import Histories, Tables, split
from tests.baselines import worlds

BLOCKS = worlds.blocks().sort_by([("user_id", "ascending"), ("timestamp", "ascending")])
METHODS = {
    Popularity: {},
    ItemKNN: {},
    UserKNN: {"neighbours": 5},
    MF: {"embedding_size": 8, "batch_size": 32, "epochs": 3},
    LightGCN: {"embedding_size": 8, "batch_size": 32, "epochs": 3},
    SASRec: {"embedding_size": 16, "batch_size": 4, "epochs": 3, "max_length": 10},
}
OPTIONS = {"test": "last", "train_per_user": 2, "min_history": 2}


def tables(interactions: pa.Table) -> Tables:
    items = sorted({*interactions["item_id"].to_pylist(), *(f"{group}-{n}" for group in "abc" for n in range(24))})
    users = sorted(set(interactions["user_id"].to_pylist()))
    return Tables(
        interactions,
        pa.table([items, items, [["kind"]] * len(items), ["{}"] * len(items)], schema=ITEMS),
        pa.table([users, ["{}"] * len(users)], schema=USERS),
        manifest={"source": "test", "time": "seconds"},
    )


def rewritten(interactions: pa.Table, tasks: list) -> pa.Table:
    """The same world, in which every user had other items from the earliest of the cutoffs on."""
    rows = interactions.to_pylist()
    for row in rows:
        if row["timestamp"] >= min((t.cutoff for t in tasks if t.user_id == row["user_id"]), default=10**9):
            row["item_id"] = row["item_id"].replace(row["item_id"][0], "c")
    return pa.Table.from_pylist(rows, schema=INTERACTIONS)


def scores_of(method, task, history):
    """Scores of all items of the worlds, by id."""
    items = tuple(f"{group}-{n}" for group in "abc" for n in range(24))
    return dict(zip(items, method.scores(replace(task, candidates=items), history).tolist(), strict=True))


@pytest.mark.parametrize("cls", METHODS)
def test_what_comes_from_the_cutoff_on_changes_no_score(cls):
    world = tables(BLOCKS)
    parts = split(world, OPTIONS, 0)
    other = tables(rewritten(world.interactions, parts.tasks))
    made = split(other, OPTIONS, 0)
    assert not other.interactions.equals(world.interactions) and made.visible.equals(parts.visible)
    pairs = set(zip(made.visible["user_id"].to_pylist(), made.visible["item_id"].to_pylist(), strict=True))
    first, again = (cls(seed=3, **METHODS[cls]).fit(visible) for visible in (parts.visible, made.visible))
    histories, others = Histories(world.interactions), Histories(other.interactions)
    for task in parts.test:
        assert (task.user_id, task.ground_truth) not in pairs
        cut = replace(task, cutoff=min(t.cutoff for t in parts.tasks if t.user_id == task.user_id))
        before, after = ([event[0] for event in h.history(cut)] for h in (histories, others))
        assert before == after
        assert first.rank(TaskContext.of_ids(task, before)) == again.rank(TaskContext.of_ids(task, after))
        assert scores_of(first, task, before) == scores_of(again, task, after)


@pytest.mark.parametrize("cls", METHODS)
def test_the_truth_of_the_task_is_not_read_and_its_place_tells_nothing(cls):
    parts = split(tables(BLOCKS), OPTIONS, 0)
    method = cls(seed=3, **METHODS[cls]).fit(parts.visible)
    histories = Histories(BLOCKS)
    for task in parts.test:
        history = [event[0] for event in histories.history(task)]
        ranked = method.rank(TaskContext.of_ids(task, history))
        for truth in ("", task.candidates[-1], "no candidate"):
            assert method.rank(TaskContext.of_ids(replace(task, ground_truth=truth), history)) == ranked
        turned = method.rank(TaskContext.of_ids(replace(task, candidates=task.candidates[::-1]), history))
        scores = scores_of(method, task, history)
        values, again = ([scores[item] for item in order] for order in (ranked, turned))
        assert values == sorted(values, reverse=True)
        assert np.allclose(values, again, atol=1e-6), "only ties may change places"
        assert sorted(turned) == sorted(ranked)
