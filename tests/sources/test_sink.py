import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_rl.errors import StarError
from star_rl.files import read_json
from star_rl.records import read_table
from star_rl.sources.cleaning import clean_id, clean_ids, clean_text
from star_rl.sources.sink import Sink


def strings(*values):
    return pa.array(values, pa.string())


def pour(sink, rows, **more):
    users, items, stamps = zip(*rows, strict=True)
    sink.interactions(strings(*users), strings(*items), pa.array(stamps), **more)


def with_items(sink, *ids):
    for key in ids:
        sink.item(key, f"Title {key}", ["c"], {})
    return sink


def rows_of(folder):
    return [(r["user_id"], r["item_id"], r["timestamp"]) for r in read_table(folder, "interactions").to_pylist()]


def test_rows_are_sorted_by_user_and_time_and_ties_keep_their_order(tmp_path):
    with with_items(Sink(tmp_path, "s"), "a", "b", "c") as sink:
        pour(sink, [("u2", "a", 5), ("u1", "c", 9), ("u1", "b", 9), ("u1", "a", 3), ("u10", "a", 1)])
        manifest = sink.close()
    assert rows_of(tmp_path) == [("u1", "a", 3), ("u1", "c", 9), ("u1", "b", 9), ("u10", "a", 1), ("u2", "a", 5)]
    assert manifest["kept"] == {"interactions": 5, "items": 3, "users": 3}
    assert manifest["time_range"] == [1, 9]
    assert read_json(tmp_path / "tables.json") == manifest


def test_spilled_runs_give_the_same_tables_as_memory(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(f"u{rng.integers(400)}", f"{rng.integers(30)}", int(rng.integers(1, 50))) for _ in range(30_000)]
    prints = []
    for name, memory in (("whole", 1 << 30), ("spilled", 1 << 16)):
        with with_items(Sink(tmp_path / name, "s", memory=memory), *map(str, range(30))) as sink:
            for k in range(0, len(rows), 1000):
                pour(sink, rows[k : k + 1000], texts=strings(*(f"text {j}" for j in range(k, k + 1000))))
            spilled = sink.spilled
            manifest = sink.close()
        prints.append((read_table(tmp_path / name, "interactions"), manifest["dropped"]))
        assert not list((tmp_path / name).glob(".spill*"))
    assert spilled > 10
    assert prints[0][0].equals(prints[1][0]) and prints[0][1] == prints[1][1]
    expected = list(dict.fromkeys(sorted(rows, key=lambda row: (row[0], row[2]))))
    assert rows_of(tmp_path / "spilled") == expected


def test_second_copies_are_dropped_and_counted_returns_at_another_time_are_kept(tmp_path):
    with with_items(Sink(tmp_path, "s"), "a", "b") as sink:
        pour(sink, [("u", "a", 5), ("u", "b", 5), ("u", "a", 5), ("u", "a", 6)])
        manifest = sink.close()
    assert rows_of(tmp_path) == [("u", "a", 5), ("u", "b", 5), ("u", "a", 6)]
    assert manifest["dropped"]["interactions"] == {"duplicate": 1}


def test_items_without_a_title_and_items_given_twice(tmp_path):
    with Sink(tmp_path, "s") as sink:
        sink.item("a", None, [], {})
        sink.item("b", "  ", [], {})
        sink.item("c", math.nan, ["x", " x ", ""], {"price": math.nan, "odd": {1, 2}})
        sink.item("c", "again", [], {})
        pour(sink, [("u", "a", 5)])
        manifest = sink.close()
    items = read_table(tmp_path, "items").to_pylist()
    assert [item["title"] for item in items] == ["Untitled"] * 3
    assert items[2]["categories"] == ["x"]
    assert manifest["repaired"] == {"items without a title": 3}
    assert manifest["dropped"]["items"] == {"duplicate": 1}


def test_ratings_that_are_no_number_become_null(tmp_path):
    with with_items(Sink(tmp_path, "s"), "a") as sink:
        pour(sink, [("u", "a", 1), ("u", "a", 2), ("u", "a", 3)], ratings=pa.array([math.nan, 4.5, math.inf]))
        pour(sink, [("u", "a", 4), ("u", "a", 5), ("u", "a", 6)], ratings=strings("nan", "3", None))
        manifest = sink.close()
    assert read_table(tmp_path, "interactions")["rating"].to_pylist() == [None, 4.5, None, None, 3.0, None]
    assert manifest["repaired"] == {"ratings that are no number": 3}


