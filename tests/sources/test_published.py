"""Amazon, Yelp and Goodreads in the publishers' own files, with the ugly lines that these files hold."""

import gzip
import json
import tarfile

import pytest

from star_rl.errors import StarError
from star_rl.records import read_table
from star_rl.sources import write_tables
from star_rl.sources.published import number, plain, price


def put(path, rows, dump=json.dumps):
    """Write lines; a string is written as it stands. A name that ends in .gz is packed."""
    data = "".join((row if isinstance(row, str) else dump(row)) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)


def tables(folder):
    """Return interactions and items as rows; items by id, with their attributes decoded."""
    items = {row["item_id"]: row for row in read_table(folder, "items").to_pylist()}
    for row in items.values():
        row["attributes"] = json.loads(row["attributes"])
    return read_table(folder, "interactions").to_pylist(), items


OLD_REVIEWS = [
    {"reviewerID": "A1", "asin": "B1", "helpful": [0, 0], "reviewText": "Isn&#39;t it<br />good &amp; cheap?",
     "overall": 5.0, "summary": "ok", "unixReviewTime": 1252800000, "reviewTime": "09 13, 2009"},
    {"reviewerID": "A1", "asin": "B2", "overall": 2.0, "unixReviewTime": 1362787200, "reviewText": ""},
    {"reviewerID": "A2", "asin": "B1", "overall": 3.0, "reviewTime": "03 9, 2013", "vote": "1,012"},
]  # fmt: skip


def test_amazon_2014_has_items_as_python_literals(tmp_path):
    put(tmp_path / "raw/reviews_Toys_5.json.gz", OLD_REVIEWS)
    meta = [
        {"asin": "B1", "title": "It's a &quot;toy&quot;", "price": 12.99, "brand": "Acme", "imUrl": "x",
         "categories": [["Toys", "Games & Puzzles"], ["Gifts"]], "salesRank": {"Toys": 3}},
        {"asin": "B2", "description": "A\\d thing", "categories": [["Toys"]], "related": {"also_bought": ["B1"]}},
    ]  # fmt: skip
    put(tmp_path / "raw/meta_Toys.json.gz", meta, repr)
    manifest = write_tables("amazon", tmp_path / "raw", tmp_path / "out")
    rows, items = tables(tmp_path / "out")
    assert manifest["source"] == "amazon" and manifest["files"]["fields"] == "2014 and 2018"
    assert [(row["user_id"], row["item_id"], row["rating"]) for row in rows] == [
        ("A1", "B1", 5.0), ("A1", "B2", 2.0), ("A2", "B1", 3.0),
    ]  # fmt: skip
    assert rows[0]["text"] == "Isn't it good & cheap?" and rows[1]["text"] is None
    assert rows[2]["timestamp"] == 1362787200
    assert items["B1"]["title"] == 'It\'s a "toy"' and items["B1"]["categories"] == ["Toys", "Games & Puzzles", "Gifts"]
    assert items["B1"]["attributes"] == {"source": "amazon", "price": 12.99, "store": "Acme"}
    assert items["B2"]["title"] == "Untitled" and "thing" in items["B2"]["attributes"]["description"]


def test_reviews_may_be_python_literals_too(tmp_path):
    put(tmp_path / "raw/reviews_Toys.json.gz", ["{'reviewerID': 'A9', 'asin': 'B1', oops", *OLD_REVIEWS], repr_or_text)
    put(tmp_path / "raw/meta_Toys.json.gz", [{"asin": "B1"}, {"asin": "B2"}], repr)
    manifest = write_tables("amazon", tmp_path / "raw", tmp_path / "out", {"max_bad_share": 0.3})
    assert manifest["kept"]["interactions"] == 3
    assert manifest["dropped"]["interactions"] == {"not JSON and not a Python literal": 1}
    assert manifest["bad_rows"][0]["line"] == 1


def repr_or_text(row):
    return row if isinstance(row, str) else repr(row)


