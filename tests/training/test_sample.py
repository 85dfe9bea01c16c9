"""Rates of sampled rollouts."""

import json

from star_rl.records import Task
from star_rl.training.sample import rates, words


def test_rates_count_any_text(tmp_path):
    def ranking(*ids):
        return f"<recommend>\n<JSON>{json.dumps(ids)}</JSON>\n</recommend>"

    tasks = [Task(name, "s", "classic", "u", ("a", "b", "c"), truth, 0) for name, truth in (("1", "a"), ("2", "b"))]
    texts = [
        ("1", ranking("a", "b")),
        ("2", ranking("a", "b")),
        ("1", ""),
        ("2", ranking("b", "b")),
        ("1", "<recommend>"),
    ]
    file = tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps({"task_id": task, "model_text": text}) + "\n" for task, text in texts))
    found = rates(file, tasks, 2)
    assert found == {"rollouts": 5, "hr1": 0.4, "hr3": 0.6, "hr5": 0.6, "valid": 0.4}
    assert words(found) == "HR@1 40.0 %, HR@3 60.0 %, HR@5 60.0 %, valid lists 40.0 %"
