from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_rl import neighbours as nb
from star_rl.errors import StarError

interaction = st.tuples(st.integers(0, 11), st.integers(0, 9), st.integers(0, 50))


def table(rows):
    return pa.table(
        {
            "user_id": pa.array([f"u{row[0]}" for row in rows], pa.string()),
            "item_id": pa.array([f"i{row[1]}" for row in rows], pa.string()),
            "timestamp": pa.array([row[2] for row in rows], pa.int64()),
        }
    )


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("codes", "indptr", "indices", "weights", "support")
    ) and (one.keys == other.keys and one.ids == other.ids)


@settings(max_examples=150, deadline=None)
@given(
    old=st.lists(interaction, max_size=40),
    new=st.lists(interaction, max_size=8),
    side=st.sampled_from(["item", "user"]),
    weight=st.sampled_from(nb.WEIGHTS),
    decay=st.sampled_from([None, nb.Decay(7.0, now=50)]),
    asked=st.one_of(st.none(), st.lists(st.integers(0, 12), max_size=5)),
    window=st.integers(0, 5),
)
def test_an_update_equals_a_rebuild(old, new, side, weight, decay, asked, window):
    find = partial(nb.item_neighbours, window=window) if side == "item" else nb.user_neighbours
    keys = None if asked is None else [f"{side[0]}{number}" for number in asked]
    times = decay is not None or window > 0
    graph = nb.Graph.from_table(table(old), times=times)
    before = find(graph, keys, k=3, weight=weight, decay=decay)
    after = nb.update(graph, before, table(new))
    whole = nb.Graph.from_table(table(old + new), times=times)
    assert same(after.neighbours, find(whole, keys, k=3, weight=weight, decay=decay))
    again = nb.update(after.graph, after.neighbours, table(old[:2]))
    if not times:
        assert again.recomputed == 0  # nothing new
    assert same(again.neighbours, after.neighbours)


def test_rows_far_from_the_change_are_not_walked_again():
    rows = [(user, item, 0) for user in range(12) for item in (user, user + 20)]
    graph = nb.Graph.from_table(table(rows))
    items = nb.item_neighbours(graph)
    assert nb.update(graph, items, table([(3, 23, 0)])).recomputed == 0  # a pair that is there already
    result = nb.update(graph, items, table([(3, 4, 0)]))
    assert result.recomputed == 4  # i3, i23 of the user; i4 itself; i24, which shares a user with i4
    assert result.graph.n_edges == graph.n_edges + 1


def test_a_window_walks_the_users_items_again_and_those_near_the_new_one():
    rows = [(user, 10 * user + place, place) for user in range(12) for place in range(8)]
    graph = nb.Graph.from_table(table(rows), times=True)
    items = nb.item_neighbours(graph, window=4)
    assert nb.update(graph, items, table([(3, 33, 3)])).recomputed == 0  # a pair that is there already
    assert nb.update(graph, items, table([(3, 40, 9)])).recomputed == 9 + 3  # the user's; i41, i42, i43 of user 4


def test_liked_items_and_moving_decays_are_refused():
    graph = nb.Graph.from_table(table([(0, 0, 0), (1, 0, 5)]), times=True)
    liked = nb.liked_items(graph, nb.user_neighbours(graph))
    with pytest.raises(StarError, match="liked items"):
        nb.update(graph, liked, table([]))
    with pytest.raises(StarError, match="fixed reference time"):
        nb.update(graph, nb.item_neighbours(graph, decay=nb.Decay(3.0)), table([]))
    codes = nb.Graph.from_codes(np.array([0]), np.array([0]))
    with pytest.raises(StarError, match="bare codes"):
        nb.update(codes, nb.item_neighbours(codes), table([]))
