"""Stored rollouts of GRPO under another reward."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_rl.cli import main
from star_rl.errors import StarError
from star_rl.report.rescore import rescore, table
from star_rl.rewards import loading


def answer(first, calls=0):
    ids = [first, *(other for other in "abcd" if other != first)]
    phases = {"plan": "[]", "reflection": '{"correct": "yes"}', "recommend": json.dumps(ids)}
    text = "".join(f"<{tag}>\n<JSON>{value}</JSON>\n</{tag}>\n" for tag, value in phases.items())
    return [{"role": "assistant", "content": text}], {"loop_tool_calls": float(calls)}


@pytest.fixture
def run(tmp_path):
    """A group whose order the number of calls decides, one without signal, and a failed rollout."""
    details, info = tmp_path / "grpo/details", {"task_id": "t1", "candidates": list("abcd")}
    details.mkdir(parents=True)
    (tmp_path / "grpo_set").mkdir()
    row = {"data_source": "toy", "reward_model": {"ground_truth": "a"}, "extra_info": info}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "grpo_set/train.parquet")
    (tmp_path / "recipe.yaml").write_text("grpo: {reward: star}\n")
    groups = {"g": [("a", 9), ("b", 0), ("c", 1), ("a", 0)], "flat": [("a", 0), ("a", 0)]}
    lines = []
    for group, answers in groups.items():
        for sample, (first, calls) in enumerate(answers):
            messages, counts = answer(first, calls)
            scores = {**counts, "score": 2.0 if first == "a" else 5 / 3}
            entry = {"group": group, "sample": sample, "task_id": "t1", "stop": "answered"}
            lines.append({**entry, "scores": scores, "messages": messages})
    lines.append({**lines[0], "sample": 4, "stop": "tool_error"})
    (details / "3.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_the_reward_of_the_training_gives_the_stored_scores(run):
    rows = rescore(run, loading.load("star"))
    assert len(rows) == 6 and all(one.old == pytest.approx(one.new) and one.moved == 0.0 for one in rows)
    shown = table(rows, "star", "again")
    assert shown.startswith("6 rollouts in 2 groups, 1 steps")
    assert "1 groups with signal under both, 1 in the same order" in shown
    assert "place in its group" not in shown, "nothing moves"


def test_means_signal_and_what_moves_under_another(run, capsys):
    assert main(["rescore", str(run), "--reward", "tool_cost", "--set", "cost=0.1", "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["star", "(trained)", "tool_cost"]
    assert lines[2].split()[-1] == f"{(1.1 + 5 / 3 + 5 / 3 - 0.1 + 6) / 6:.3f}"
    assert lines[3].split()[-2:] == ["50.0", "50.0"]
    # under star a9 and a0 share the places 1 and 2; the calls bring a9 down to the last
    assert lines[-1].split() == ["3", "t1", "0", "2.000", "1.100", "1.5", "->", "4"] and len(lines) == 7
    assert "0 in the same order" in lines[4]


def test_a_run_without_rollouts_and_one_whose_set_was_made_again(run, tmp_path):
    with pytest.raises(StarError, match="has no rollouts of GRPO"):
        rescore(tmp_path / "sft", loading.load("star"))
    row = {"data_source": "toy", "reward_model": {"ground_truth": "a"}, "extra_info": {"task_id": "other"}}
    pq.write_table(pa.Table.from_pylist([row]), run / "grpo_set/train.parquet")
    with pytest.raises(StarError, match="task t1, which is not in the run's GRPO set"):
        rescore(run, loading.load("star"))
