import gzip
import json
import os
import random
from pathlib import Path

import pytest

from star_rl.errors import StarError
from star_rl.records import read_table, tasks_from
from star_rl.sources import jsonlines, write_tables
from star_rl.sources.scan import scanner_available
from star_rl.sources.societytasks import read_tasks

ITEMS = [
    {"item_id": f"B{k:02d}", "main_category": "Games", "title": f"Game {k}", "price": None, "features": ["small"],
     "description": ["one", "two"], "categories": ["Games", "Board"], "details": {}, "source": "amazon"}
    for k in range(22)
] + [
    {"item_id": "y-1", "name": "Corner Café", "city": "Reno", "stars": 4.5, "categories": "Coffee, Cake",
     "source": "yelp"},
    {"item_id": "77", "title": "", "title_without_series": "A Book", "description": "", "source": "goodreads",
     "popular_shelves": [{"count": "9", "name": "to-read"}, {"count": "5", "name": "fantasy"}],
     "authors": [{"author_id": "5"}], "publication_year": "2001", "average_rating": "3.9"},
]  # fmt: skip
REVIEWS = [
    {"stars": 5.0, "text": "good", "item_id": f"B{k:02d}", "user_id": "A1", "timestamp": 1_600_000_000_000 + k * 1000,
     "source": "amazon"} for k in range(10)
] + [
    {"stars": 4, "text": "fine", "item_id": "y-1", "user_id": "Y1", "date": "2019-03-01 10:00:00", "source": "yelp"},
    {"stars": "3", "text": "ok", "item_id": "77", "user_id": "G1", "date_added": "Thu Aug 17 15:15:28 -0700 2017",
     "read_at": "", "source": "goodreads"},
]  # fmt: skip
USERS = [
    {"user_id": "A1", "source": "amazon"},
    {"user_id": "Y1", "name": "Kim", "friends": "x" * 9999, "source": "yelp"},
]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def raw(tmp_path):
    root = tmp_path / "raw"
    root.mkdir()
    for name, rows in (("item", ITEMS), ("review", REVIEWS), ("user", USERS)):
        (root / f"{name}.json").write_bytes(lines(rows))
    return root