def test_amazon_2018_has_pages_that_were_not_parsed(tmp_path):
    put(tmp_path / "raw/Books_5.json.gz", [*OLD_REVIEWS, OLD_REVIEWS[0]])
    page = "var aPageStart = (new Date()).getTime();"
    meta = [
        {"asin": "B1", "title": "A <span>book</span> &amp; more", "price": "$12.99", "brand": "", "main_cat": "Books",
         "category": ["Books", "</span></span></span>", "Art &amp; Music"], "description": ["", "One <b>two</b>"],
         "feature": ["small"], "rank": "1,000 in Books", "also_buy": []},
        {"asin": "B2", "title": page, "price": ".a-box-inner{background-color:#fff}#x{price:5}", "category": [],
         "main_cat": '<img src="https://x/y.png" class="nav" alt="Digital Music"/>', "brand": "Visit\n Store"},
        {"asin": "B2", "title": "Second copy"},
    ]  # fmt: skip
    put(tmp_path / "raw/meta_Books.json.gz", meta)
    manifest = write_tables("amazon", tmp_path / "raw", tmp_path / "out")
    rows, items = tables(tmp_path / "out")
    assert len(rows) == 3 and manifest["dropped"]["interactions"] == {"duplicate": 1}
    assert manifest["dropped"]["items"] == {"duplicate": 1}
    assert items["B1"]["title"] == "A book & more" and items["B1"]["categories"] == ["Books", "Art & Music"]
    assert items["B1"]["attributes"]["price"] == 12.99 and items["B1"]["attributes"]["description"] == "One two"
    assert items["B2"]["title"] == "Untitled" and items["B2"]["categories"] == ["Digital Music"]
    assert items["B2"]["attributes"]["store"] == "Visit Store" and "price" not in items["B2"]["attributes"]


def new_files(raw, reviews=".jsonl.gz", meta=".jsonl"):
    put(
        raw / f"All_Beauty{reviews}",
        [
            {"rating": 5.0, "title": "Nice", "text": "so &#34;nice&#34;", "images": [], "asin": "V1",
             "parent_asin": "P1", "user_id": "AG", "timestamp": 1588687728923, "helpful_vote": 0},
            {"rating": 4, "title": "", "text": None, "asin": "V2", "parent_asin": None, "user_id": "AG",
             "timestamp": 1588687730000, "verified_purchase": True},
            {"rating": 4.0, "text": "x", "asin": "V3", "parent_asin": "P9", "user_id": "AH",
             "timestamp": 1588687730001},
        ],
    )  # fmt: skip
    put(
        raw / f"meta_All_Beauty{meta}",
        [
            {"main_category": "All Beauty", "title": "Spray", "average_rating": 4.8, "rating_number": 10,
             "features": [], "description": [], "price": "—", "store": None, "categories": [],
             "details": {"Brand": "Howard", "Package Dimensions": "7 x 5"}, "parent_asin": "P1", "videos": []},
            {"main_category": None, "title": None, "price": "from 13.99", "details": '{"Manufacturer": "Yes"}',
             "parent_asin": "V2", "categories": None, "rating_number": None},
        ],
    )  # fmt: skip


def test_amazon_2023_counts_a_product_with_its_variants(tmp_path):
    new_files(tmp_path / "raw")
    manifest = write_tables("amazon", tmp_path / "raw", tmp_path / "out", {"category": "All_Beauty"})
    rows, items = tables(tmp_path / "out")
    assert manifest["files"]["fields"] == "2023"
    assert manifest["dropped"]["interactions"] == {"item not in the item table": 1}
    assert [(row["item_id"], row["timestamp"]) for row in rows] == [("P1", 1588687728), ("V2", 1588687730)]
    assert rows[0]["text"] == 'so "nice"' and rows[1]["text"] is None
    about = {"source": "amazon", "main_category": "All Beauty", "average_rating": 4.8, "rating_number": 10}
    assert items["P1"]["attributes"] == about | {"store": "Howard"} and items["P1"]["categories"] == ["All Beauty"]
    assert items["V2"]["attributes"] == {"source": "amazon", "price": 13.99, "store": "Yes"}


def test_a_packed_and_a_plain_file_give_the_same_tables(tmp_path):
    new_files(tmp_path / "a")
    new_files(tmp_path / "b", ".jsonl", ".jsonl.gz")
    first, again = (write_tables("amazon", tmp_path / name, tmp_path / f"out-{name}") for name in "ab")
    assert first["fingerprint"] == again["fingerprint"]


def test_texts_can_be_left_out(tmp_path):
    new_files(tmp_path / "raw")
    write_tables("amazon", tmp_path / "raw", tmp_path / "out", {"text": False})
    assert {row["text"] for row in tables(tmp_path / "out")[0]} == {None}


