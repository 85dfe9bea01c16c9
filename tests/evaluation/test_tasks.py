"""Task sets: what leaves a score undefined is refused, what the official rules count is counted and said."""

import html
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_rl.errors import StarError
from star_rl.evaluation.evaluate import evaluate
from star_rl.evaluation.tasks import (
    already_had,
    digest,
    fingerprint_of,
    read_tasks,
    shuffled,
    strange,
    strangers,
    task_set,
    write_tasks,
)
from star_rl.records import TASKS, Task
from star_rl.run import Run

IDS = tuple(f"i{number}" for number in range(20))
OTHER = [("elsewhere", 1, None)]


def task(number=0, **changes) -> Task:
    return replace(Task(f"t{number}", "amazon", "classic", f"u{number}", IDS, "i7", 5), **changes)


def row(**changes):
    found = {name: getattr(task(), name) for name in Task.__dataclass_fields__}
    return {**found, "candidates": list(IDS), **changes}


def jsonl(tmp_path, *rows):
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in rows), encoding="utf-8")
    return path


def test_candidates_are_shuffled_by_seed_and_task_whatever_order_they_came_in():
    one = shuffled(task(), 7)
    assert sorted(one.candidates) == sorted(IDS) and one.candidates != IDS
    assert shuffled(task(candidates=tuple(reversed(IDS))), 7) == one
    assert shuffled(one, 7) == one
    assert shuffled(task(), 8).candidates != one.candidates
    assert shuffled(task(1), 7).candidates != one.candidates


def test_the_truth_stands_at_every_place_about_equally_often():
    places = [shuffled(task(number), 3).candidates.index("i7") for number in range(4000)]
    assert all(130 < places.count(place) < 270 for place in range(20))


def test_the_fingerprint_knows_tasks_and_not_their_order():
    a, b = task(1), task(2)
    assert fingerprint_of([a, b]) == fingerprint_of([b, shuffled(a, 3)])
    assert fingerprint_of([a]) != fingerprint_of([a, b])
    for change in ({"ground_truth": "i8"}, {"cutoff": 6}, {"scenario": "long_term"}, {"candidates": IDS[:19]}):
        assert fingerprint_of([task(1, **change)]) != fingerprint_of([a])


def test_digests_tell_tasks_of_one_name_apart_and_let_a_set_grow():
    small, large = [task(0)], [task(0, candidates=tuple(reversed(IDS))), task(1)]
    known = digest(small)
    assert list(known) == ["t0"] and len(known["t0"]) == 12
    assert strangers(known, large) == [] and strangers(digest(large), small) == ["t1"]
    changes = ({"user_id": "other"}, {"ground_truth": "i8"}, {"candidates": (*IDS[:-1], "new")}, {"cutoff": 6})
    for change in changes:
        assert strangers(known, [task(0, **change)]) == ["t0"]


def test_a_task_without_a_truth_is_refused(tmp_path):
    for nothing in (None, "", []):
        with pytest.raises(StarError, match="t0 has no ground truth"):
            read_tasks(jsonl(tmp_path, row(ground_truth=nothing)))
    without = row()
    del without["ground_truth"]
    with pytest.raises(StarError, match="t0 has no ground truth"):
        read_tasks(jsonl(tmp_path, without))
    with pytest.raises(StarError, match="t0 has no ground truth"):
        task_set([task(ground_truth="")], 0)
    columns = pa.Table.from_pylist([row(ground_truth=None)])
    pq.write_table(columns, tmp_path / "tasks.parquet")
    with pytest.raises(StarError, match="t0 has no ground truth"):
        read_tasks(tmp_path / "tasks.parquet")


def test_two_truths_are_refused(tmp_path):
    with pytest.raises(StarError, match="t0 has 2 ground truths"):
        read_tasks(jsonl(tmp_path, row(ground_truth=["i7", "i8"])))
    with pytest.raises(StarError, match="t0 has two ground truths"):
        task_set(read_tasks(jsonl(tmp_path, row(), row(ground_truth="i8"))), 0)
    with pytest.raises(StarError, match="t0 stands twice"):
        task_set([task(), task()], 0)


def test_a_truth_that_is_no_candidate_is_counted_and_said():
    made = task_set([task(0), task(1, ground_truth="elsewhere")], 0)
    assert len(made) == 2
    assert "1 task has a ground truth that is no candidate (such as t1): counted as a miss" in made.notes[0]


@pytest.mark.parametrize("count, words", [(19, "fewer than 20"), (0, "fewer than 20"), (21, "more than 20")])
def test_another_number_of_candidates_is_judged_and_said(count, words):
    made = task_set([task(candidates=tuple(f"i{number}" for number in range(count)))], 0)
    assert any(words in note for note in made.notes)


def test_a_candidate_that_stands_twice_is_said():
    made = task_set([task(candidates=(*IDS[:19], "i7"))], 0)
    assert "a candidate twice" in made.notes[0] and len(made.tasks[0].candidates) == 20


