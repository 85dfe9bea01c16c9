import subprocess
import sys

import pytest

from star_rl.errors import StarError
from star_rl.records import read_table
from star_rl.sources import SOURCES, code_of, source, write_tables
from star_rl.sources.lookahead import ahead


def test_every_source_can_be_reached():
    assert set(SOURCES) == {
        "synthetic", "movielens", "sequences", "columns", "agentrecbench", "amazon", "goodreads", "yelp",
    }  # fmt: skip
    assert all(callable(source(name)) for name in SOURCES)


def test_wrong_names_and_paths_are_named(tmp_path):
    with pytest.raises(StarError, match="no source 'netflix'"):
        write_tables("netflix", tmp_path, tmp_path / "out")
    with pytest.raises(StarError, match="needs root"):
        write_tables("movielens", None, tmp_path / "out")
    with pytest.raises(StarError, match=r"no folder .*nowhere"):
        write_tables("movielens", tmp_path / "nowhere", tmp_path / "out")


def test_the_synthetic_world_is_seeded_and_its_ids_are_short(tmp_path):
    small = {"users": 60, "items": 120}
    prints = [
        write_tables("synthetic", None, tmp_path / str(k), small | {"seed": k // 2})["fingerprint"] for k in range(3)
    ]
    assert prints[0] == prints[1] != prints[2]
    items = read_table(tmp_path / "0", "items").to_pylist()
    assert len({item["title"] for item in items}) == 120 and all(item["categories"] for item in items)
    assert all(item["item_id"].isdigit() and len(item["item_id"]) == 3 for item in items)
    rows = read_table(tmp_path / "0", "interactions")
    assert len(set(zip(rows["user_id"].to_pylist(), rows["item_id"].to_pylist(), strict=True))) == len(rows)


@pytest.mark.parametrize(
    "options", [{"users": 0}, {"items": 10}, {"longest": 5}, {"p_series": 2.0}, {"taste": 0.0}, {"categories": 99}]
)
def test_synthetic_options_out_of_range(tmp_path, options):
    name = next(iter(options))
    with pytest.raises(StarError, match=f"source.options.{name}="):
        write_tables("synthetic", None, tmp_path, options)


def test_reading_ahead_keeps_order_and_hands_on_errors():
    assert list(ahead(iter(range(50)))) == list(range(50))

    def fails():
        yield 1
        raise StarError("broken")

    rows = ahead(fails())
    assert next(rows) == 1
    with pytest.raises(StarError, match="broken"):
        next(rows)
    endless = ahead(iter(int, 1))
    assert next(endless) == 0
    endless.close()


def test_the_package_starts_without_heavy_libraries():
    code = "import sys, star_rl.sources, star_rl.scenarios\n"
    code += "print([m for m in ('torch', 'pandas', 'ray') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


OWN = """
import pyarrow as pa
from star_rl import Sink

def write(root, out_dir, options, progress):
    with Sink(out_dir, "own", time="position") as sink:
        sink.interactions(pa.array(["u", "u"]), pa.array(["a", options["second"]]), pa.array([0, 1]))
        return sink.close(items_from_interactions=True)
"""


def test_a_source_of_one_s_own_is_named_by_its_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    manifest = write_tables(str(file), None, tmp_path / "out", {"second": "b"})
    assert (manifest["source"], manifest["kept"]["interactions"]) == ("own", 2)
    before = code_of({"source": {"name": str(file)}})
    file.write_text(OWN + "# edited\n")
    assert code_of({"source": {"name": str(file)}}) != before != {} == code_of({"source": {"name": "synthetic"}})


@pytest.mark.parametrize(
    "text, says", [(None, "no Python file"), ("1 / 0", "ZeroDivisionError"), ("x = 1", "no function write")]
)
def test_a_file_that_is_no_source_is_named(tmp_path, text, says):
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(StarError, match=says):
        source(str(file))
