import json

import pytest

from star_rl.data_builders.tables import build
from star_rl.errors import StarError
from star_rl.pipeline.stage import Context
from star_rl.records import read_table


def context(folder, source, told=None):
    def progress(done, total=None, note=""):
        if told is not None:
            told.append((done, note))

    return Context(folder, {"source": source}, 7, {}, folder.parent, progress)


def raw(folder, reviews):
    folder.mkdir()
    items = [{"item_id": f"B{k}", "title": f"Game {k}", "categories": ["Games"], "source": "amazon"} for k in range(3)]
    for name, rows in (("item", items), ("user", [{"user_id": "A0", "source": "amazon"}]), ("review", reviews)):
        text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.json").write_text(text)
    return folder


def review(user, item, stamp):
    return {"user_id": user, "item_id": item, "timestamp": stamp, "stars": 4, "text": "fine", "source": "amazon"}


def test_the_stage_writes_the_tables_and_tells_what_it_dropped(tmp_path):
    rows = [review("A1", "B1", 1_600_086_400_000), review("A0", "B0", 1_600_000_000_000), "{cut\n"]
    rows += [review("A0", "B0", 1_600_000_000_000), review("A0", "B9", 1_600_000_000_000)]
    root, told = raw(tmp_path / "raw", rows), []
    source = {"name": "agentrecbench", "root": str(root), "options": {"max_bad_share": 0.5}}
    figures = build(context(tmp_path / "tables", source, told))
    assert figures["summary"] == "agentrecbench: 2 users, 3 items, 2 interactions, 3 rows dropped"
    assert figures["dropped"]["interactions"] == {"not JSON": 1, "item not in the item table": 1, "duplicate": 1}
    assert figures["bad_rows"] == [
        {"table": "interactions", "file": str(root / "review.json"), "line": 3, "reason": "not JSON"}
    ]
    assert read_table(tmp_path / "tables", "interactions")["user_id"].to_pylist() == ["A0", "A1"]
    assert told[-1][1] == "sorted interactions"
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == [
        "interactions.parquet", "items.parquet", "tables.json", "users.parquet",
    ]  # fmt: skip


def test_the_same_source_gives_the_same_files(tmp_path):
    source = {"name": "synthetic", "root": None, "options": {"users": 50, "items": 60}}
    prints = [build(context(tmp_path / name, source))["fingerprint"] for name in ("a", "b")]
    assert prints[0] == prints[1]


def test_what_cannot_be_used_leaves_no_table(tmp_path):
    root = raw(tmp_path / "raw", ["{cut\n", review("A0", "B0", 1_600_000_000_000)])
    source = {"name": "agentrecbench", "root": str(root), "options": {}}
    with pytest.raises(StarError, match=r"1 of 2 rows .*review.json:1"):
        build(context(tmp_path / "tables", source))
    assert not list(tmp_path.glob("tables/*"))