@pytest.mark.parametrize(
    "change, words",
    [
        ({"task_id": 3}, "task_id = 3"),
        ({"user_id": None}, "user_id = None"),
        ({"ground_truth": 7}, "ground_truth = 7"),
        ({"candidates": "i7"}, "no list of ids"),
        ({"candidates": [1, 2]}, "no list of ids"),
        ({"cutoff": "yesterday"}, "cutoff = 'yesterday'"),
        ({"cutoff": True}, "cutoff = True"),
    ],
)
def test_a_row_of_another_form_is_refused_by_name(tmp_path, change, words):
    with pytest.raises(StarError, match=words):
        read_tasks(jsonl(tmp_path, row(**change)))


def test_files_that_hold_no_tasks_are_refused(tmp_path):
    with pytest.raises(StarError, match="there is no file of tasks"):
        read_tasks(tmp_path / "absent.parquet")
    (tmp_path / "noise.parquet").write_bytes(b"noise")
    with pytest.raises(StarError, match="holds no tasks"):
        read_tasks(tmp_path / "noise.parquet")
    (tmp_path / "noise.jsonl").write_text("{noise}\n")
    with pytest.raises(StarError, match="holds no tasks"):
        read_tasks(tmp_path / "noise.jsonl")
    with pytest.raises(StarError, match="is no task"):
        read_tasks(jsonl(tmp_path, [1]))
    with pytest.raises(StarError, match="no tasks to evaluate"):
        task_set([], 0)


def test_what_the_tables_do_not_know_of_the_tasks_is_said():
    tasks = [task(0), task(1, candidates=(*IDS[:-1], "new")), task(2)]
    assert strange(tasks[:1], lambda one: OTHER, set(IDS)) == []
    new, unknown = strange(tasks, lambda one: [] if one.user_id == "u2" else OTHER, set(IDS))
    assert new == "1 task has a user without any interaction before it (such as t2)"
    assert unknown.startswith("1 task has candidates that no table of items knows (such as new of t1)")


def test_candidates_that_the_user_already_has_are_counted_and_noted():
    tasks = [task(0), task(1), task(2, candidates=("i0", *IDS[:-1]))]
    before = {
        "u0": [("i0", 1, None), ("i1", 2, None), ("i1", 3, 4.0)],
        "u1": OTHER,
        "u2": [("i0", 1, None), ("i7", 2, 5.0)],
    }

    def history(one):
        return before[one.user_id]

    assert already_had(tasks, history) == {"tasks": 2, "candidates": 4, "truths": 1}
    assert already_had(tasks[1:2], history) == {"tasks": 0, "candidates": 0, "truths": 0}
    (note,) = strange(tasks, history, set(IDS))
    assert note.startswith("2 tasks have candidates that the user already has (4 candidates, such as i0 of t0; 1 of ")
    assert note.endswith("; 1 of them the ground truth): scored as they are")


def test_tasks_that_are_not_held_out_are_said_to_be():
    assert task_set([task()], 7, part="test").notes == () and task_set([task()], 7).part == ""
    (note,) = task_set([task()], 7, part="train").notes
    assert "students were trained on them" in note
    assert "validation tasks" in task_set([task()], 7, part="valid").notes[0]


def test_a_file_that_is_cut_short_is_refused_and_one_without_a_last_line_break_is_whole(tmp_path):
    whole = "".join(json.dumps(row(task_id=f"t{number}")) + "\n" for number in range(10))
    path = tmp_path / "tasks.jsonl"
    path.write_text(whole.rstrip("\n"))
    assert len(read_tasks(path)) == 10
    path.write_text(whole[:-9])
    with pytest.raises(StarError, match="holds no tasks from line 10 on: damaged or cut short"):
        read_tasks(path)


def test_a_limit_counts_in_each_sub_task():
    tasks = [task(number, scenario="classic" if number % 3 else "long_term") for number in range(30)]
    made = task_set(tasks, 0, limit=4)
    assert {cell: len(own) for cell, own in made.cells.items()} == {
        ("amazon", "long_term"): 4,
        ("amazon", "classic"): 4,
    }


def test_tasks_are_read_as_they_were_written(tmp_path):
    made = task_set([task(number) for number in range(3)], 0)
    write_tasks(tmp_path / "tasks.parquet", made.tasks)
    assert tuple(read_tasks(tmp_path / "tasks.parquet")) == made.tasks


def test_candidates_that_the_user_already_has_reach_results_and_report(run, tmp_path):
    opened = Run.open(run)
    rows = pq.read_table(run / "tasks" / "test.parquet").to_pylist()
    first = opened.tasks("test")[0]
    old = next(event[0] for event in opened.history(first) if event[0] not in first.candidates)
    other = next(item for item in rows[0]["candidates"] if item != rows[0]["ground_truth"])
    rows[0]["candidates"] = [old if item == other else item for item in rows[0]["candidates"]]
    pq.write_table(pa.Table.from_pylist(rows, schema=TASKS), tmp_path / "tasks.parquet")
    before = evaluate(["random"], run, tmp_path / "plain")["tasks"]["already_had"]
    made = evaluate(["random"], tmp_path / "tasks.parquet", tmp_path / "out", world=run)
    assert made["tasks"]["already_had"]["candidates"] == before["candidates"] + 1
    (note,) = [words for words in made["notes"] if "already has" in words]
    assert note in html.unescape((tmp_path / "out" / "report.html").read_text())
