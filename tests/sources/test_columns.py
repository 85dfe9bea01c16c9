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
    for options in ({"time": "days"}, {"encoding": "utf-99"}, {"title": 3}, {"wrong": 1}, {"memory_mb": 0}):
        with pytest.raises(StarError, match=next(iter(options))):
            write_tables("columns", tmp_path, tmp_path / "out", options)


def tables(folder, rows, out="out", items=None, **options):
    """Write rows (text, or the columns of a Parquet file) and items, and read them as a source."""
    for name, content in (("i", rows), ("items", items)):
        if isinstance(content, dict):
            pq.write_table(pa.table(content), folder / f"{name}.parquet")
            options["interactions" if name == "i" else name] = f"{name}.parquet"
        elif content is not None:
            (folder / f"{name}.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
            options["interactions" if name == "i" else name] = f"{name}.csv"
    return write_tables("columns", folder, folder / out, options)


def rated(value, delimiter=","):
    head = delimiter.join(["user_id", "item_id", "timestamp", "stars"])
    return head + "".join(
        f"\nu{k}{delimiter}a{delimiter}{1_500_000_000 + 9999 * k}{delimiter}{value}" for k in range(9)
    )


@pytest.mark.parametrize(
    "value, delimiter, number", [("4.0e+00", ",", 4.0), ("4,0", ";", 4.0), (".5", ",", 0.5), ("5.", "\t", 5.0)]
)
def test_ratings_are_read_in_every_form_of_a_number(tmp_path, value, delimiter, number):
    manifest = tables(tmp_path, rated(value, delimiter), rating="stars")
    assert [row[3] for row in rows_of(tmp_path / "out")] == [number] * 9 and manifest["repaired"] == {}


@pytest.mark.parametrize("value", ["4/5", "4.0 out of 5 stars", "four", "★★★★"])
def test_ratings_that_are_no_numbers_are_refused_with_the_value_and_the_forms(tmp_path, value):
    with pytest.raises(StarError, match=rf"9 of 9 ratings .* are no number, such as '{value}' - write them as 4, 4.0"):
        tables(tmp_path, rated(value), rating="stars")
    assert not (tmp_path / "out" / "tables.json").exists()
    manifest = tables(tmp_path, rated(value), rating="stars", max_bad_share=1.0)
    assert manifest["repaired"] == {"ratings that are no number": 9}


def test_ratings_that_are_missing_are_not_refused(tmp_path):
    tables(tmp_path, rated("NULL"), rating="stars")
    assert [row[3] for row in rows_of(tmp_path / "out")] == [None] * 9


LOG = "user_id,item_id,timestamp\nu,i0,1500000000\nu,i1,1500086400\nv,i2,1500172800\n"


def test_categories_that_a_program_wrote_as_text(tmp_path):
    items = "item_id,title,kind\ni0,Ball,\"['Sports & Outdoors', 'Golf']\"\n"
    items += "i1,nan,\"[{'id': 18, 'name': 'Drama'}]\"\ni2,Cup,Kitchen|Cups\n"
    manifest = tables(tmp_path, LOG, items=items, categories="kind")
    found = [(row["title"], row["categories"]) for row in read_table(tmp_path / "out", "items").to_pylist()]
    assert found == [("Ball", ["Sports & Outdoors", "Golf"]), ("Untitled", ["Drama"]), ("Cup", ["Kitchen", "Cups"])]
    assert manifest["repaired"] == {"items without a title": 1}


@pytest.mark.parametrize(
    "kinds, expected",
    [
        ([[["A", "B"]], [["C"]], None], [["A", "B"], ["C"], []]),
        ([[{"name": "A"}], [{"name": "B"}], []], [["A"], ["B"], []]),
        ([7, 9, None], [["7"], ["9"], []]),
        ([7.0, None, 8.0], [["7"], [], ["8"]]),
        ([True, False, None], [["True"], ["False"], []]),
        (pa.array(["A|B", "C", "A|B"]).dictionary_encode(), [["A", "B"], ["C"], ["A", "B"]]),
        ([b"A|B", b"C", None], [["A", "B"], ["C"], []]),
    ],
)
def test_categories_of_every_parquet_type(tmp_path, kinds, expected):
    tables(tmp_path, LOG, items={"item_id": ["i0", "i1", "i2"], "title": ["x", "y", "z"], "k": kinds}, categories="k")
    assert read_table(tmp_path / "out", "items")["categories"].to_pylist() == expected


USERS, ITEMS, TIMES = ["u1", "u1", "u2"], ["i1", "i2", "i1"], [1_500_000_000, 1_500_086_400, 1_500_000_002]


@pytest.mark.parametrize(
    "column, values, kind",
    [
        ("timestamp", [[1], [2], [3]], "list"),
        ("timestamp", pa.array([1, 2, 3], pa.duration("s")), "duration"),
        ("timestamp", [{"a": 1}, None, None], "struct"),
        ("user_id", [["a"], ["b"], ["c"]], "list"),
        ("item_id", [{"a": 1}, None, None], "struct"),
        ("user_id", pa.array([1, 2, 3], pa.timestamp("s")), "timestamp"),
        ("text", [["a"], ["b"], None], "list"),
        ("rating", pa.array([1, 2, 3], pa.duration("s")), "duration"),
    ],
)
def test_parquet_types_that_cannot_be_read_are_named_before_any_row(tmp_path, column, values, kind):
    rows = {"user_id": USERS, "item_id": ITEMS, "timestamp": TIMES} | {column: values}
    named = {column: column} if column in ("text", "rating") else {}
    with pytest.raises(
        StarError, match=rf"column '{column}' of .*i\.parquet has the type {kind}.*{column}=NAME"
    ) as error:
        tables(tmp_path, rows, **named)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", ["item_id", "title", "categories"])
def test_types_of_items_are_asked_as_well(tmp_path, column):
    items = {"item_id": ["i1", "i2"], "title": ["a", "b"], "categories": ["c", "d"]}
    items |= {column: pa.array([1, 2], pa.duration("s"))}
    with pytest.raises(StarError, match=rf"column '{column}' of .*items\.parquet has the type duration"):
        tables(tmp_path, {"user_id": USERS, "item_id": ITEMS, "timestamp": TIMES}, items=items, categories="categories")


def as_bytes(values):
    return pa.array([value.encode() for value in values], pa.binary())


@pytest.mark.parametrize(
    "ids, listed",
    [
        (as_bytes("121"), as_bytes("12")),
        (as_bytes("121"), ["1", "2"]),
        ([1, 2, 1], ["1", "2"]),
        ([1.0, 2.0, 1.0], [1, 2]),
        (pa.array(["1", "2", "1"]).dictionary_encode(), pa.array(["1", "2"], pa.large_string())),
    ],
)
def test_ids_of_different_types_meet(tmp_path, ids, listed):
    rows = {"user_id": as_bytes(["138", "138", "92"]), "item_id": ids, "timestamp": TIMES}
    manifest = tables(tmp_path, rows, items={"item_id": listed, "title": as_bytes(["One", "Two"])})
    assert manifest["kept"]["interactions"] == 3 and {row[0] for row in rows_of(tmp_path / "out")} == {"138", "92"}
    assert read_table(tmp_path / "out", "items")["title"].to_pylist() == ["One", "Two"]


def test_timestamps_that_pandas_made_categories(tmp_path):
    stamps = pa.array(["2018-01-01", "2018-01-02", "2018-01-01"]).dictionary_encode()
    tables(tmp_path, {"user_id": USERS, "item_id": ITEMS, "timestamp": stamps})
    assert [row[2] for row in rows_of(tmp_path / "out")] == [1_514_764_800, 1_514_851_200, 1_514_764_800]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends_of_a_table(tmp_path, encoding, end):
    items = "item_id;title\ni0;Été – fin\ni1;Niño\ni2;Gespür\n".replace("\n", end).encode(encoding)
    manifest = tables(tmp_path, LOG.replace("\n", end).encode(encoding), items=items)
    assert read_table(tmp_path / "out", "items")["title"].to_pylist() == ["Été – fin", "Niño", "Gespür"]
    assert manifest["kept"]["interactions"] == 3 and manifest["dropped"] == {}


def test_names_of_recbole_s_columns_need_no_type(tmp_path):
    tables(tmp_path, "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1500000000\n")
    assert rows_of(tmp_path / "out")[0][:3] == ("u", "a", 1_500_000_000)


def test_dates_that_cannot_be_read_are_refused_with_the_value_and_the_forms(tmp_path):
    rows = "user_id,item_id,timestamp\nu,a,yesterday\nu,b,today\n"
    with pytest.raises(StarError, match=r"\('yesterday'\) holds no readable timestamp - .*17\.08\.2017"):
        tables(tmp_path, rows)


@pytest.mark.parametrize(
    "first, last, says", [(9000, 9900, "before 1990"), (1_500_000_000, 1_500_000_600, "within an hour")]
)
def test_times_that_are_hardly_meant_are_said(tmp_path, first, last, says):
    manifest = tables(tmp_path, f"user_id,item_id,timestamp\nu,a,{first}\nu,b,{last}\n")
    assert len(manifest["doubts"]) == 1 and says in manifest["doubts"][0]
    assert not tables(tmp_path, LOG, out="fine")["doubts"]


def test_a_file_that_loses_most_of_its_rows_is_refused(tmp_path):
    with pytest.raises(StarError, match=r"2 of 3 interactions name an item that the item table lacks, such as 'i[12]'"):
        tables(tmp_path, LOG, items="item_id,title\ni0,Ball\n")
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_words_for_missing_values_are_no_ids_texts_or_attributes(tmp_path):
    rows = "user_id,item_id,timestamp,note\nnan,i0,1500000000,a\nu,i0,1500000000,nan\nv,i0,1500086400,b\n"
    rows += "v,NULL,1500000000,c\n"
    items = "item_id,title,price,brand\ni0,Ball,nan,Acme\n"
    manifest = tables(tmp_path, rows, items=items, text="note", max_bad_share=0.5)
    assert manifest["dropped"]["interactions"] == {"no usable user id": 1, "no usable item id": 1}
    assert [(row[0], row[4]) for row in rows_of(tmp_path / "out")] == [("u", None), ("v", "b")]
    assert read_table(tmp_path / "out", "items")["attributes"].to_pylist() == ['{"brand":"Acme"}']
