"""Neighbours against an oracle of plain dictionaries and against SciPy, for every weight."""

import shutil
import tempfile
from importlib.machinery import EXTENSION_SUFFIXES

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from star_rl import neighbours as nb
from star_rl.errors import StarError
from star_rl.neighbours import kernel


def table(rows):
    users, items, times = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "item_id": pa.array(items, pa.string()),
            "timestamp": pa.array(times, pa.int64()),
        }
    )


def rows_of(found):
    """[(key, [(neighbour, weight, support), ..])] as the table holds them."""
    rows = found.to_arrow().to_pylist()
    return [(row["key"], list(zip(row["neighbours"], row["weights"], row["support"], strict=True))) for row in rows]


def world(seed, n=600, users=60, items=40):
    """Skewed random interactions, with repeats, users of one item and several equal degrees."""
    draw = np.random.default_rng(seed)
    u, i = draw.integers(0, users, n), (items * draw.random(n) ** 2).astype(int)
    return [(f"u{a}", f"i{b}", int(t)) for a, b, t in zip(u, i, draw.integers(0, 1000, n), strict=True)]


def oracle(rows, side, weight="cosine", alpha=0.5, half_life=None, now=None):
    """{key: {id: (weight, support)}}, all neighbours, in plain Python."""
    latest = {}
    for user, item, time in rows:
        row, mid = (item, user) if side == "item" else (user, item)
        latest[row, mid] = max(time, latest.get((row, mid), time))
    end = now if now is not None else max(latest.values(), default=0)
    value = {
        pair: 1.0 if half_life is None else float(np.exp2(-min(60.0, max(0.0, (end - t) / half_life))))
        for pair, t in latest.items()
    }
    mids, members = {}, {}
    for row, mid in sorted(latest):
        mids.setdefault(row, []).append(mid)
        members.setdefault(mid, []).append(row)
    factor = {mid: 1.0 / np.log2(1.0 + len(m)) if weight == "log" else 1.0 for mid, m in members.items()}
    mass = {row: sum(factor[m] * value[row, m] ** 2 for m in mids[row]) for row in mids}
    result = {}
    for row in sorted(mids):
        sums, support = {}, {}
        for mid in mids[row]:
            for other in members[mid]:
                if other != row:
                    sums[other] = sums.get(other, 0.0) + factor[mid] * value[row, mid] * value[other, mid]
                    support[other] = support.get(other, 0) + 1
        if weight == "conditional":
            scored = {j: s / (mass[row] * mass[j] ** alpha) for j, s in sums.items()}
        else:
            scored = {j: s / np.sqrt(mass[row] * mass[j]) for j, s in sums.items()}
        result[row] = {j: (scored[j], support[j]) for j in sorted(scored)}
    return result


def assert_matches(found, expected, k):
    """Weights, supports, order and ties. Sums differ from the oracle's in the last bits: ties as shown."""
    assert len(found) == len(expected)
    for key, row in rows_of(found):
        truth = expected[key]
        assert len(row) == min(k, len(truth))
        assert row == sorted(row, key=lambda entry: (-entry[1], entry[0].encode()))
        for name, weight, support in row:
            assert weight == pytest.approx(truth[name][0], rel=1e-6)
            assert support == truth[name][1]
        if row:
            left_out = [w for name, (w, _) in truth.items() if name not in {r[0] for r in row}]
            assert max(left_out, default=0.0) <= row[-1][1] * (1 + 1e-6)


@pytest.mark.parametrize("side", ["item", "user"])
@pytest.mark.parametrize("weight", nb.WEIGHTS)
@pytest.mark.parametrize("half_life", [None, 200.0])
def test_all_weights_match_the_oracle(side, weight, half_life):
    rows = world(3)
    graph = nb.Graph.from_table(table(rows), times=half_life is not None)
    find = nb.item_neighbours if side == "item" else nb.user_neighbours
    decay = None if half_life is None else nb.Decay(half_life)
    for k in (1, 5, 200):
        found = find(graph, k=k, weight=weight, alpha=0.3, decay=decay, threads=2)
        assert_matches(found, oracle(rows, side, weight, 0.3, half_life), k)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_conditional_at_the_ends_of_alpha(alpha):
    rows = world(5)
    found = nb.item_neighbours(nb.Graph.from_table(table(rows)), k=7, weight="conditional", alpha=alpha)
    assert_matches(found, oracle(rows, "item", "conditional", alpha), 7)


