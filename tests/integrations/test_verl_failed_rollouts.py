"""Failed rollouts: how many stop a training, and that the others are trained as if those had never been."""

import math

import pytest

from star_rl.integrations.verl.failed_rollouts import check, excluded, failed


def row(group, sample, stop="answered", score=0.0, error=""):
    place = {"group": group, "sample": sample, "task_id": f"t{group}"}
    return {**place, "stop": stop, "error": error, "scores": {"score": score}}


def test_failed_rollouts_and_those_they_leave_alone_are_left_out():
    rows = [row("a", 0), row("a", 1, "tool_error"), row("a", 2), row("b", 0, "aborted"), row("b", 1), row("c", 0)]
    assert [(entry["group"], entry["sample"]) for entry in failed(rows)] == [("a", 1), ("b", 0)]
    assert excluded(rows) == {("a", 1), ("b", 0), ("b", 1)}
    assert excluded([row("a", 0, "length"), row("a", 1, "turns"), row("a", 2, "unfinished")]) == set()


def test_more_than_a_share_of_failures_stops_with_the_first_of_them():
    rows = [row("a", n, "tool_error" if n < 3 else "answered", error="UserCF: OSError: gone") for n in range(8)]
    with pytest.raises(
        RuntimeError, match=r"3 of 8 .*\(38 %, at most 25 % .*3 tool_error.*ta: tool_error \(UserCF: OSE"
    ):
        check(rows)
    assert check(rows, 0.375) == 0.375
    assert check(rows[2:]) == pytest.approx(1 / 6)
    assert check(rows[3:], 0.0) == check([]) == 0.0


def test_nothing_to_train_on_stops_whatever_the_share():
    with pytest.raises(RuntimeError, match="100 %"):
        check([row("a", 0, "aborted"), row("a", 1, "aborted")], 1.0)
    with pytest.raises(RuntimeError, match="50 %"):
        check([row("a", 0, "aborted"), row("a", 1)], 1.0)


@pytest.mark.engine
def test_the_advantages_of_the_others_are_those_of_a_group_without_it():
    import numpy as np
    import torch
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    def advantages(rows):
        scores = torch.tensor([[entry["scores"]["score"]] for entry in rows])
        groups = np.array([entry["group"] for entry in rows], dtype=object)
        mask = torch.tensor([[float(entry not in failed(rows))] for entry in rows])
        return compute_grpo_outcome_advantage(scores, mask, groups)[0][:, 0].tolist()

    rows = [row("a", 0, score=1.0), row("a", 1, score=0.0), row("a", 2, score=0.5), row("a", 3, "aborted", score=-3.0)]
    kept = [entry for entry in rows if (entry["group"], entry["sample"]) not in excluded(rows)]
    assert advantages(kept) == pytest.approx([1.0, -1.0, 0.0], abs=1e-5)  # mean 0.5, deviation 0.5
    mean, deviation = -0.375, math.sqrt(sum((score + 0.375) ** 2 for score in (1, 0, 0.5, -3)) / 3)
    shifted = [(score - mean) / (deviation + 1e-6) for score in (1, 0, 0.5)]
    assert advantages(rows) == pytest.approx([*shifted, 0.0], abs=1e-5), "all better than the failed one"
    assert min(shifted) > 0

    lone = [row("a", 0, score=2.0), row("a", 1, "aborted")]
    assert advantages(lone[:1]) == [pytest.approx(2.0, abs=1e-5)], "no baseline: this is why it goes as well"
    assert excluded(lone) == {("a", 0), ("a", 1)}


@pytest.mark.engine
def test_the_batch_goes_on_without_them_and_so_does_the_store(monkeypatch):
    from transfer_queue import KVBatchMeta

    from star_rl.integrations.verl import replay

    cleared = []
    monkeypatch.setattr(replay.tq, "kv_clear", lambda **what: cleared.append(what))
    batch = KVBatchMeta(partition_id="train", keys=["u_x_0_0", "u_x_1_0", "u_x_2_0"], tags=[{"n": n} for n in range(3)])
    kept = replay.StrictReplayBuffer._without(batch, {("u_x", 1)})
    assert (kept.keys, kept.tags, kept.partition_id) == (["u_x_0_0", "u_x_2_0"], [{"n": 0}, {"n": 2}], "train")
    assert cleared == [{"partition_id": "train", "keys": ["u_x_1_0"]}]
    assert replay.StrictReplayBuffer._without(batch, set()) is batch
