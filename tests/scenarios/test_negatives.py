import numpy as np
import pytest

from star_rl.scenarios.negatives import Untouched


def untouched(touched, n_items):
    """For users 0, 1, .. with these sets of touched items."""
    pairs = [user * n_items + item for user, items in enumerate(touched) for item in sorted(items)]
    return Untouched(np.array(pairs, np.int64), len(touched), n_items)


def test_ranks_name_the_items_that_are_left():
    touched = [{0, 1, 5}, set(), set(range(9)), {9}, {0, 2, 4, 6, 8}]
    free = untouched(touched, 10)
    assert free.count.tolist() == [7, 10, 1, 9, 5]
    for user, items in enumerate(touched):
        left = sorted(set(range(10)) - items)
        assert free.items(np.array([user]), np.arange(len(left))[None]).tolist() == [left]


@pytest.mark.parametrize("n_items", [19, 20, 60, 76, 77, 90, 500, 40_000])
def test_what_is_drawn_is_distinct_and_untouched(n_items):
    rng = np.random.default_rng(n_items)
    touched = [
        set(rng.choice(n_items, size, replace=False).tolist()) for size in (0, 1, 30, 300) if size <= n_items - 19
    ]
    free = untouched(touched, n_items)
    users = np.arange(len(touched)).repeat(70)
    drawn = free.draw(users, 19, rng)
    for user, row in zip(users, drawn.tolist(), strict=True):
        assert len(set(row)) == 19 and not touched[user] & set(row) and min(row) >= 0 and max(row) < n_items


@pytest.mark.parametrize("n_items", [40, 200])  # by lots, and by drawing again
def test_every_item_that_is_left_is_drawn_as_often_in_every_place(n_items):
    free = untouched([{3, 4, 17}], n_items)
    rounds = 40_000
    drawn = free.draw(np.zeros(rounds, np.int64), 19, np.random.default_rng(0))
    left = n_items - 3
    for place in (0, 18, slice(None)):
        counts = np.bincount(drawn[:, place].ravel(), minlength=n_items)
        expected = counts.sum() / left
        assert set(np.flatnonzero(counts == 0)) == {3, 4, 17}
        # 6 standard errors: a chance of one in 10^6 or so over all items.
        assert np.abs(np.delete(counts, [3, 4, 17]) - expected).max() < 6 * np.sqrt(expected)


def test_a_seed_names_one_draw():
    free = untouched([{1}, {2}], 5000)
    users = np.arange(140_000) % 2
    one, two, other = (free.draw(users, 19, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one == two).all() and (one != other).any()
