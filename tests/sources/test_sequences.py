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
    assert manifest["dropped"]["interactions"] == {"duplicate": 2}


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
