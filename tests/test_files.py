"""Files are whole or absent, and a full or forbidden disk is one clear line."""

import errno

import pytest

from star_rl import files
from star_rl.errors import StarError


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path):
    target = tmp_path / "a.json"
    files.write_json(target, {"old": 1})
    with pytest.raises(ZeroDivisionError), files.atomic_open(target) as handle:
        handle.write("half")
        raise ZeroDivisionError
    assert files.read_json(target) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_names_the_file_and_the_remedy(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StarError, match=r"disk that holds .*a\.json is full - free some space"):
        files.write_json(tmp_path / "a.json", {})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_of_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StarError, match="cannot write"):
        files.write_text(tmp_path / "file" / "below.txt", "x")


def test_missing_and_broken_json_are_told_apart(tmp_path):
    with pytest.raises(StarError, match="there is no file"):
        files.read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(StarError, match="not valid JSON"):
        files.read_json(tmp_path / "bad.json")


def test_a_last_line_cut_by_a_kill_is_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n{"a": ')
    assert list(files.read_jsonl(path)) == [{"a": 1}, {"a": 2}]


def test_a_last_line_cut_within_a_character_is_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": "é"}\n{"a": "é'.encode()[:-1])
    assert list(files.read_jsonl(path)) == [{"a": "é"}]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n\0\0\0\n{"a": 2}\n')
    with pytest.raises(StarError, match=r"line 2 of .*rows\.jsonl is not JSON .* - delete that line"):
        list(files.read_jsonl(path))
    assert list(files.read_jsonl(path, strict=False)) == [{"a": 1}, {"a": 2}]


def test_a_folders_hash_sees_names_and_contents(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("same")
    assert files.sha256(tmp_path / "one") == files.sha256(tmp_path / "two")
    (tmp_path / "two" / "x").rename(tmp_path / "two" / "y")
    assert files.sha256(tmp_path / "one") != files.sha256(tmp_path / "two")