def test_ties_go_to_the_smaller_id():
    rows = [("u", name, 0) for name in ("b", "é", "a", "B", "10", "9")]
    found = nb.item_neighbours(nb.Graph.from_table(table(rows)), ["b"], k=3)
    assert rows_of(found)[0][1] == [("10", 1.0, 1), ("9", 1.0, 1), ("B", 1.0, 1)]


def test_exact_ties_survive_rounding():
    """1/sqrt(2) equals 3/sqrt(18); in float64 the last bits may differ, as reported they tie."""
    rows = [("u0", "row", 0), ("u1", "row", 0), ("u2", "row", 0), ("u0", "a", 0), ("x", "a", 0)]
    rows += [(f"u{n}", "B", 0) for n in range(3)] + [(f"y{n}", "B", 0) for n in range(15)]
    found = nb.item_neighbours(nb.Graph.from_table(table(rows)), ["row"])
    assert [name for name, _, _ in rows_of(found)[0][1]] == ["B", "a"]
    assert found.weights[0] == found.weights[1]


def test_only_the_rows_asked_for_in_the_order_asked():
    rows = world(7)
    graph = nb.Graph.from_table(table(rows))
    everything = dict(rows_of(nb.item_neighbours(graph, k=4)))
    asked = ["i5", "nowhere", "i0", "i5"]
    found = nb.item_neighbours(graph, asked, k=4)
    assert [key for key, _ in rows_of(found)] == asked
    assert [row for _, row in rows_of(found)] == [everything["i5"], [], everything["i0"], everything["i5"]]
    assert not found.complete


def test_a_user_of_one_item_and_a_lonely_pair():
    rows = [("solo", "a", 1), ("other", "a", 2), ("other", "b", 3), ("hermit", "only", 4)]
    graph = nb.Graph.from_table(table(rows))
    found = dict(rows_of(nb.user_neighbours(graph)))
    assert found["hermit"] == []
    assert [name for name, _, _ in found["solo"]] == ["other"]
    assert dict(rows_of(nb.item_neighbours(graph)))["only"] == []


def test_empty_tables_and_empty_requests():
    graph = nb.Graph.from_table(table([]))
    assert rows_of(nb.item_neighbours(graph)) == []
    assert rows_of(nb.item_neighbours(graph, ["x"])) == [("x", [])]
    some = nb.Graph.from_table(table([("u", "i", 0)]))
    assert rows_of(nb.user_neighbours(some, [])) == []
    assert nb.user_neighbours(some, []).to_arrow().num_rows == 0
    assert rows_of(nb.liked_items(some, nb.user_neighbours(some))) == [("u", [])]


def test_liked_items_are_those_of_similar_users_without_ones_own():
    rows = world(11)
    graph = nb.Graph.from_table(table(rows))
    asked = ["u3", "unknown", "u8"]
    similar = nb.user_neighbours(graph, asked, k=6)
    found = nb.liked_items(graph, similar, k=5)
    has = {}
    for user, item, _ in rows:
        has.setdefault(user, set()).add(item)
    assert [key for key, _ in rows_of(found)] == asked
    for (user, liked), (_, alike) in zip(rows_of(found), rows_of(similar), strict=True):
        sums, support = {}, {}
        for other, weight, _ in alike:
            for item in has[other] - has[user]:
                sums[item] = sums.get(item, 0.0) + weight
                support[item] = support.get(item, 0) + 1
        best = sorted(sums, key=lambda item: (-np.float32(sums[item]), item))[:5]
        assert [name for name, _, _ in liked] == best
        assert [count for _, _, count in liked] == [support[item] for item in best]
        assert [weight for _, weight, _ in liked] == pytest.approx([sums[item] for item in best], rel=1e-6)


