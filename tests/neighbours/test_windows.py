"""Windows of users' sequences against slices of plain lists."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_rl import neighbours as nb
from star_rl.errors import StarError
from star_rl.neighbours.windows import windows_of
from tests.neighbours.test_topk import assert_matches, oracle, table, world

sequences = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(-3, 12)).map(lambda r: (f"u{r[0]}", f"i{r[1]}", r[2])),
    max_size=60,
)


def slices(rows, size):
    """[(user, [(item, time), ..])]: every window, cut from each user's sorted list."""
    latest = {}
    for user, item, time in rows:
        latest.setdefault(user, {})[item] = max(time, latest.get(user, {}).get(item, time))
    out = []
    for user, times in sorted(latest.items()):
        sequence = sorted(times.items(), key=lambda pair: (pair[1], pair[0].encode()))
        late = size - size // 2  # the second cut's first window is short by half
        starts = [(low, low + size) for low in range(0, len(sequence), size)]
        starts += [(0, late)] + [(low, low + size) for low in range(late, len(sequence), size)]
        out += [(user, sequence[low:high]) for low, high in starts]
    return out


def expected(rows, size, **weighting):
    """Weights of an oracle whose users are the windows; supports counted over sets of people."""
    cut = slices(rows, size)
    found = oracle([(number, *pair) for number, (_, window) in enumerate(cut) for pair in window], "item", **weighting)
    people = {}
    for user, window in cut:
        for one, _ in window:
            for other, _ in window:
                people.setdefault((one, other), set()).add(user)
    return {
        key: {other: (weight, len(people[key, other])) for other, (weight, _) in row.items()}
        for key, row in found.items()
    }


@settings(max_examples=150, deadline=None)
@given(rows=sequences, size=st.integers(1, 9), weight=st.sampled_from(nb.WEIGHTS))
def test_any_sequences_match_slices_of_lists(rows, size, weight):
    graph = nb.Graph.from_table(table(rows), times=True)
    found = nb.item_neighbours(graph, k=4, weight=weight, window=size)
    assert_matches(found, expected(rows, size, weight=weight), 4)


@pytest.mark.parametrize("size", [2, 7, 20])
@pytest.mark.parametrize("half_life", [None, 200.0])
def test_a_larger_world(monkeypatch, size, half_life):
    monkeypatch.setattr("star_rl.neighbours.windows._ROWS", 7)
    rows = world(7, n=3000, users=80, items=60)
    decay = None if half_life is None else nb.Decay(half_life)
    found = nb.item_neighbours(nb.Graph.from_table(table(rows), times=True), k=9, decay=decay, window=size, threads=2)
    assert_matches(found, expected(rows, size, half_life=half_life), 9)


def test_a_window_by_hand():
    """Neighbours at one time stand by id; a pair in two windows of one user is one user."""
    rows = [("u", "b", 5), ("u", "a", 5), ("u", "c", 6), ("u", "d", 7), ("u", "e", 8), ("v", "d", 1), ("v", "e", 2)]
    graph = nb.Graph.from_table(table(rows), times=True)
    windows, halves = windows_of(graph, 4)  # u: abcd, e and ab, cde; v: de and de
    assert windows.n_users == 6 and halves.n_users == 4 and windows.item_ids == graph.item_ids
    rows = {row["key"]: row for row in nb.item_neighbours(graph, window=4).to_arrow().to_pylist()}
    near = {name: dict(zip(row["neighbours"], row["support"], strict=True)) for name, row in rows.items()}
    assert near["a"] == {"b": 1, "c": 1, "d": 1}
    assert near["e"] == {"c": 1, "d": 2}


def test_windows_that_hold_whole_sequences_change_nothing():
    rows = world(11)
    graph = nb.Graph.from_table(table(rows), times=True)
    assert nb.item_neighbours(graph, window=1000).to_arrow() == nb.item_neighbours(graph).to_arrow()


def test_supports_beyond_16_bits():
    n = 40_000  # twice as many windows
    graph = nb.Graph.from_codes(np.repeat(np.arange(n), 2), np.tile([0, 1], n), np.zeros(2 * n, np.int64))
    assert nb.item_neighbours(graph, window=2).support.tolist() == [n, n]


def test_a_graph_without_times_is_refused():
    graph = nb.Graph.from_table(table([("u", "a", 0)]))
    with pytest.raises(StarError, match="windows need timestamps"):
        nb.item_neighbours(graph, window=2)
    with pytest.raises(StarError, match="window=-1"):
        nb.item_neighbours(graph, window=-1)


def test_no_interactions():
    empty = pa.table({"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.string())})
    graph = nb.Graph.from_table(empty.append_column("timestamp", pa.array([], pa.int64())), times=True)
    assert len(nb.item_neighbours(graph, window=4)) == 0
