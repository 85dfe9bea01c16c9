"""The resumable file of answers: what a kill leaves, what another setting finds, and what is asked again."""

import pytest

from star_rl.errors import StarError
from star_rl.ledger import Ledger, differences, read_head, read_rows


def opened(path, settings, **options):
    return Ledger(path, settings, lambda row: row["id"], **options)


def test_rows_survive_and_a_line_cut_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "deep" / "answers.jsonl"
    ledger = opened(path, {"k": 1}, about={"began": 5.0})
    ledger.append({"id": "a", "text": "\ud800é"})
    ledger.append({"id": "b"})
    assert [row["id"] for row in read_rows(path)] == ["a", "b"]  # before it is closed
    ledger.close()
    with open(path, "a") as handle:
        handle.write('{"id": "c", "te')
    again = opened(path, {"k": 1}, about={"began": 9.0})
    assert again.done == {"a", "b"}
    again.append({"id": "c"})
    again.close()
    assert [row["id"] for row in read_rows(path)] == ["a", "b", "c"]
    assert read_head(path) == {"began": 5.0, "settings": {"k": 1}}


def test_other_settings_are_refused_by_name_and_change_nothing(tmp_path):
    path = tmp_path / "answers.jsonl"
    opened(path, {"engine": {"seed": 1}, "k": (1, 2)}).close()
    before = path.read_bytes()
    with pytest.raises(StarError, match=r"answers with other settings \(engine.seed: 1 -> 2\)"):
        opened(path, {"engine": {"seed": 2}, "k": (1, 2)})
    assert path.read_bytes() == before


def test_rows_are_dropped_or_asked_again(tmp_path):
    path = tmp_path / "answers.jsonl"
    first = opened(path, {})
    for row in ({"id": "a"}, {"id": "b", "failed": True}, {"id": "c", "other": True}, {"id": "a", "twice": True}):
        first.append(row)
    first.close()
    second = opened(path, {}, keep=lambda row: "other" not in row, done=lambda row: "failed" not in row)
    assert second.done == {"a"} and [row["id"] for row in read_rows(path)] == ["a", "b"]
    second.append({"id": "b"})
    second.close()
    assert [row["id"] for row in read_rows(path)] == ["a", "b", "b"]
    opened(path, {}, done=lambda row: "failed" not in row).close()
    assert list(read_rows(path)) == [{"id": "a"}, {"id": "b"}]


def test_a_file_without_a_head_holds_rows_alone(tmp_path):
    path = tmp_path / "runs.jsonl"
    ledger = opened(path, None)
    ledger.append({"id": "a"})
    ledger.close()
    assert path.read_text() == '{"id": "a"}\n' and opened(path, None).done == {"a"}


def test_differences_are_named_and_many_are_counted():
    assert differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2}}) == ""
    assert differences({"a": 1}, {"b": 2}) == "a: 1 -> absent; b: absent -> 2"
    assert differences({}, {name: 1 for name in "abcdef"}).endswith("d: absent -> 1 and 2 more")