def similarities(users, items, times, shape, side, rows, weight, alpha, half_life):
    """SciPy's weights and supports of these rows, each without itself."""
    pairs, at = np.unique(users * shape[1] + items, return_inverse=True)
    latest = np.full(len(pairs), np.iinfo(np.int64).min)
    np.maximum.at(latest, at, times)
    value = np.ones(len(pairs)) if half_life is None else np.exp2(-(latest.max() - latest) / half_life)
    matrix = sp.csr_array((value, (pairs // shape[1], pairs % shape[1])), shape=shape)
    matrix = matrix.T.tocsr() if side == "item" else matrix
    pattern = sp.csr_array((np.ones(len(pairs)), matrix.indices, matrix.indptr), shape=matrix.shape)
    degrees = np.maximum(pattern.sum(axis=0), 1)
    factor = sp.diags_array(1.0 / np.log2(1.0 + degrees) if weight == "log" else np.ones(len(degrees)))
    mass = np.maximum((matrix.power(2) @ factor).sum(axis=1), 1e-300)
    left, right = (1 / mass, mass**-alpha) if weight == "conditional" else (mass**-0.5, mass**-0.5)
    weights = left[rows, None] * (matrix[rows] @ factor @ matrix.T).toarray() * right
    support = (pattern[rows] @ pattern.T).toarray().astype(int)
    weights[np.arange(len(rows)), rows] = support[np.arange(len(rows)), rows] = 0
    return weights, support


@pytest.mark.parametrize("k", [1, 50, 300, 5000])
@pytest.mark.parametrize("packed", [True, False])
def test_long_rows_are_thinned_to_scipys_best(monkeypatch, k, packed):
    """Rows of thousands of candidates, most of which tie, with and without the kinds beside the targets."""
    draw = np.random.default_rng(6)
    shape, n = (400, 12_000), 60_000
    users, items = draw.integers(0, shape[0], n), (shape[1] * draw.random(n) ** 2).astype(np.int64)
    times = draw.integers(0, 1000, n)
    graph = nb.Graph.from_codes(users, items, times, *shape)
    rows = {"item": np.r_[0:20, shape[1] - 20 : shape[1]], "user": np.arange(30)}
    if not packed:
        monkeypatch.setattr(kernel, "pack", lambda walk, threads: walk)
    for weight, half_life in (("cosine", None), ("conditional", None), ("log", None), ("cosine", 100.0)):
        for side, find in (("item", nb.item_neighbours), ("user", nb.user_neighbours)):
            decay = None if half_life is None else nb.Decay(half_life)
            found = find(graph, rows[side], k=k, weight=weight, alpha=0.25, decay=decay)
            weights, support = similarities(users, items, times, shape, side, rows[side], weight, 0.25, half_life)
            for at in range(len(rows[side])):
                span = slice(*found.indptr[at : at + 2])
                ids, mine = found.indices[span], found.weights[span]
                best = np.sort(weights[at][support[at] > 0])[::-1][:k]
                assert np.allclose(mine, best, rtol=1e-6, atol=0)
                assert np.allclose(mine, weights[at, ids], rtol=1e-6, atol=0)
                assert np.array_equal(found.support[span], support[at, ids])
                assert np.array_equal(np.lexsort((ids, -mine)), np.arange(len(ids)))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_the_result(threads):
    graph = nb.Graph.from_table(table(world(19, n=3000, users=200, items=100)))
    assert nb.item_neighbours(graph, threads=threads).to_arrow() == nb.item_neighbours(graph, threads=3).to_arrow()


def test_arrow_output():
    rows = [("u", "a", 0), ("u", "b", 0)]
    for graph in (nb.Graph.from_table(table(rows)), nb.Graph.from_codes(np.array([0, 0]), np.array([0, 1]))):
        out = nb.item_neighbours(graph).to_arrow()
        assert out.schema.field("neighbours").type == pa.list_(pa.string())
        names = ["a", "b"] if graph.item_ids is not None else ["0", "1"]
        assert out.to_pylist() == [
            {"key": names[0], "neighbours": [names[1]], "weights": [1.0], "support": [1]},
            {"key": names[1], "neighbours": [names[0]], "weights": [1.0], "support": [1]},
        ]


def test_extreme_ages_stay_finite():
    rows = [(f"u{n}", item, n * 10**9) for n in range(5) for item in ("a", "b", "c")] + [("u9", "a", 2**62)]
    graph = nb.Graph.from_table(table(rows), times=True)
    for weight in nb.WEIGHTS:
        found = nb.item_neighbours(graph, weight=weight, alpha=1.0, decay=nb.Decay(1e-3))
        assert len(found.weights) == 6
        assert np.all(np.isfinite(found.weights))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: nb.item_neighbours(g, k=0), "k = 0"),
        (lambda g: nb.item_neighbours(g, weight="jaccard"), "jaccard"),
        (lambda g: nb.item_neighbours(g, weight="conditional", alpha=1.5), "alpha=1.5"),
        (lambda g: nb.item_neighbours(g, decay=nb.Decay(5.0)), "timestamps"),
        (lambda g: nb.Decay(0.0), "half_life=0.0"),
        (lambda g: nb.item_neighbours(g, threads=0), "threads = 0"),
        (lambda g: nb.item_neighbours(g, np.array([9])), "code 9"),
        (lambda g: nb.liked_items(g, nb.item_neighbours(g)), "side 'item'"),
    ],
)
def test_wrong_options_name_the_value(call, words):
    graph = nb.Graph.from_table(table([("u", "i", 0)]))
    with pytest.raises(StarError, match=words):
        call(graph)


