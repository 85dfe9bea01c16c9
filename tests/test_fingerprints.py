"""What stands for files: their contents, wherever they lie, and a large one by its blocks."""

import shutil

from star_rl import fingerprints


def test_a_file_is_its_contents_and_not_its_place_or_time(tmp_path):
    for name, text in (("a", "x" * 99), ("b", "x" * 99), ("c", "x" * 98 + "y")):
        (tmp_path / name).write_text(text)
    a, b, c = (fingerprints.of_file(tmp_path / name) for name in "abc")
    assert a == b != c and len(a) == 16
    assert fingerprints.of_file(tmp_path / "none") == fingerprints.of_file(tmp_path) == "absent"


def test_a_large_file_is_known_by_its_ends_its_size_and_its_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "WHOLE", 1000)
    monkeypatch.setattr(fingerprints, "BLOCK", 8)
    monkeypatch.setattr(fingerprints, "BLOCKS", 4)
    path, plain = tmp_path / "weights", bytearray(1024)
    path.write_bytes(plain)
    before = fingerprints.of_file(path)
    for place in (0, 1023, 340):  # blocks begin at 0, 338, 677 and 1016
        changed = plain.copy()
        changed[place] = 1
        path.write_bytes(changed)
        assert fingerprints.of_file(path) != before, place
    path.write_bytes(bytes(1025))
    assert fingerprints.of_file(path) != before
    path.write_bytes(plain)
    assert fingerprints.of_file(path) == before


def test_a_checkpoint_is_its_weights_configuration_and_tokenizer(tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "notes.md"):
        (tmp_path / "m" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "m" / name).write_text(name)
    before = fingerprints.of_model(tmp_path / "m")
    shutil.copytree(tmp_path / "m", tmp_path / "n")
    assert fingerprints.of_model(tmp_path / "n") == before
    (tmp_path / "n" / "notes.md").write_text("other")
    assert fingerprints.of_model(tmp_path / "n") == before
    (tmp_path / "n" / "model.safetensors").write_text("trained again")
    assert fingerprints.of_model(tmp_path / "n") != before
    assert fingerprints.of_model(tmp_path / "absent") == fingerprints.of_model(tmp_path)


def test_the_data_of_a_run_are_told_part_by_part(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "items.parquet").write_text("items")
    found = fingerprints.of_data(tmp_path)
    assert list(found) == ["interactions", "items", "users", "kept", "visible", "memory", "summaries"]
    assert found["visible"] == "absent" != found["items"]
    assert fingerprints.of_data(tmp_path, ("items",)) == {"items": found["items"]}
