"""The stages evaluate and report: examples are not chosen to flatter."""

from star_rl.evaluation import stages
from star_rl.records import Task

TASKS = [
    Task(f"t{number}", "synthetic", "classic", "u", tuple(str(n) for n in range(20)), "7", 0) for number in range(4)
]


def test_examples_are_the_best_the_middle_and_the_worst():
    gain = {"t0": -1.0, "t1": 0.5, "t2": 0.0, "t3": 2.0}
    assert [one.task_id for one in stages._chosen(TASKS, lambda one: gain[one.task_id])] == ["t3", "t2", "t0"]


def test_a_stage_moved_aside_is_none_of_the_report(tmp_path):
    for name in ("sft", "sft.old-20260101-000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    assert stages._stages(tmp_path) == ["sft"]