@pytest.mark.parametrize(("built", "words"), [(None, "was not built"), (b"not a library", "does not load")])
def test_a_missing_or_foreign_kernel_is_an_error_with_a_remedy(monkeypatch, tmp_path, built, words):
    monkeypatch.setattr(kernel, "__file__", str(tmp_path / "kernel.py"))
    if built is not None:
        (tmp_path / f"_kernel{EXTENSION_SUFFIXES[0]}").write_bytes(built)
    kernel.library.cache_clear()
    try:
        with pytest.raises(StarError, match=words) as raised:
            nb.Graph.from_table(table([("u", "a", 0), ("u", "b", 0)]))
        assert "make install" in raised.value.remedy
    finally:
        kernel.library.cache_clear()


def test_supports_beyond_16_bits():
    n = 66_000
    users = np.repeat(np.arange(n), 2)
    graph = nb.Graph.from_codes(users, np.tile([0, 1], n))
    assert rows_of(nb.item_neighbours(graph))[0][1] == [("1", 1.0, n)]
    assert rows_of(nb.user_neighbours(graph, np.array([5], np.int32), k=2))[0][1] == [("0", 1.0, 2), ("1", 1.0, 2)]


@pytest.mark.engine
def test_ray_tasks_give_the_same_rows():
    ray = pytest.importorskip("ray")
    graph = nb.Graph.from_table(table(world(23, n=3000, users=200, items=100)), times=True)
    folder = tempfile.mkdtemp(prefix="ray_", dir="/tmp")  # short: Ray puts sockets there
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    try:
        for weight, decay, window in (("cosine", None, 0), ("log", nb.Decay(100.0), 0), ("cosine", None, 6)):
            options = {"weight": weight, "decay": decay, "window": window}
            items = nb.item_neighbours(graph, ray="auto", **options)
            assert items.to_arrow() == nb.item_neighbours(graph, **options).to_arrow()
            asked = [f"u{n}" for n in range(0, 250, 3)]
            users = nb.user_neighbours(graph, asked, weight=weight, decay=decay, ray="auto")
            assert users.to_arrow() == nb.user_neighbours(graph, asked, weight=weight, decay=decay).to_arrow()
            liked = nb.liked_items(graph, users, ray="auto")
            assert liked.to_arrow() == nb.liked_items(graph, users).to_arrow()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.engine
def test_no_ray_cluster_is_an_error():
    pytest.importorskip("ray")
    graph = nb.Graph.from_table(table([("u", "i", 0)]))
    with pytest.raises(StarError, match="no Ray cluster"):
        nb.item_neighbours(graph, ray="127.0.0.1:1")