def task(folder, number, user="A1", truth="B09", candidates=None):
    for kind in ("tasks", "groundtruth"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    listed = candidates or [f"B{k:02d}" for k in range(2, 22)]
    row = {
        "type": "recommendation",
        "user_id": user,
        "candidate_category": "x",
        "candidate_list": listed,
        "loc": [-1, -1],
    }
    (folder / "tasks" / f"task_{number}.json").write_text(json.dumps(row))
    (folder / "groundtruth" / f"groundtruth_{number}.json").write_text(json.dumps({"ground truth": truth}))


def test_three_domains_with_their_fields(raw, tmp_path):
    manifest = write_tables("agentrecbench", raw, tmp_path / "out", {"max_bad_share": 0.0})
    assert manifest["kept"] == {"interactions": 12, "items": 24, "users": 3} and manifest["dropped"] == {}
    rows = {r["user_id"]: r for r in read_table(tmp_path / "out", "interactions").to_pylist()}
    assert rows["A1"]["timestamp"] == 1_600_000_009
    assert (rows["Y1"]["timestamp"], rows["Y1"]["rating"], rows["Y1"]["text"]) == (1_551_434_400, 4.0, "fine")
    assert (rows["G1"]["timestamp"], rows["G1"]["rating"]) == (1_503_008_128, 3.0)
    items = {r["item_id"]: r for r in read_table(tmp_path / "out", "items").to_pylist()}
    assert (items["y-1"]["title"], items["y-1"]["categories"]) == ("Corner Café", ["Coffee", "Cake"])
    assert (items["77"]["title"], items["77"]["categories"]) == ("A Book", ["fantasy"])
    assert json.loads(items["77"]["attributes"])["author_ids"] == ["5"]
    assert items["B00"]["categories"] == ["Games", "Board"]
    assert json.loads(items["B00"]["attributes"])["description"] == "one two"
    users = {r["user_id"]: r["attributes"] for r in read_table(tmp_path / "out", "users").to_pylist()}
    assert json.loads(users["Y1"]) == {"name": "Kim", "source": "yelp"} and users["G1"] == "{}"


@pytest.mark.parametrize("domain, count", [("amazon", 10), ("yelp", 1), ("goodreads", 1)])
def test_one_domain(raw, tmp_path, domain, count):
    manifest = write_tables("agentrecbench", raw, tmp_path / "out", {"domain": domain, "max_bad_share": 0.0})
    assert manifest["kept"]["interactions"] == count
    assert manifest["dropped"]["interactions"] == {"other domain": 12 - count}


@pytest.mark.parametrize(
    "line, reason",
    [
        (b'{"user_id": "A1", "text": "cut in the mid\n', "not JSON"),
        (b'{"user_id": "A1", "item_id": "B00", "text": "\xff\xfe", "timestamp": 1600000000000}\n', "invalid UTF-8"),
        (b'[1, 2]\n', "not a JSON object"),
        (b'null\n', "not a JSON object"),
        (b'{"user_id": "A1", "item_id": "B00", "timestamp": 1600000000000}{"user_id": "A1"}\n', "not JSON"),
        (b'{"item_id": "B00", "timestamp": 1600000000000}\n', "no usable user id"),
        (b'{"user_id": "A1", "item_id": "B0\\"0", "timestamp": 1600000000000}\n', "no usable item id"),
        (b'{"user_id": "A1", "item_id": "<tool_call>", "timestamp": 1600000000000}\n', "no usable item id"),
        (b'{"user_id": "A1", "item_id": {"a": 1}, "timestamp": 1600000000000}\n', "no usable item id"),
        (b'{"user_id": "A1", "item_id": "B00"}\n', "no readable timestamp"),
        (b'{"user_id": "A1", "item_id": "B00", "timestamp": "soon"}\n', "no readable timestamp"),
        (b'{"user_id": "A1", "item_id": "B00", "timestamp": 9600000000000}\n', "timestamp in the future"),
    ],
)  # fmt: skip
def test_a_bad_line_is_counted_with_its_number_and_costs_nothing_else(raw, tmp_path, line, reason):
    (raw / "review.json").write_bytes(lines(REVIEWS[:3]) + line + lines(REVIEWS[3:]))
    manifest = write_tables("agentrecbench", raw, tmp_path / "out", {"max_bad_share": 0.2})
    assert manifest["kept"]["interactions"] == 12 and manifest["read"]["interactions"] == 13
    assert manifest["dropped"]["interactions"] == {reason: 1}
    assert [(row["line"], row["reason"]) for row in manifest["bad_rows"]] == [(4, reason)]
    assert len(read_table(tmp_path / "out", "interactions")) == 12
    with pytest.raises(StarError, match="max_bad_share"):
        write_tables("agentrecbench", raw, tmp_path / "fails", {"max_bad_share": 0.05})


def test_nan_ratings_blank_lines_and_a_cut_last_line(raw, tmp_path):
    odd = b'\n  \n{"user_id": "A1", "item_id": "B11", "timestamp": 1600000050000, "stars": NaN}\n{"user_id": "A'
    (raw / "review.json").write_bytes(lines(REVIEWS) + odd)
    manifest = write_tables("agentrecbench", raw, tmp_path / "out", {"max_bad_share": 0.2})
    assert manifest["kept"]["interactions"] == 13 and manifest["repaired"]["ratings that are no number"] == 1
    assert manifest["bad_rows"][0]["line"] == 16


def test_gzip_is_read_and_a_truncated_one_refused(raw, tmp_path):
    packed = gzip.compress(lines(REVIEWS * 50))
    (raw / "review.json").unlink()
    (raw / "review.json.gz").write_bytes(packed)
    manifest = write_tables("agentrecbench", raw, tmp_path / "out")
    assert manifest["kept"]["interactions"] == 12 and manifest["dropped"]["interactions"] == {"duplicate": 12 * 49}
    (raw / "review.json.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(StarError, match="damaged gzip file"):
        write_tables("agentrecbench", raw, tmp_path / "fails")
    assert not (tmp_path / "fails" / "interactions.parquet").exists()


@pytest.mark.parametrize("encoding, end", [("utf-16", "\n"), ("utf-8-sig", "\r\n"), ("utf-8", "\r"), ("cp1252", "\n")])
def test_encodings_and_line_ends_of_json_lines(raw, tmp_path, encoding, end):
    for name, rows in (("item", ITEMS), ("review", REVIEWS)):
        text = end.join(json.dumps(row, ensure_ascii=False) for row in rows)
        (raw / f"{name}.json").write_bytes(text.encode(encoding))
    manifest = write_tables("agentrecbench", raw, tmp_path / "out", {"max_bad_share": 0.0})
    assert manifest["kept"] == {"interactions": 12, "items": 24, "users": 3} and manifest["dropped"] == {}
    assert "Corner Café" in read_table(tmp_path / "out", "items")["title"].to_pylist()


def odd_reviews(count):
    """Reviews of all domains and many with something odd, ties and second copies among them."""
    rng = random.Random(0)
    stamps = [
        1_600_000_000_000,
        1_600_000_000,
        "2019-03-01 10:00:00",
        "1600000000",
        "soon",
        None,
        -5,
        True,
        9.6e12,
        "2019-03-01",
    ]
    stars = [5, 4.5, "3", "x", "", None, float("nan"), False, [5], 1e-3]
    for k in range(count):
        row = {
            "user_id": f"A{rng.randrange(300)}",
            "item_id": f"B{rng.randrange(22):02d}",
            "text": f"text {k} \u20ac " + "x" * 400,
        }
        row |= {"timestamp": 1_600_000_000_000 + rng.randrange(300) * 1000, "stars": rng.randrange(1, 6)}
        if rng.random() < 0.05:
            row["user_id"] = rng.choice(
                [rng.randrange(9), 12.0, " pad ", "a\nb", "", None, ["a"], "\ud83d", "Пример", "x" * 200]
            )
        if rng.random() < 0.1:
            row["timestamp"] = rng.choice(stamps)
        if rng.random() < 0.1:
            row |= {rng.choice(["date", "date_added"]): rng.choice(stamps), "rating": rng.choice(stars)}
        if rng.random() < 0.1:
            row["stars"] = rng.choice(stars)
        if rng.random() < 0.3:
            row["source"] = rng.choice(["amazon", "yelp", None, 7])
        line = json.dumps(row, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        chance = rng.random()
        yield line[: len(line) // 2] if chance < 0.01 else line.replace(b"text", b"te\xffxt") if chance < 0.02 else line


@pytest.mark.parametrize("options", [{}, {"domain": "amazon", "memory_mb": 1}, {"text": False}])
def test_the_scanner_and_python_write_the_same_tables(raw, tmp_path, monkeypatch, options):
    (raw / "review.json").write_bytes(b"\n".join(odd_reviews(40_000)))
    ids, kinds = (1, "A1", "A1", 2.0, "a<b", None, "\ud83d"), ({}, {"fans": 3}, {"elite": ""})
    odd = [
        {"user_id": user, **({"source": source} if source != 0 else {}), **kind}
        for user in ids
        for source in (0, "amazon", "yelp", None, "é\n", 5)
        for kind in kinds
    ]
    (raw / "user.json").write_bytes(lines(odd) + b"null\n{\n")
    made = {}
    for native in (True, False):
        monkeypatch.setattr(jsonlines, "scanner_available", lambda native=native: native and scanner_available())
        out = tmp_path / str(native)
        manifest = write_tables("agentrecbench", raw, out, {"max_bad_share": 0.9} | options)
        made[native] = [manifest, *(read_table(out, name) for name in ("interactions", "items", "users"))]
    assert made[True] == made[False]
    manifest = made[True][0]
    assert manifest["kept"]["interactions"] + sum(manifest["dropped"]["interactions"].values()) == 40_000
    assert {"not JSON", "invalid UTF-8", "duplicate", "no readable timestamp"} <= manifest["dropped"][
        "interactions"
    ].keys()
    places = [row["line"] for row in manifest["bad_rows"] if row["table"] == "interactions"]
    assert places == sorted(places)
    assert manifest["dropped"]["users"]["not JSON"] == manifest["dropped"]["users"]["not a JSON object"] == 1


def test_table_sets_and_tasks_of_the_five_scenarios(raw, tmp_path):
    root = tmp_path / "bench"
    root.mkdir()
    for name in ("output_data_all", "output_data_long"):
        os.symlink(raw, root / name)
    for scenario in ("classic", "user_cold_start", "item_cold_start", "long_term", "short_term"):
        task(root / "task" / scenario / "amazon", 3)
    task(root / "task" / "classic" / "amazon", 10, truth="B02")
    write_tables("agentrecbench", root, tmp_path / "all")
    found = list(tasks_from(read_table(tmp_path / "all", "tasks")))
    assert [(t.scenario, t.ground_truth) for t in found] == [
        ("classic", "B09"), ("classic", "B02"), ("item_cold_start", "B09"), ("user_cold_start", "B09")
    ]  # fmt: skip
    assert found[0].cutoff == 1_600_000_009 and found[1].cutoff == 1_600_000_002
    assert found[0].source == "amazon" and len(found[0].candidates) == 20
    write_tables("agentrecbench", root, tmp_path / "long", {"tables": "long"})
    assert [t.scenario for t in tasks_from(read_table(tmp_path / "long", "tasks"))] == ["long_term"]
    with pytest.raises(StarError, match="output_data_short"):
        write_tables("agentrecbench", root, tmp_path / "short", {"tables": "short"})


def test_the_contact_may_be_gone_from_the_reviews_already(raw, tmp_path):
    task(raw / "task" / "amazon", 0, truth="B15")
    write_tables("agentrecbench", raw, tmp_path / "out")
    assert next(tasks_from(read_table(tmp_path / "out", "tasks"))).cutoff == 1_600_000_010


def test_tasks_that_cannot_be_used_are_counted(tmp_path):
    folder = tmp_path / "yelp"
    task(folder, 0)
    task(folder, 1, truth="B00")
    task(folder, 2, candidates=["B01"])
    task(folder, 3, candidates=[f"B{k:02d}" for k in range(3, 21)] + ["B03", "B09"])
    task(folder, 4)
    (folder / "tasks" / "task_4.json").write_text("{")
    task(folder, 5)
    (folder / "groundtruth" / "groundtruth_5.json").unlink()
    task(folder, 6, user=None)
    tasks, dropped = read_tasks(tmp_path)
    assert [t.task_id for t in tasks] == ["yelp-classic-0", "yelp-classic-3"]
    assert len(set(tasks[1].candidates)) < 20
    assert dropped == {
        "ground truth not among the candidates": 1,
        "not 20 candidates": 1,
        "task or ground truth absent or no JSON": 2,
        "no user, candidates or ground truth": 1,
    }
    with pytest.raises(StarError, match=r"no task_N\.json"):
        read_tasks(tmp_path / "yelp" / "groundtruth")


def test_the_official_development_tasks():
    data = os.environ.get("STAR_RL_DATA") or Path(__file__).parents[2] / "../shared/data"
    root = Path(data) / "agentsociety-track2"
    if not root.exists():
        pytest.skip(f"no {root}")
    tasks, dropped = read_tasks(root)
    assert not dropped and len(tasks) == 1172
    assert sum(t.source == "amazon" for t in tasks) == 388
    assert sum(len(set(t.candidates)) == 19 for t in tasks) == 4


@pytest.mark.parametrize("options", [{"domain": "steam"}, {"tables": "none"}, {"tasks": "nowhere"}, {"depth": 3}])
def test_options_out_of_range(raw, tmp_path, options):
    with pytest.raises(StarError):
        write_tables("agentrecbench", raw, tmp_path / "out", options)
