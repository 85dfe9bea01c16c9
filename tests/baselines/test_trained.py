"""Methods that are trained: what they must find in worlds that hold it, and all that can be wrong with their input."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from star_rl.baselines import MF, LightGCN, SASRec
from star_rl.baselines.bpr import Triples
from star_rl.baselines.learning import Log, expected_hits
from star_rl.errors import StarError
from star_rl.evaluation.methods import TaskContext
from tests.baselines import worlds

BLOCKS = worlds.blocks()
SMALL = {
    MF: {"embedding_size": 8, "learning_rate": 0.05, "reg": 0.001, "batch_size": 32, "epochs": 40},
    LightGCN: {"embedding_size": 8, "learning_rate": 0.05, "batch_size": 32, "epochs": 30},
    SASRec: {"embedding_size": 16, "learning_rate": 0.01, "batch_size": 8, "epochs": 30, "max_length": 10},
}
CASES = list(SMALL.items())
MADE: dict[type, object] = {}


def made(cls):
    if cls not in MADE:
        MADE[cls] = cls(seed=0, **SMALL[cls]).fit(BLOCKS)
    return MADE[cls]


def history_of(user: str) -> list[str]:
    return [row["item_id"] for row in BLOCKS.to_pylist() if row["user_id"] == user]


def unseen(group: str, history: list[str]) -> list[str]:
    return [item for item in (f"{group}-{n}" for n in range(12)) if item not in history]


@pytest.mark.parametrize("cls", SMALL)
def test_a_user_gets_the_items_of_the_own_group(cls):
    for user, own, other in (("a0", "a", "b"), ("b1", "b", "a")):
        history = history_of(user)
        good, bad = unseen(own, history)[:4], unseen(other, history)[:4]
        ranked = made(cls).rank(TaskContext.of_ids(worlds.task(user, *bad, *good), history))
        assert set(ranked[:4]) == set(good)


@pytest.mark.parametrize("cls", SMALL)
def test_a_user_who_was_not_seen_is_served_from_the_history(cls):
    history = ["b-1", "b-4", "b-7", "nobody has this"]
    ranked = made(cls).rank(TaskContext.of_ids(worlds.task("new", "a-2", "b-2", "a-3", "b-3", "a-5", "b-5"), history))
    assert set(ranked[:3]) == {"b-2", "b-3", "b-5"}


@pytest.mark.parametrize("cls", SMALL)
def test_items_that_came_after_the_training_count(cls):
    user = "a0"  # whose newer items are all of the other group
    ranked = made(cls).rank(TaskContext.of_ids(worlds.task(user, "a-11", "b-11"), [f"b-{n}" for n in range(11)]))
    assert ranked[0] == "b-11"


@pytest.mark.parametrize("cls", SMALL)
def test_candidates_that_nobody_has_stand_last_and_in_no_order_of_theirs(cls):
    lost = [f"lost{n}" for n in range(6)]
    ranked = made(cls).rank(TaskContext.of_ids(worlds.task("a0", *lost, "a-1", "b-1"), history_of("a0")))
    assert set(ranked[:2]) == {"a-1", "b-1"} and sorted(ranked[2:]) == lost
    assert ranked[2:] != lost
    only = made(cls).rank(TaskContext.of_ids(worlds.task("a0", *lost), []))
    assert sorted(only) == lost


@pytest.mark.parametrize("cls", SMALL)
def test_without_a_history_the_ranking_is_still_a_permutation(cls):
    for user in ("new", "a0"):
        for history in ([], ["nobody has this"]):
            ranked = made(cls).rank(TaskContext.of_ids(worlds.task(user, "a-1", "b-1", "lost"), history))
            assert sorted(ranked) == ["a-1", "b-1", "lost"]


@pytest.mark.parametrize("cls", SMALL)
def test_nineteen_candidates_of_twenty_may_repeat(cls):
    ranked = made(cls).rank(TaskContext.of_ids(worlds.task("a0", "a-1", "a-1", "b-1"), ["a-2", "a-2"]))
    assert sorted(ranked) == ["a-1", "a-1", "b-1"]


@pytest.mark.parametrize(("cls", "options"), CASES)
def test_the_seed_decides_all_and_the_world_outside_nothing(cls, options):
    options = {**options, "epochs": 3}
    tasks = [worlds.task(user, *[f"{g}-{n}" for g in "ab" for n in range(10)]) for user in ("a0", "b1", "new")]
    torch.manual_seed(1)
    first = cls(seed=5, **options).fit(BLOCKS)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    again = cls(seed=5, **options).fit(BLOCKS.take(np.random.default_rng(0).permutation(len(BLOCKS))))
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random state has moved"
    for task in tasks:
        context = TaskContext.of_ids(task, ["a-3", "b-4"])
        assert first.rank(context) == again.rank(context)
    assert cls(seed=6, **options).fit(BLOCKS).curve != first.curve


@pytest.mark.parametrize("cls", SMALL)
def test_threads_of_torch_are_given_back(cls):
    before = torch.get_num_threads()
    cls(seed=0, **{**SMALL[cls], "epochs": 1}).fit(BLOCKS)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("cls", SMALL)
def test_a_world_with_nothing_or_next_to_nothing_in_it(cls):
    for rows in ([], [("u", "1")], [("u", "1"), ("v", "2")], [("u", "1"), ("u", "1"), ("u", "1")]):
        method = cls(seed=0, **{**SMALL[cls], "epochs": 2}).fit(worlds.table(rows))
        for user in ("u", "new"):
            for history in ([], ["1"], ["1", "1", "2"]):
                ranked = method.rank(TaskContext.of_ids(worlds.task(user, "1", "2", "3"), history))
                assert sorted(ranked) == ["1", "2", "3"]


@pytest.mark.parametrize("cls", SMALL)
def test_options_out_of_range_are_named(cls):
    rate = {"learning_rate": float("nan")}
    for options in ({"epochs": 0}, {"embedding_size": 0}, rate, {"reg": -1}, {"batch_size": "many"}):
        with pytest.raises(StarError, match=next(iter(options))):
            cls(seed=0, **options).fit(BLOCKS)


def test_sasrec_refuses_heads_that_do_not_divide_and_dropout_of_all():
    with pytest.raises(StarError, match="heads=3"):
        SASRec(embedding_size=64, heads=3).fit(BLOCKS)
    with pytest.raises(StarError, match="dropout"):
        SASRec(dropout=1.0).fit(BLOCKS)


def test_progress_is_told():
    told = []
    MF(**{**SMALL[MF], "epochs": 4}).fit(BLOCKS, progress=lambda done, most: told.append((done, most)))
    assert told and all(0 < done <= most for done, most in told) and told[-1][0] == told[-1][1]


def test_sasrec_reads_the_order():
    method = SASRec(**SMALL[SASRec]).fit(worlds.cycle())
    for start in range(10):
        walk = [f"i{(start + step) % 10}" for step in range(4)]
        ahead = [f"i{(start + 4 + step) % 10}" for step in range(5)]
        assert method.rank(TaskContext.of_ids(worlds.task("new", *reversed(ahead)), walk))[0] == ahead[0]


def test_sasrec_with_a_sample_of_the_items_learns_as_well():
    method = SASRec(**{**SMALL[SASRec], "negatives": 4}).fit(worlds.cycle())
    assert method.rank(TaskContext.of_ids(worlds.task("new", "i8", "i3", "i5", "i4"), ["i0", "i1", "i2"]))[0] == "i3"


def test_sasrec_cuts_long_sequences_into_windows():
    from star_rl.baselines.sequential import windows

    log = Log.of(worlds.table([("u", f"{n:02d}") for n in range(10)]))
    cut = [window.tolist() for window in windows(log, 4)]
    assert cut == [[5, 6, 7, 8, 9], [1, 2, 3, 4, 5], [0, 1]]
    pairs = [pair for window in cut for pair in itertools.pairwise(window)]
    assert sorted(pairs) == [(n, n + 1) for n in range(9)], "every step is learnt once"


def test_propagation_is_the_normalised_graph():
    from star_rl.baselines.bpr import Propagation

    log = Log.of(worlds.table([("u", "1"), ("u", "2"), ("v", "2")]))
    model = Propagation(log, LightGCN(embedding_size=2, layers=1))
    dense = np.zeros((4, 4))
    for user, item, weight in ((0, 2, 1 / np.sqrt(2)), (0, 3, 0.5), (1, 3, 1 / np.sqrt(2))):
        dense[user, item] = dense[item, user] = weight
    table = model.table.detach().numpy()
    assert np.allclose(model.final().numpy(), (table + dense @ table) / 2, atol=1e-6)


def test_attaching_a_known_user_by_the_same_edges_changes_nothing():
    method = made(LightGCN)
    user = method.log.users["a0"]
    attached = method.attached(method.own[user], method.log.of_user(user))
    assert np.allclose(method.final[user], attached, atol=1e-5)


def test_negatives_are_items_that_the_user_does_not_have():
    log = Log.of(BLOCKS)
    user, item = log.pairs()
    have = set(zip(user.tolist(), item.tolist(), strict=True))
    triples = Triples(log, 16, 100, 0)
    for _ in range(3):
        drawn = [triple for batch in triples for triple in zip(*(part.tolist() for part in batch), strict=True)]
        assert sorted(pair[:2] for pair in drawn) == sorted(have), "an epoch sees every pair once"
        wrong = sum((u, j) in have for u, _, j in drawn)
        assert wrong <= len(drawn) // 50  # after the last redraw some may be left


def test_an_item_seen_before_is_not_held_out():
    log = Log.of(worlds.table([("u", "1"), ("u", "2"), ("u", "1"), ("v", "1"), ("v", "3"), ("w", "2")]))
    kept, users, items = log.hold_out(np.random.default_rng(0))
    assert users.tolist() == [log.users["v"]] and items.tolist() == [log.items["3"]]
    assert [kept.of_user(user).tolist() for user in range(3)] == [[0, 1, 0], [0], [1]]


def test_expected_hits_are_what_draws_give():
    assert expected_hits(np.array([0.0, 1.0])).tolist() == [1.0, 0.0]
    above = np.random.default_rng(0).binomial(19, 0.1, 200_000)
    drawn = np.mean([(above < k).mean() for k in (1, 3, 5)])
    assert abs(expected_hits(np.array([0.1]))[0] - drawn) < 0.005


def test_torch_is_not_loaded_for_the_simple_ones():
    code = "import sys; from star_rl.baselines import ItemKNN, UserKNN; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    import star_rl.baselines

    with pytest.raises(AttributeError, match="Nothing"):
        _ = star_rl.baselines.Nothing
