import pytest

from star_rl.errors import StarError
from star_rl.records import read_table
from star_rl.sources import write_tables

HEAD = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
ITEM = "item_id:token\ttitle:token_seq\tcategory:token_seq\n" + "".join(
    f"{k}\tDisc {k}\tJazz; Cool\n" for k in range(9)
)


def rows_of(folder):
    return [(r["user_id"], r["item_id"], r["timestamp"]) for r in read_table(folder, "interactions").to_pylist()]


def test_positions_and_items(tmp_path):
    (tmp_path / "d.test.inter").write_text(HEAD + "7\t3 1 3\t2\n8\t\t5\n")
    (tmp_path / "d.train.inter").write_text(HEAD + "7\t3\t1\n")
    (tmp_path / "d.item").write_text(ITEM)
    manifest = write_tables("sequences", tmp_path, tmp_path / "out")
    assert rows_of(tmp_path / "out") == [("7", "3", 0), ("7", "1", 1), ("7", "3", 2), ("7", "2", 3), ("8", "5", 0)]
    assert manifest["time"] == "position" and manifest["time_range"] == [0, 3]
    assert read_table(tmp_path / "out", "items")["categories"].to_pylist()[0] == ["Jazz", "Cool"]


def test_growing_rows_of_one_user_count_once(tmp_path):
    (tmp_path / "d.train.inter").write_text(HEAD + "7\t3\t1\n7\t3 1\t4\n8\t5\t6\n7\t1\t2\n")
    (tmp_path / "d.item").write_text(ITEM)
    manifest = write_tables("sequences", tmp_path, tmp_path / "out")
    assert rows_of(tmp_path / "out") == [("7", "3", 0), ("7", "1", 1), ("7", "4", 2), ("8", "5", 0), ("8", "6", 1)]
    assert manifest["dropped"]["interactions"] == {"repeated user": 2}


def test_plain_lists_without_an_item_file(tmp_path):
    (tmp_path / "games.txt").write_bytes(b"u a b c\n\nv\nw b \xff\nx c\n")
    manifest = write_tables("sequences", tmp_path, tmp_path / "out", {"max_bad_share": 0.5})
    assert rows_of(tmp_path / "out") == [("u", "a", 0), ("u", "b", 1), ("u", "c", 2), ("x", "c", 0)]
    assert [(row["line"], row["reason"]) for row in manifest["bad_rows"]] == [
        (3, "a user without items"),
        (4, "invalid UTF-8"),
    ]
    assert read_table(tmp_path / "out", "items")["title"].to_pylist() == ["a", "b", "c"]


def test_what_cannot_be_chosen_is_asked_for(tmp_path):
    with pytest.raises(StarError, match=r"no \*\.inter"):
        write_tables("sequences", tmp_path, tmp_path / "out")
    for name in ("a.test.inter", "b.test.inter"):
        (tmp_path / name).write_text(HEAD + "7\t3\t1\n")
    with pytest.raises(StarError, match=r"a\.test\.inter, b\.test\.inter - choose one"):
        write_tables("sequences", tmp_path, tmp_path / "out")
    with pytest.raises(StarError, match=r"no file .*c\.inter"):
        write_tables("sequences", tmp_path, tmp_path / "out", {"file": "c.inter"})
    (tmp_path / "b.test.inter").write_text("user_id:token\titem_id:token\n1\t2\n")
    with pytest.raises(StarError, match="no column item_id_list"):
        write_tables("sequences", tmp_path, tmp_path / "out", {"file": "b.test.inter"})


def of_text(folder, text, **options):
    (folder / "games.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    manifest = write_tables("sequences", folder, folder / "out", options)
    return manifest, rows_of(folder / "out")


LISTS = [("u", "1", 0), ("u", "2", 1), ("u", "1", 2), ("v", "3", 0)]


@pytest.mark.parametrize(
    "text",
    [
        "u 1 2 1\nv 3\n",
        "u\t1,2,1\nv\t3\n",
        "u: 1 2 1\r\nv: 3\r\n",
        "u [1, 2, 1]\nv ['3']\n",
        "u::1::2::1\rv::3\r",
        "user_id items\nu;1;2;1\nv;3",
    ],
)
def test_one_line_a_user(tmp_path, text):
    manifest, rows = of_text(tmp_path, text)
    assert rows == LISTS and manifest["options"]["form"] == "lists"


@pytest.mark.parametrize("text", ["u 1\nv 3\nu 2\nu 1\n", "user,item\nu,1\nu,2\nv,3\nu,1", "u\t1\nu\t2\nu\t1\nv\t3\n"])
def test_one_pair_a_line(tmp_path, text):
    manifest, rows = of_text(tmp_path, text)
    assert rows == LISTS and (manifest["options"]["form"], manifest["time"]) == ("pairs", "position")


@pytest.mark.parametrize(
    "text",
    [
        "u 2 4 1500000009\nv 3 5 1500000000\nu 1 5 1500000001\n",
        "u::2::4::1500000009\nu::1::5::1500000001\nv::3::5::1500000000\n",
        "user_id,item_id,rating,timestamp\nu,2,4,2017-07-14\nu,1,5,2017-07-13\nv,3,5,2017-07-14\n",
    ],
)
def test_user_item_rating_time_is_sorted_by_time(tmp_path, text):
    manifest, rows = of_text(tmp_path, text)
    assert [row[:2] for row in rows] == [("u", "1"), ("u", "2"), ("v", "3")]
    assert (manifest["options"]["form"], manifest["time"]) == ("rows", "seconds")
    assert read_table(tmp_path / "out", "interactions")["rating"].to_pylist() == [5.0, 4.0, 5.0]


def test_user_item_time_without_a_rating(tmp_path):
    manifest, rows = of_text(tmp_path, "u 2 1500000009\nu 1 1500000001\n")
    assert rows == [("u", "1", 1_500_000_001), ("u", "2", 1_500_000_009)] and manifest["repaired"] == {}


def test_sessions_are_named_and_their_items_stand_alone(tmp_path):
    text = "1 2 3\n1 4 5 6\n1 3 4\n"
    with pytest.raises(StarError, match=r"5 of 7 items .* follow a user that an earlier line named already - set form"):
        of_text(tmp_path, text)
    _, rows = of_text(tmp_path, text, form="sessions")
    assert rows[:3] == [("s1", "1", 0), ("s1", "2", 1), ("s1", "3", 2)] and len(rows) == 10
    _, rows = of_text(tmp_path, text, form="lists")
    assert [row[1] for row in rows] == ["2", "3", "4", "5", "6", "3", "4"] and rows[-1] == ("1", "4", 6)


def test_lines_of_another_form_are_counted(tmp_path):
    manifest, rows = of_text(tmp_path, "u 1\nu 2 3\nu 2\nv \xff\n", form="pairs", max_bad_share=0.5)
    assert rows[:2] == [("u", "1", 0), ("u", "2", 1)]
    assert manifest["dropped"]["interactions"] == {"not a user and an item": 1}
