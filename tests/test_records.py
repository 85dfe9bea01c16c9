"""Tables are held to their schemas."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_rl import records
from star_rl.errors import StarError

TASK = records.Task("t1", "synthetic", "classic", "u1", tuple(str(n) for n in range(20)), "3", 17)


def test_tasks_survive_the_round_trip(tmp_path):
    records.write_table(tmp_path / "tasks.parquet", records.tasks_to([TASK]), "tasks")
    assert list(records.tasks_from(records.read_table(tmp_path, "tasks"))) == [TASK]


def test_a_missing_table_and_a_missing_column_are_named(tmp_path):
    with pytest.raises(StarError, match=r"no table .*items\.parquet"):
        records.read_table(tmp_path, "items")
    pq.write_table(pa.table({"item_id": ["1"]}), tmp_path / "items.parquet")
    with pytest.raises(StarError, match=r"lacks the column.*title, categories, attributes"):
        records.read_table(tmp_path, "items")


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "users.parquet").write_text("hello")
    with pytest.raises(StarError, match="not a readable Parquet"):
        records.read_table(tmp_path, "users")


def test_items_carry_decoded_attributes():
    table = pa.Table.from_pylist(
        [{"item_id": "1", "title": "A", "categories": ["x"], "attributes": '{"year": 1999}'}], schema=records.ITEMS
    )
    assert records.items_from(table)["1"].attributes == {"year": 1999}
