import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_rl.errors import StarError
from star_rl.neighbours import Graph, kernel
from star_rl.records import INTERACTIONS


def edges(graph):
    """{(user, item): time} read from the users' side, checked against the items' side."""
    users = graph.users_of_edges()
    items = np.repeat(np.arange(graph.n_items), np.diff(graph.item_indptr))
    forth = list(zip(users.tolist(), graph.user_items.tolist(), strict=True))
    back = list(zip(graph.item_users.tolist(), items.tolist(), strict=True))
    assert forth == sorted(set(forth))
    assert sorted(back) == forth
    assert back == sorted(back, key=lambda pair: pair[::-1])
    if graph.user_times is None:
        return dict.fromkeys(forth)
    times = dict(zip(forth, graph.user_times.tolist(), strict=True))
    assert times == dict(zip(back, graph.item_times.tolist(), strict=True))
    return times


def test_repeats_count_once_and_keep_the_latest_time():
    table = pa.table(
        {
            "user_id": ["b", "a", "b", "b", "a"],
            "item_id": ["y", "y", "x", "y", "y"],
            "timestamp": [5, 9, 1, 3, 2],
        }
    )
    graph = Graph.from_table(table, times=True)
    assert graph.user_ids.to_pylist() == ["a", "b"] and graph.item_ids.to_pylist() == ["x", "y"]
    assert edges(graph) == {(0, 1): 9, (1, 0): 1, (1, 1): 5}
    assert graph.n_edges == 3


def test_order_of_arrival_does_not_matter():
    draw = np.random.default_rng(0)
    users, items = draw.integers(0, 30, 400), draw.integers(0, 20, 400)
    times, order = draw.integers(0, 99, 400), draw.permutation(400)
    one = Graph.from_codes(users, items, times, 33, 21)
    two = Graph.from_codes(users[order], items[order], times[order], 33, 21)
    assert edges(one) == edges(two)
    assert (one.n_users, one.n_items) == (33, 21)
    for name in ("user_indptr", "user_items", "item_indptr", "item_users"):
        assert np.array_equal(getattr(one, name), getattr(two, name))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.integers(0, 6), max_size=5), max_size=6), st.booleans())
def test_any_csr_equals_codes(rows, tidy):
    """Sorted rows take a shorter way; both ways give one graph."""
    rows = [sorted(set(row)) if tidy else row for row in rows]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    indices = np.array([item for row in rows for item in row], np.int32)
    users = np.repeat(np.arange(len(rows)), np.diff(indptr))
    expected = edges(Graph.from_codes(users, indices, n_users=len(rows), n_items=7))
    assert edges(Graph.from_csr(indptr, indices, 7)) == expected
    assert kernel.ascends(indptr, indices) == all(row == sorted(set(row)) for row in rows)


@pytest.mark.parametrize("indptr", [[], [0, 1], [0, 3, 2], [1, 2]])
def test_row_pointers_that_do_not_fit(indptr):
    with pytest.raises(StarError, match="row pointers"):
        Graph.from_csr(np.array(indptr, np.int64), np.array([0, 1]), 2)


def test_csr_equals_codes():
    users, items = np.array([0, 0, 2, 2, 2]), np.array([1, 1, 3, 0, 3])
    assert edges(Graph.from_csr(np.array([0, 2, 2, 5]), items, 4)) == edges(Graph.from_codes(users, items))


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(names, names, st.integers(-(2**62), 2**62)), max_size=40))
def test_any_ids_come_back(rows):
    """Quotes, newlines, tags, NUL, empty strings, other scripts: ids are bytes to the graph."""
    users, items, times = zip(*rows, strict=True) if rows else ((), (), ())
    table = pa.table(
        [pa.array(users, pa.string()), pa.array(items, pa.string()), pa.array(times, pa.int64())],
        ["user_id", "item_id", "timestamp"],
    )
    graph = Graph.from_table(table, times=True)
    expected = {}
    for user, item, time in rows:
        expected[user, item] = max(time, expected.get((user, item), time))
    user_ids, item_ids = graph.user_ids.to_pylist(), graph.item_ids.to_pylist()
    assert user_ids == sorted(set(users), key=str.encode) and item_ids == sorted(set(items), key=str.encode)
    assert {(user_ids[u], item_ids[i]): t for (u, i), t in edges(graph).items()} == expected
    assert graph.user_codes(list(users)).tolist() == [user_ids.index(user) for user in users]