@pytest.mark.parametrize(
    "bad",
    ["", "  ", 'a"b', "a\nb", "a\tb", "</tool_call>", "a\\b", "a\u2028b", "a\u200bb", "x" * 129, None],
)
def test_ids_that_would_break_a_prompt_are_dropped_with_their_line(tmp_path, bad):
    assert clean_id(bad) is None
    with with_items(Sink(tmp_path, "s", max_bad_share=0.5), "a") as sink:
        sink.interactions(strings("u", bad), strings("a", "a"), pa.array([1, 2]), file="f.csv", line=10)
        sink.interactions(strings("u", "u"), strings("a", bad), pa.array([3, 4]), file="f.csv", line=np.array([20, 30]))
        manifest = sink.close()
    assert rows_of(tmp_path) == [("u", "a", 1), ("u", "a", 3)]
    assert manifest["dropped"]["interactions"] == {"no usable user id": 1, "no usable item id": 1}
    assert [(row["file"], row["line"]) for row in manifest["bad_rows"]] == [("f.csv", 11), ("f.csv", 30)]


def test_ids_of_other_alphabets_pass_and_blanks_are_trimmed():
    ids, good = clean_ids(strings(" a ", "Пример", "本", "a b", "{x}", "[1]", "it's"))
    assert good.all() and ids.to_pylist() == ["a", "Пример", "本", "a b", "{x}", "[1]", "it's"]
    assert [clean_id(v) for v in (12, 12.0, " a ", True, math.nan, ["a"])] == ["12", "12", "a", None, None, None]


def test_titles_become_one_line():
    assert clean_text(" a\n\tb\x00c  d\ud800") == "a bc d?"


def test_the_future_and_the_past_are_dropped(tmp_path):
    with with_items(Sink(tmp_path, "s", latest=1000, max_bad_share=1.0), "a") as sink:
        pour(sink, [("u", "a", 1000), ("u", "a", 1001), ("u", "a", 0), ("u", "a", -5), ("u", "a", None)])
        manifest = sink.close()
    assert rows_of(tmp_path) == [("u", "a", 1000)]
    assert manifest["dropped"]["interactions"] == {
        "no readable timestamp": 1,
        "timestamp before 1970": 2,
        "timestamp in the future": 1,
    }


def test_too_many_bad_rows_fail_and_leave_nothing(tmp_path):
    with with_items(Sink(tmp_path / "out", "s", max_bad_share=0.4), "a") as sink:
        pour(sink, [("u", "a", 1), ("u", "a", 2)])
        sink.rows["interactions"] += 2
        sink.bad("interactions", "f.json", 7, "not JSON", 2)
        with pytest.raises(StarError, match=r"2 of 4 rows .*not JSON: 2; first at f.json:7.*max_bad_share=0.4"):
            sink.close()
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_source_without_any_time_names_the_column_and_the_remedy(tmp_path):
    with with_items(Sink(tmp_path, "s", max_bad_share=1.0), "a") as sink:
        sink.time_column = "when"
        sink.interactions(strings("u"), strings("a"), strings("yesterday"))
        with pytest.raises(StarError, match=r"column when .* no readable timestamp - .*time=position"):
            sink.close()


def test_no_interaction_left_is_an_error(tmp_path):
    with Sink(tmp_path, "s") as sink:
        pour(sink, [("u", "a", 1)])
        with pytest.raises(StarError, match="item not in the item table: 1"):
            sink.close()
    assert not (tmp_path / "interactions.parquet").exists()


def test_positions_are_taken_as_they_stand(tmp_path):
    with Sink(tmp_path, "s", time="position") as sink:
        pour(sink, [("u", "b", 1), ("u", "a", 0)])
        manifest = sink.close(items_from_interactions=True)
    assert rows_of(tmp_path) == [("u", "a", 0), ("u", "b", 1)]
    assert manifest["time"] == "position"
    assert pq.read_table(tmp_path / "items.parquet")["title"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_max_bad_share_is_a_share(tmp_path, share):
    with pytest.raises(StarError, match="max_bad_share"):
        Sink(tmp_path, "s", max_bad_share=share)


@pytest.mark.parametrize("more", [{"texts": pa.array([["a"]])}, {"ratings": pa.array([["a"]])}])
def test_columns_of_a_type_that_cannot_be_read_are_an_error_of_one_line(tmp_path, more):
    with (
        Sink(tmp_path, "mine") as sink,
        pytest.raises(StarError, match="source mine have a column that cannot be") as error,
    ):
        pour(sink, [("u", "a", 1)], **more)
    assert "\n" not in str(error.value)
