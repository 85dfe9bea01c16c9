import numpy as np
import pyarrow as pa
import pytest

from star_rl.sources import runs
from star_rl.sources.runs import Runs, heads, second_copies, sorted_batch

SCHEMA = pa.schema([("key", pa.string()), ("timestamp", pa.int64()), ("place", pa.int64())])
KEYS = {
    "numbers": lambda rng, n: [str(k) for k in rng.integers(0, n, n)],
    "long": lambda rng, n: [f"A{k:027d}" for k in rng.integers(0, n // 3, n)],
    "prefixes": lambda rng, n: ["shared prefix" + "a" * k for k in rng.integers(0, 30, n)],
    "nul bytes": lambda rng, n: ["a" + "\0" * k + rng.choice(["", "b"]) for k in rng.integers(0, 10, n)],
    "alphabets": lambda rng, n: ["".join(rng.choice(list("aZ é€😀~"), k)) for k in rng.integers(0, 12, n)],
    "equal": lambda rng, n: ["same"] * n,
    "empty": lambda rng, n: [""] * n,
    "sorted": lambda rng, n: sorted(str(k) for k in range(n)),
}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 33, 1000, 5003])
def test_rows_are_sorted_by_key_and_time_and_ties_keep_their_order(kind, count):
    rng = np.random.default_rng(count)
    keys = KEYS[kind](rng, max(3, count))[:count]
    stamps = rng.integers(-(2**62), 2**62, count) if count % 2 else rng.integers(0, 4, count)
    columns = [pa.array(keys, pa.string()), pa.array(stamps), pa.array(range(count))]
    expected = sorted(range(count), key=lambda k: (keys[k].encode(), stamps[k]))
    assert sorted_batch(columns, SCHEMA)["place"].to_pylist() == expected
    cut = [column.slice(count // 3) for column in columns]
    assert sorted_batch(cut, SCHEMA)["place"].to_pylist() == [k for k in expected if k >= count // 3]
    by_key = sorted_batch([columns[0], columns[2]], pa.schema([SCHEMA.field("key"), SCHEMA.field("place")]))
    assert by_key["place"].to_pylist() == sorted(range(count), key=lambda k: keys[k].encode())


@pytest.mark.parametrize("memory", [0, 1 << 12, 1 << 30])
@pytest.mark.parametrize("piece", [1 << 10, 1 << 16, 1 << 30])
def test_pieces_are_in_order_and_hold_each_key_whole(tmp_path, monkeypatch, memory, piece):
    monkeypatch.setattr(runs, "PIECE", piece)
    monkeypatch.setattr(runs, "_STEP", 4)
    rng = np.random.default_rng(1)
    sorter, rows = Runs(SCHEMA, tmp_path / "spill" / "rows.arrow", memory), []
    for _ in range(20):
        count = int(rng.integers(0, 300))
        keys, stamps = [f"u{k}" for k in rng.integers(0, 90, count)], rng.integers(0, 5, count)
        places = range(len(rows), len(rows) + count)
        rows += zip(keys, stamps.tolist(), places, strict=True)
        sorter.add(sorted_batch([pa.array(keys, pa.string()), pa.array(stamps), pa.array(places, pa.int64())], SCHEMA))
    assert sorter.rows == len(rows) and (sorter.spilled > 0) == (memory < 1 << 20)
    pieces = list(sorter.pieces())
    assert [tuple(row.values()) for table in pieces for row in table.to_pylist()] == sorted(rows)
    last = [table["key"][-1].as_py() for table in pieces]
    assert all(table["key"][0].as_py() > before for table, before in zip(pieces[1:], last, strict=False))
    assert (len(pieces) > 5) == (piece == 1 << 10)
    sorter.close()
    assert not (tmp_path / "spill" / "rows.arrow").exists()


def test_no_rows_no_pieces(tmp_path):
    sorter = Runs(SCHEMA, tmp_path / "rows.arrow", 0)
    sorter.add(pa.RecordBatch.from_pylist([], schema=SCHEMA))
    assert list(sorter.pieces()) == []
    sorter.close()


def test_heads_and_second_copies():
    assert heads(pa.array(["a", "a", "b"])).tolist() == [True, False, True]
    assert heads(pa.array([], pa.string())).tolist() == []
    user, stamp = np.array([1, 1, 1, 1, 2, 2]), np.array([5, 5, 5, 6, 6, 6])
    assert sorted(second_copies(user, np.array([7, 8, 7, 7, 7, 7]), stamp).tolist()) == [2, 5]
    assert not len(second_copies(user[:0], user[:0], user[:0]))