def test_chunked_dictionary_and_large_string_columns():
    chunks = pa.chunked_array([pa.array(["b", "a"]), pa.array([], pa.string()), pa.array(["c", "b"])])
    plain = Graph.from_table(pa.table({"user_id": chunks, "item_id": chunks}))
    for column in (chunks.dictionary_encode(), chunks.cast(pa.large_string()), chunks.combine_chunks()):
        other = Graph.from_table(pa.table({"user_id": column, "item_id": column}))
        assert other.user_ids == plain.user_ids and edges(other) == edges(plain)


def test_extended_equals_a_rebuild():
    schema = pa.schema([INTERACTIONS.field(name) for name in ("user_id", "item_id", "timestamp")])
    first = pa.table([["m", "z"], ["q", "q"], [4, 5]], schema=schema)
    more = pa.table([["a", "m", "z"], ["q", "q", "c"], [1, 9, 2]], schema=schema)
    grown = Graph.from_table(first, times=True).extended(more)
    whole = Graph.from_table(pa.concat_tables([more, first]), times=True)
    assert grown.user_ids == whole.user_ids and grown.item_ids == whole.item_ids and edges(grown) == edges(whole)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Graph.from_table(pa.table({"user_id": ["u"]})), "no column 'item_id'"),
        (
            lambda: Graph.from_table(pa.table({"user_id": ["u", None], "item_id": ["a", "b"]})),
            "1 interaction.* no user_id",
        ),
        (lambda: Graph.from_table(pa.table({"user_id": ["u"], "item_id": ["i"]}), times=True), "no column 'timestamp'"),
        (lambda: Graph.from_codes(np.array([0, 1]), np.array([0])), r"length: \[1, 2\]|lengths \[1, 2\]"),
        (lambda: Graph.from_codes(np.array([0, -1]), np.array([0, 1])), "code of users"),
        (lambda: Graph.from_codes(np.array([0, 5]), np.array([0, 1]), n_users=3), r"users lies outside 0\.\.2"),
        (lambda: Graph.from_codes(np.array([0, 1]), np.array([0, 7]), n_items=3), "outside 0"),
        (lambda: Graph.from_codes(np.array([0.5]), np.array([0])), "float64"),
        (lambda: Graph.from_codes(np.array([2**40]), np.array([0])), "outside"),
        (lambda: Graph.from_codes(np.array([0]), np.array([0])).user_codes(["u"]), "codes"),
    ],
)
def test_wrong_input_names_the_value(build, words):
    with pytest.raises(StarError, match=words):
        build()


@pytest.mark.parametrize("builders", [1, 2])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_large_graph_is_the_same_however_many_build_it(monkeypatch, builders, ordered):
    """Enough interactions for two threads, which fill the lists from both ends."""
    draw = np.random.default_rng(4)
    n = 5 * kernel.PIECE
    users, items = draw.integers(0, 30_000, n), (9_000 * draw.random(n) ** 3).astype(np.int64)
    times = draw.integers(0, 10**9, n)
    if ordered:
        pairs = np.unique(users * 9_000 + items)
        users, items, times = pairs // 9_000, pairs % 9_000, times[: len(pairs)]
    monkeypatch.setattr(kernel, "builders", lambda: builders)
    graph = Graph.from_codes(users, items, times)
    order = np.lexsort((times, items, users))
    last = order[np.r_[np.diff((users * 9_000 + items)[order]) > 0, True]]  # the latest of each pair
    by_item = last[np.lexsort((users[last], items[last]))]
    expected = {
        "user_indptr": np.searchsorted(users[last], np.arange(graph.n_users + 1)),
        "user_items": items[last],
        "user_times": times[last],
        "item_indptr": np.searchsorted(items[by_item], np.arange(graph.n_items + 1)),
        "item_users": users[by_item],
        "item_times": times[by_item],
    }
    for name, values in expected.items():
        assert np.array_equal(getattr(graph, name), values), name


def test_whether_codes_ascend_is_seen_across_the_parts(monkeypatch):
    monkeypatch.setattr(kernel, "builders", lambda: 2)
    keys = np.arange(2 * kernel.PIECE, dtype=np.int32)
    assert kernel.pointers(keys, len(keys), "users")[1]
    rolled = np.roll(keys, kernel.PIECE)  # each half ascends, the whole does not
    assert not kernel.pointers(rolled, len(keys), "users")[1]
    keys[-1] = len(keys)
    with pytest.raises(StarError, match="code of users"):
        kernel.pointers(keys, len(keys), "users")
