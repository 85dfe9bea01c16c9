import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_rl.data_builders import neighbours, tasks
from star_rl.evidence.leak import visible_fingerprint
from star_rl.fingerprints import of_data
from star_rl.neighbours import Graph, item_neighbours
from star_rl.pipeline.stage import Context
from star_rl.records import INTERACTIONS, ITEMS, USERS, read_table, read_tasks
from star_rl.run import Run
from star_rl.scenarios import Histories, Tables, split

OPTIONS = {"min_history": 2, "test_share": 0.3}


def tables_in(folder, order=None):
    """30 users, of 5 to 14 interactions with 40 items; in the order given, else by user and time."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    rows = []
    for user in range(30):
        for step in range(int(rng.integers(5, 15))):
            rows.append((f"u{user:02}", f"i{rng.integers(40)}", step * 10, float(step % 5), f"text {user} {step}"))
    rows = rows if order is None else [rows[k] for k in np.random.default_rng(order).permutation(len(rows))]
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=INTERACTIONS)
    pq.write_table(table, folder / "interactions.parquet", row_group_size=50)
    items = [f"i{k}" for k in range(40)]
    pq.write_table(pa.table([items, items, [["a"]] * 40, ["{}"] * 40], schema=ITEMS), folder / "items.parquet")
    users = [f"u{k:02}" for k in range(30)]
    pq.write_table(pa.table([users, ["{}"] * 30], schema=USERS), folder / "users.parquet")
    (folder / "tables.json").write_text(json.dumps({"source": "test", "time": "seconds"}))
    return table


def run(root, **options):
    (root / "tasks").mkdir()
    config, inputs = {"split": {"options": OPTIONS | options}}, {"tables": root / "tables"}
    return tasks.build(Context(root / "tasks", config, 5, inputs, root, lambda *_: None))


@pytest.mark.parametrize("order", [None, 1])
@pytest.mark.parametrize("rows", [1 << 18, 16, 7])
def test_visible_rows_with_their_texts_whatever_the_blocks(tmp_path, monkeypatch, order, rows):
    monkeypatch.setattr(tasks, "_ROWS", rows)
    table = tables_in(tmp_path / "tables", order)
    others = (read_table(tmp_path / "tables", name) for name in ("items", "users"))
    made = split(Tables(table, *others, manifest={"source": "test"}), OPTIONS, 5)
    figures = run(tmp_path)
    visible = read_table(tmp_path / "tasks" / "visible.parquet", "interactions")
    assert visible.equals(made.visible) and 0 < len(visible) < len(table)
    assert table.take(pa.array(made.shown)).equals(made.visible)
    assert figures["visible"] == len(visible) and figures["visible_fingerprint"] == visible_fingerprint(visible)
    for part in tasks.PARTS:
        assert read_tasks(tmp_path / "tasks", part) == getattr(made, part)


@pytest.mark.parametrize("order", [None, 1])
def test_a_narrowed_split_writes_the_interactions_that_histories_are_made_of(tmp_path, order):
    table = tables_in(tmp_path / "tables", order)
    figures = run(tmp_path, max_history=4)
    kept = read_table(tmp_path / "tasks" / "kept.parquet", "interactions")
    assert len(kept) == figures["kept"] == 30 * 4 and "of 120 kept" in figures["summary"]
    assert all(text in table["text"].to_pylist() for text in kept["text"].to_pylist())
    whole, narrowed = Histories(table), Run(tmp_path, {}).histories
    for user in (f"u{k:02}" for k in range(30)):
        assert narrowed.of_user(user) == whole.of_user(user)[-4:]
    assert of_data(tmp_path)["kept"] != "absent"


def test_histories_are_of_all_interactions_where_the_split_keeps_all(tmp_path):
    table = tables_in(tmp_path / "tables")
    assert run(tmp_path)["kept"] is None and of_data(tmp_path)["kept"] == "absent"
    assert Run(tmp_path, {}).histories.of_user("u00") == Histories(table).of_user("u00")


@pytest.mark.parametrize("window", [0, 4])
def test_neighbours_in_blocks_of_keys_are_the_same_rows(tmp_path, monkeypatch, window):
    monkeypatch.setattr(neighbours, "_KEYS", 7)
    tables_in(tmp_path / "tables")
    run(tmp_path)
    (tmp_path / "neighbours").mkdir()
    options = {"items_k": 5, "users_k": 4, "liked_k": 5, "window": window, "weight": "cosine", "threads": 1}
    inputs = {"tasks": tmp_path / "tasks"}
    figures = neighbours.build(
        Context(tmp_path / "neighbours", {"neighbours": options}, 5, inputs, tmp_path, lambda *_: None)
    )
    found = pq.read_table(tmp_path / "neighbours" / "items.parquet")
    visible = read_table(tmp_path / "tasks" / "visible.parquet", "interactions")
    whole = item_neighbours(Graph.from_table(visible, times=True), None, 5, window=window, threads=1).to_arrow()
    assert found.to_pylist() == whole.to_pylist() and figures["items"] == len(found) > 14
