"""Neighbours and structured evidence come back as they were stored."""

import json

import pytest

from star_rl.errors import StarError
from star_rl.evidence import EvidenceStore, EvidenceWriter


def written(path, rows):
    with EvidenceWriter(path, "classic", "d") as writer:
        for key, (neighbours, structured) in rows.items():
            writer.put("ItemCF", key, f"text of {key}", neighbours, structured)
        return writer.seal()


ROWS = {
    "with support": ([("a", 0.5, 3), ("b", 0.25, 0)], {"n": [1, None, "é"]}),
    "without": ([("a", 1 / 3), ("b", -0.1)], None),
    "whole numbers": ([("a", 2), ("b", 1)], []),
    "none": ([], None),
    "odd ids": ([(name, 0.5, 1) for name in ("", "a\nb", "\\n", "\\\n", "n\0n", "日本", "\\\\", "x" * 9000)], "s"),
    "an id that is empty": ([("", 0.5)], None),
    "wide": ([("a", 1e300, 2**32 - 1), ("b", float("inf"), 0)], {}),
    "many": ([(f"i{n}", n / 7, n) for n in range(500)], {"m": "x" * 5000}),
}


@pytest.mark.parametrize("copies", [1, 3])
def test_details_come_back_as_they_were(tmp_path, copies):
    rows = {f"{key} {number}": row for key, row in ROWS.items() for number in range(copies)}
    path = written(tmp_path / "store", rows)
    store = EvidenceStore.inspect(path)
    for key, (neighbours, structured) in rows.items():
        assert store.neighbour_ids("ItemCF", key) == tuple(row[0] for row in neighbours)
        assert store.neighbours("ItemCF", key) == [row[:2] for row in neighbours]
        assert all(type(weight) is float for _, weight in store.neighbours("ItemCF", key))
        entry = store.entry("ItemCF", key)
        assert entry["neighbours"] == [list(row) for row in neighbours]
        assert entry["structured"] == structured


def test_ids_of_what_is_not_stored(sealed):
    store = EvidenceStore.inspect(sealed)
    for tool, key in (("ItemCF", "k0"), ("Nothing", "k1"), ("ItemCF", None), ("ItemCF", ["k1"]), ("ItemCF", "\ud800")):
        assert store.neighbour_ids(tool, key) == ()
    assert store.neighbour_ids("ItemCF", "k1") == ("n1", "n2")


@pytest.mark.parametrize(
    "neighbours",
    [
        [("a",)],
        [("a", 0.5, 1, 1)],
        [("a", 0.5), ("b", 0.5, 1)],
        [(7, 0.5)],
        [("a", "heavy")],
        [("a", None)],
        [("a", 0.5, -1)],
        [("a", 0.5, 2**40)],
        [("a", 0.5, 1.5)],
        [7],
    ],
)
def test_neighbours_of_another_form_are_refused(tmp_path, neighbours):
    with EvidenceWriter(tmp_path / "store", "classic", "d") as writer:
        with pytest.raises(StarError, match="neighbours cannot be stored"):
            writer.put("ItemCF", "a", "text", neighbours)
        assert len(writer) == 0


def test_an_id_that_is_no_unicode_is_refused(tmp_path):
    with (
        EvidenceWriter(tmp_path / "store", "classic", "d") as writer,
        pytest.raises(StarError, match="not valid Unicode"),
    ):
        writer.put("ItemCF", "a", "text", [("\ud800", 0.5)])


def test_a_build_that_an_older_version_left_is_refused(tmp_path):
    EvidenceWriter(tmp_path / "store", "classic", "d").close()
    identity = tmp_path / "store.building" / "identity.json"
    found = json.loads(identity.read_text())
    del found["format"]
    identity.write_text(json.dumps(found))
    with pytest.raises(StarError, match=r"has format None, this one 4.*delete"):
        EvidenceWriter(tmp_path / "store", "classic", "d")
