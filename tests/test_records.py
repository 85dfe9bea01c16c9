"""Tables are held to their schemas."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_rl import records
from star_rl.errors import StarError

TASK = records.Task("t1", "synthetic", "classic", "u1", tuple(str(n) for n in range(20)), "3", 17)


def test_tasks_survive_the_round_trip(tmp_path):
    records.write_table(tmp_path / "tasks.parquet", records.tasks_to([TASK]), "tasks")
    assert list(records.tasks_from(records.read_table(tmp_path, "tasks"))) == [TASK]


def test_a_missing_table_and_a_missing_column_are_named(tmp_path):
    with pytest.raises(StarError, match=r"no table .*items\.parquet"):
        records.read_table(tmp_path, "items")
    pq.write_table(pa.table({"item_id": ["1"]}), tmp_path / "items.parquet")
    with pytest.raises(StarError, match=r"lacks the column.*title, categories, attributes"):
        records.read_table(tmp_path, "items")


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "users.parquet").write_text("hello")
    with pytest.raises(StarError, match="not a readable Parquet"):
        records.read_table(tmp_path, "users")


def test_items_carry_decoded_attributes():
    table = pa.Table.from_pylist(
        [{"item_id": "1", "title": "A", "categories": ["x"], "attributes": '{"year": 1999}'}], schema=records.ITEMS
    )
    assert records.items_from(table)["1"].attributes == {"year": 1999}


def interactions(*rows):
    names = ("user_id", "item_id", "timestamp", "rating", "text")
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=records.INTERACTIONS)


ROWS = [(f"u{k // 3}", f"i{k * 7 % 5}", k, float(k % 5) if k % 4 else None, "text" * k) for k in range(30)]


def test_some_columns_of_a_table(tmp_path):
    records.write_table(tmp_path / "interactions.parquet", interactions(*ROWS), "interactions")
    some = records.read_table(tmp_path, "interactions", ["timestamp", "user_id"])
    assert some.equals(interactions(*ROWS).select(["timestamp", "user_id"]))
    pq.write_table(some, tmp_path / "interactions.parquet")
    with pytest.raises(StarError, match=r"lacks the column.*item_id, rating, text"):
        records.read_table(tmp_path, "interactions", ["timestamp"])


@pytest.mark.parametrize("piece", [1, 4, 1000])
def test_interactions_as_codes_are_the_same_rows_numbered_by_first_sight(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(records, "_PIECE", piece)
    table = interactions(*ROWS)
    pq.write_table(table, tmp_path / "interactions.parquet", row_group_size=7)
    coded = records.read_interactions(tmp_path)
    assert coded.column_names == ["user_id", "item_id", "timestamp", "rating"]
    assert coded.cast(table.schema.remove(4)).equals(table.drop_columns(["text"]))
    for name in ("user_id", "item_id"):
        (chunk,) = coded[name].chunks
        assert chunk.dictionary.to_pylist() == list(dict.fromkeys(table[name].to_pylist()))
    batches = list(records.interaction_batches(tmp_path, 4))
    assert pa.Table.from_batches(batches).equals(table) and max(map(len, batches)) <= 4
    for rows in (coded, table):
        found = records.rows_of_users(rows, {"u2", "u4", "nobody"}, ["user_id", "timestamp"])
        assert found["user_id"].to_pylist() == ["u2"] * 3 + ["u4"] * 3
        assert not len(records.rows_of_users(rows, set(), ["item_id"]))


def test_no_interactions_as_codes(tmp_path):
    records.write_table(tmp_path / "interactions.parquet", interactions(), "interactions")
    assert len(records.read_interactions(tmp_path)) == 0 and records.count_of(tmp_path, "interactions") == 0
    (tmp_path / "interactions.parquet").write_bytes(b"PAR1 but not really PAR1")
    for read in (records.read_interactions, lambda path: list(records.interaction_batches(path, 4))):
        with pytest.raises(StarError, match="not a readable Parquet"):
            read(tmp_path)


def test_a_table_of_items_is_a_mapping_of_the_same_items():
    rows = [
        {"item_id": f"i{k % 7}", "title": f"T{k}", "categories": ["x", f"y{k}", "x"], "attributes": f'{{"n": {k}}}'}
        for k in range(9)
    ]
    table = pa.Table.from_pylist(rows, schema=records.ITEMS)
    items, known = records.ItemTable(table), records.items_from(table)
    assert dict(items) == known and len(items) == 7 and items["i1"].title == "T8"  # the last row of an id counts
    assert items.get("i9") is None and "i9" not in items
    assert {name: (title, kinds) for name, title, kinds in items.described()} == {
        name: (item.title, item.categories) for name, item in known.items()
    }
    assert len(list(items.described())) == 7