def test_the_whole_file_comes_before_the_core_and_an_option_names_another(tmp_path):
    put(tmp_path / "raw/Toys.json.gz", OLD_REVIEWS)
    put(tmp_path / "raw/Toys_5.json.gz", OLD_REVIEWS[:1])
    put(tmp_path / "raw/meta_Toys.json.gz", [{"asin": "B1"}, {"asin": "B2"}])
    assert write_tables("amazon", tmp_path / "raw", tmp_path / "out")["kept"]["interactions"] == 3
    core = write_tables("amazon", tmp_path / "raw", tmp_path / "out", {"reviews": "Toys_5.json.gz"})
    assert core["kept"]["interactions"] == 1 and core["files"]["reviews"] == "Toys_5.json.gz"


YELP = {
    "business": [
        {"business_id": "b1", "name": "Café & Bar", "city": "Reno", "state": "NV", "stars": 4.5, "review_count": 12,
         "is_open": 1, "attributes": {"WiFi": "u'free'"}, "categories": "Bars, Coffee & Tea", "hours": None},
        {"business_id": "b2", "name": "Other", "city": "", "stars": 3.0, "review_count": 5, "attributes": None,
         "categories": None},
    ],
    "user": [{"user_id": "u1", "name": "Kim", "review_count": 2, "yelping_since": "2010-01-01 00:00:00",
              "elite": "2015,2016", "friends": "x, y", "fans": 3, "average_stars": 4.1, "useful": 9}],
    "review": [
        {"review_id": "r1", "user_id": "u1", "business_id": "b1", "stars": 5.0, "useful": 0, "funny": 0, "cool": 0,
         "text": "Fine.\n\nVery.", "date": "2018-07-07 22:09:11"},
        {"review_id": "r2", "user_id": "u2", "business_id": "b2", "stars": 1, "text": "no", "date": "2016-01-02"},
        {"review_id": "r3", "user_id": "u2", "business_id": "gone", "stars": 1, "text": "no", "date": "2016-01-03"},
    ],
}  # fmt: skip


def yelp(folder, parts=tuple(YELP)):
    for part in parts:
        put(folder / f"yelp_academic_dataset_{part}.json", YELP[part])
    return folder


