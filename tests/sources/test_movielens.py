import gzip

import pytest

from star_rl.errors import StarError
from star_rl.records import read_table
from star_rl.sources import write_tables

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t4\t900000000\n1\t11\t2\t900000001\n"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
ITEM += "10\tHeat\t1995\tAction Crime\n11\tÉté\t\t\n"
USER = "user_id:token\tage:token\n1\t24\n"


def files(folder, **contents):
    for name, content in contents.items():
        (folder / name.replace("__", ".")).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def result(folder, out, **options):
    manifest = write_tables("movielens", folder, out, options)
    rows = [
        (r["user_id"], r["item_id"], r["timestamp"], r["rating"]) for r in read_table(out, "interactions").to_pylist()
    ]
    items = {r["item_id"]: (r["title"], r["categories"], r["attributes"]) for r in read_table(out, "items").to_pylist()}
    return manifest, rows, items


EXPECTED = [("1", "10", 900_000_000, 4.0), ("1", "11", 900_000_001, 2.0)]


def test_recbole(tmp_path):
    files(tmp_path, ml__inter=INTER, ml__item=ITEM, ml__user=USER)
    manifest, rows, items = result(tmp_path, tmp_path / "out")
    assert rows == EXPECTED and manifest["layout"] == "recbole"
    assert items["10"] == ("Heat", ["Action", "Crime"], '{"year":1995}') and items["11"] == ("Été", [], "{}")
    assert read_table(tmp_path / "out", "users")["attributes"].to_pylist() == ['{"age":24}']


def test_grouplens_100k(tmp_path):
    flags = "|".join("1" if k in (1, 6) else "0" for k in range(19))
    item = f"10|Heat (1995)|01-Jan-1995||http://x|{flags}\n11|Été|||u|{flags}\n".encode("latin-1")
    files(tmp_path, u__data="1\t10\t4\t900000000\n1\t11\t2\t900000001\n", u__item=item, u__user="1|24|M|writer|85711\n")
    _, rows, items = result(tmp_path, tmp_path / "out")
    assert rows == EXPECTED
    assert items["10"] == ("Heat", ["Action", "Crime"], '{"year":1995}') and items["11"][0] == "Été"


def test_grouplens_1m(tmp_path):
    movies = "10::Heat (1995)::Action|Crime\n11::Été: la fin::Drama\n".encode("latin-1")
    files(
        tmp_path,
        ratings__dat="1::10::4::900000000\n1::11::2::900000001\n",
        movies__dat=movies,
        users__dat="1::F::1::10::48067\n",
    )
    _, rows, items = result(tmp_path, tmp_path / "out")
    assert rows == EXPECTED and items["11"][0] == "Été: la fin" and items["10"][1] == ["Action", "Crime"]


def test_grouplens_csv_gz(tmp_path):
    ratings = gzip.compress(b"userId,movieId,rating,timestamp\n1,10,4.0,900000000\n1,11,2.0,900000001\n")
    movies = 'movieId,title,genres\n10,"Heat, ""the"" film (1995)",Action|Crime\n11,Nothing,(no genres listed)\n'
    files(tmp_path, ratings__csv__gz=ratings, movies__csv=movies)
    _, rows, items = result(tmp_path, tmp_path / "out")
    assert rows == EXPECTED and items["10"][0] == 'Heat, "the" film' and items["11"] == ("Nothing", [], "{}")


def test_bad_lines_keep_their_numbers(tmp_path):
    broken = (
        INTER.encode() + b"\n1\t10\n2\t10\tfour\t900000002\n2\t\xff\t4\t900000003\n2\t11\t5\tnever\n2\t11\t5\t900000004"
    )
    files(tmp_path, ml__inter=broken, ml__item=ITEM)
    manifest, rows, _ = result(tmp_path, tmp_path / "out", max_bad_share=0.6)
    assert rows == [*EXPECTED, ("2", "10", 900_000_002, None), ("2", "11", 900_000_004, 5.0)]
    reported = {(row["line"], row["reason"]) for row in manifest["bad_rows"]}
    assert reported == {(5, "wrong number of fields"), (7, "invalid UTF-8"), (8, "no readable timestamp")}


def test_no_timestamps_names_the_column(tmp_path):
    files(tmp_path, ml__inter="user_id:token\titem_id:token\n1\t10\n", ml__item=ITEM)
    with pytest.raises(StarError, match="no column timestamp"):
        write_tables("movielens", tmp_path, tmp_path / "out")


def test_a_folder_without_movielens(tmp_path):
    with pytest.raises(StarError, match="no MovieLens files"):
        write_tables("movielens", tmp_path, tmp_path / "out")
    files(tmp_path, ml__inter=INTER)
    with pytest.raises(StarError, match=r"ml\.item"):
        write_tables("movielens", tmp_path, tmp_path / "out")
