import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_rl.errors import StarError
from star_rl.records import read_table
from star_rl.sources import write_tables

CSV = 'who,what,when,stars,note\nu1,a,2020-01-01,5,"good, really"\nu1,b,1577923200000,,\nu2,a,1577836801,4,fine\n'
NAMES = {"user_id": "who", "item_id": "what", "timestamp": "when", "rating": "stars", "text": "note"}
EXPECTED = [
    ("u1", "a", 1_577_836_800, 5.0, "good, really"),
    ("u1", "b", 1_577_923_200, None, ""),
    ("u2", "a", 1_577_836_801, 4.0, "fine"),
]


def rows_of(folder):
    return [tuple(row.values()) for row in read_table(folder, "interactions").to_pylist()]


def test_csv_by_mapping(tmp_path):
    (tmp_path / "log.csv").write_text(CSV)
    (tmp_path / "things.tsv").write_text("what\tname\tkind\tprice\na\tA thing\tx|y\t3\nb\t\t\t\n")
    manifest = write_tables("columns", tmp_path, tmp_path / "out", NAMES | {"interactions": "log.csv"})
    assert rows_of(tmp_path / "out") == EXPECTED and manifest["repaired"] == {}
    assert read_table(tmp_path / "out", "items")["title"].to_pylist() == ["a", "b"]
    more = {"interactions": "log.csv", "items": "things.tsv", "title": "name", "categories": "kind"}
    manifest = write_tables("columns", tmp_path, tmp_path / "out2", NAMES | more)
    items = [tuple(row.values()) for row in read_table(tmp_path / "out2", "items").to_pylist()]
    assert items == [("a", "A thing", ["x", "y"], '{"price":"3"}'), ("b", "Untitled", [], "{}")]


def test_gzip_and_parquet_give_the_same(tmp_path):
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    write_tables("columns", tmp_path / "log.csv.gz", tmp_path / "gz", NAMES)
    stamps = pa.array([1_577_836_800_000, 1_577_923_200_000, 1_577_836_801_000], pa.timestamp("ms"))
    columns = {"who": ["u1", "u1", "u2"], "what": ["a", "b", "a"], "when": stamps, "stars": [5, None, 4]}
    pq.write_table(pa.table(columns | {"note": ["good, really", "", "fine"]}), tmp_path / "log.parquet")
    write_tables("columns", tmp_path, tmp_path / "pq", NAMES | {"interactions": "log.parquet"})
    assert rows_of(tmp_path / "gz") == rows_of(tmp_path / "pq") == EXPECTED


def test_numbers_as_ids_in_parquet(tmp_path):
    pq.write_table(pa.table({"user_id": [1, None], "item_id": [2, 3], "timestamp": [9, 9]}), tmp_path / "log.parquet")
    manifest = write_tables("columns", tmp_path / "log.parquet", tmp_path / "out", {"max_bad_share": 0.5})
    assert rows_of(tmp_path / "out") == [("1", "2", 9, None, None)]
    assert manifest["dropped"]["interactions"] == {"no usable user id": 1}


def test_order_of_rows_as_time(tmp_path):
    (tmp_path / "interactions.csv").write_text("user_id,item_id\nu,b\nv,a\nu,a\n")
    with pytest.raises(StarError, match=r"no column 'timestamp' for timestamp - set time=position"):
        write_tables("columns", tmp_path, tmp_path / "out")
    manifest = write_tables("columns", tmp_path, tmp_path / "out", {"time": "position"})
    assert [row[:2] for row in rows_of(tmp_path / "out")] == [("u", "b"), ("u", "a"), ("v", "a")]
    assert manifest["time"] == "position"


@pytest.mark.parametrize(
    "content, options, message",
    [
        ("user,item_id,timestamp\nu,a,1\n", {}, "no column 'user_id' .*it has user, item_id, timestamp"),
        ("user_id,user_id,item_id,timestamp\nu,v,a,1\n", {}, "names the column 'user_id' twice"),
        ("user_id,item_id,timestamp\nu,a,\nu,b,\n", {"max_bad_share": 1.0}, "holds no readable timestamp"),
        ('user_id,item_id,timestamp\nu,"a\n",1\nv,"b\n",2\n', {}, "line break|unusable|delimited"),
        ("", {}, "no column"),
        ("user_id,item_id,timestamp\n", {}, "no interaction"),
        ("PAR1 but no more", {}, "not a readable Parquet"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, options, message):
    (tmp_path / "interactions.csv").write_text(content)
    with pytest.raises(StarError, match=message):
        write_tables("columns", tmp_path, tmp_path / "out", options)
    assert not list(tmp_path.rglob("*.parquet"))


def test_options_name_their_value(tmp_path):
    for options in ({"time": "days"}, {"encoding": "utf-16"}, {"title": 3}, {"wrong": 1}, {"memory_mb": 0}):
        with pytest.raises(StarError, match=next(iter(options))):
            write_tables("columns", tmp_path, tmp_path / "out", options)