def test_yelp_unpacked_and_in_its_archive_are_the_same(tmp_path):
    raw = yelp(tmp_path / "raw")
    for name, mode in (("yelp_dataset.tar", "w"), ("packed/yelp_dataset.tgz", "w:gz")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with tarfile.open(tmp_path / name, mode) as archive:
            archive.add(raw, "yelp_dataset")
    made = [
        write_tables("yelp", root, tmp_path / f"out{k}")
        for k, root in enumerate((raw, tmp_path / "yelp_dataset.tar", tmp_path / "packed"))
    ]
    assert len({one["fingerprint"] for one in made}) == 1 and made[0]["source"] == "yelp"
    assert sorted(path.name for path in (tmp_path / "out1").iterdir()) == [
        "interactions.parquet", "items.parquet", "tables.json", "users.parquet",
    ]  # fmt: skip
    rows, items = tables(tmp_path / "out1")
    assert [(row["user_id"], row["item_id"], row["rating"]) for row in rows] == [("u1", "b1", 5.0), ("u2", "b2", 1.0)]
    assert rows[0]["timestamp"] == 1531001351
    assert items["b1"]["categories"] == ["Bars", "Coffee & Tea"]
    assert items["b1"]["attributes"] == {
        "source": "yelp", "city": "Reno", "stars": 4.5, "review_count": 12, "attributes": {"WiFi": "u'free'"},
    }  # fmt: skip
    users = {
        row["user_id"]: json.loads(row["attributes"]) for row in read_table(tmp_path / "out1", "users").to_pylist()
    }
    assert users["u1"]["elite"] == "2015,2016" and "friends" not in users["u1"] and users["u2"] == {}


BOOKS = [
    {"book_id": "1", "title": "A Book (Series, #1)", "title_without_series": "A Book", "average_rating": "4.00",
     "ratings_count": "1,203", "text_reviews_count": "7", "publication_year": "2001", "description": "Long &amp; good",
     "popular_shelves": [{"count": "9", "name": "to-read"}, {"count": "5", "name": "fantasy"}],
     "authors": [{"author_id": "10", "role": ""}, {"author_id": "11", "role": "Translator"}]},
    {"book_id": "2", "title": "Bare", "average_rating": "", "ratings_count": "", "text_reviews_count": "",
     "publication_year": "", "description": "", "popular_shelves": [], "authors": []},
]  # fmt: skip
EVENTS = [
    {"user_id": "u", "book_id": "1", "review_id": "r", "is_read": True, "rating": 0, "review_text_incomplete": "beg",
     "date_added": "Sun Jul 30 07:44:10 -0700 2017", "date_updated": "Wed Aug 30 00:00:26 -0700 2017", "read_at": ""},
    {"user_id": "u", "book_id": "2", "review_id": "s", "is_read": False, "rating": 4, "review_text_incomplete": "",
     "date_added": "Mon Jul 31 07:44:10 -0700 2017", "date_updated": "", "read_at": "", "started_at": ""},
]  # fmt: skip


def goodreads(folder, kinds=("interactions", "reviews"), more=True):
    put(folder / "goodreads_books_poetry.json.gz", BOOKS)
    for kind in kinds:
        text = "review_text" if kind == "reviews" else "review_text_incomplete"
        rows = [
            {text if key == "review_text_incomplete" else key: value for key, value in row.items()} for row in EVENTS
        ]
        put(folder / f"goodreads_{kind}_poetry.json.gz", rows[: 1 if kind == "reviews" else 2])
    if more:
        put(folder / "goodreads_book_authors.json.gz", [{"author_id": "10", "name": "Ann  Lee", "average_rating": "3"}])
        genres = {"book_id": "1", "genres": {"poetry": 3, "history, biography": 12}}
        put(folder / "goodreads_book_genres_initial.json.gz", [genres, {"book_id": "2", "genres": {}}])
    return folder


def test_goodreads_joins_authors_and_genres(tmp_path):
    manifest = write_tables("goodreads", goodreads(tmp_path / "raw"), tmp_path / "out", {"events": "interactions"})
    rows, items = tables(tmp_path / "out")
    assert manifest["source"] == "goodreads" and manifest["kept"]["interactions"] == 2
    assert [row["rating"] for row in rows] == [None, 4.0] and [row["text"] for row in rows] == ["beg", None]
    assert rows[0]["timestamp"] == 1501425850
    assert items["1"]["categories"] == ["history", "biography", "poetry"]
    assert items["1"]["attributes"] == {
        "source": "goodreads", "authors": ["Ann Lee"], "average_rating": 4, "ratings_count": 1203,
        "text_reviews_count": 7, "publication_year": 2001, "description": "Long & good",
    }  # fmt: skip
    assert items["2"]["attributes"] == {"source": "goodreads"}


def test_goodreads_reads_reviews_first_and_shelves_without_a_genres_file(tmp_path):
    manifest = write_tables("goodreads", goodreads(tmp_path / "raw", more=False), tmp_path / "out")
    _, items = tables(tmp_path / "out")
    assert manifest["files"] == {
        "events": "goodreads_reviews_poetry.json.gz", "books": "goodreads_books_poetry.json.gz",
    }  # fmt: skip
    assert manifest["kept"]["interactions"] == 1
    assert items["1"]["categories"] == ["fantasy"] and items["1"]["attributes"]["author_ids"] == ["10", "11"]


@pytest.mark.parametrize(
    ("source", "files", "options", "words"),
    [
        ("amazon", ["other.txt"], {}, "no meta_X"),
        ("amazon", ["meta_Toys.json"], {}, "none of reviews_Toys, Toys, reviews_Toys_5, Toys_5"),
        ("amazon", ["meta_Toys.json", "meta_Books.json.gz"], {}, "several files"),
        ("amazon", ["meta_Toys.json", "meta_Toys.json.gz"], {"category": "Toys"}, "several files"),
        ("amazon", ["meta_Toys.json"], {"reviews": "gone.json"}, "reviews=gone.json"),
        ("yelp", ["other.txt"], {}, "yelp_academic_dataset_business.json"),
        ("yelp", ["yelp_academic_dataset_business.json"], {}, "yelp_academic_dataset_user.json"),
        ("yelp", ["yelp_dataset.tar"], {}, "not a whole tar archive"),
        ("goodreads", ["other.txt"], {}, "goodreads_reviews"),
        ("goodreads", ["goodreads_reviews_dedup.json.gz"], {}, "goodreads_books"),
        ("goodreads", ["goodreads_reviews_spoiler.json.gz"], {}, "goodreads_interactions"),
        ("goodreads", ["x.json"], {"file": "x.json"}, "neither goodreads_reviews"),
        ("goodreads", ["x.json"], {"colour": "red"}, "colour"),
    ],
)
def test_what_is_missing_is_named(tmp_path, source, files, options, words):
    for name in files:
        put(tmp_path / "raw" / name, ['{"asin": "B1"}'])
    with pytest.raises(StarError, match=words):
        write_tables(source, tmp_path / "raw", tmp_path / "out", options)


def test_a_file_that_is_not_a_folder_is_named(tmp_path):
    put(tmp_path / "x.json", [])
    with pytest.raises(StarError, match="is not a folder"):
        write_tables("amazon", tmp_path / "x.json", tmp_path / "out")


def test_a_file_that_holds_no_reviews_is_refused(tmp_path):
    put(tmp_path / "raw/meta_Toys.json", [{"asin": "B1"}])
    put(tmp_path / "raw/Toys.json", [{"asin": "B1", "title": "x"}])
    with pytest.raises(StarError, match="holds no reviews: the first line has the fields asin, title"):
        write_tables("amazon", tmp_path / "raw", tmp_path / "out")
    put(tmp_path / "raw/Toys.json", [])
    with pytest.raises(StarError, match="no line that can be read"):
        write_tables("amazon", tmp_path / "raw", tmp_path / "out")


def test_bad_lines_are_counted_and_refused_above_the_bound(tmp_path):
    raw = yelp(tmp_path / "raw")
    put(raw / "yelp_academic_dataset_review.json", [*YELP["review"], '{"user_id": "u1", "bus', "[1]"])
    with pytest.raises(StarError, match=r"2 of 5 rows of interactions are unusable .*review.json:4"):
        write_tables("yelp", raw, tmp_path / "out")
    manifest = write_tables("yelp", raw, tmp_path / "out", {"max_bad_share": 0.5})
    assert manifest["dropped"]["interactions"]["not JSON"] == 1 and manifest["kept"]["interactions"] == 2


def test_a_cut_archive_and_a_cut_packed_file_are_refused(tmp_path):
    raw = yelp(tmp_path / "raw", ("business", "user"))
    data = gzip.compress(
        b"".join(json.dumps(row | {"text": str(k) * 50}).encode() + b"\n" for k, row in enumerate(YELP["review"] * 900))
    )
    (raw / "yelp_academic_dataset_review.json").write_bytes(data[: len(data) // 2])
    with pytest.raises(StarError, match="damaged gzip"):
        write_tables("yelp", raw, tmp_path / "out")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(raw / "yelp_academic_dataset_user.json", "yelp_academic_dataset_user.json")
    with pytest.raises(
        StarError, match=r"holds no yelp_academic_dataset_business.json, yelp_academic_dataset_review.json"
    ):
        write_tables("yelp", tmp_path / "x.tar", tmp_path / "out")


@pytest.mark.parametrize(
    ("value", "read"),
    [("$12.99", 12.99), (12.99, 12.99), ("$1,299.00", 1299.0), ("$5.00 - $9.99", "$5.00 - $9.99"),
     ("from 13.99", 13.99),
     ("", None), (None, None), ("—", None), ("None", None), (".a{b:1}", None), ("x" * 50 + "1", None), (True, None)],
)  # fmt: skip
def test_prices(value, read):
    assert price(value) == read


@pytest.mark.parametrize(
    ("value", "read"),
    [("4.00", 4), ("3.95", 3.95), ("1,203", 1203), ("", None), (None, None), ("nan", None), (float("inf"), None),
     (True, None), ([], None), (7, 7)],
)  # fmt: skip
def test_numbers_that_are_written_as_text(value, read):
    assert number(value) == read


def test_html_becomes_plain_text():
    assert plain("A <b>bold</b>\n &lt;i&gt; &amp; &quot;x&quot;") == 'A bold <i> & "x"'
    assert plain(None) == plain(["x"]) == ""
