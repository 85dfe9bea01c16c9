"""What a step's rollouts come to: reward components, counts, and how much signal the groups hold."""

import pytest

pytestmark = pytest.mark.engine


def row(group, sample, score, acc=0.0, stop="answered"):
    scores = {"score": score, "acc": acc, "loop_tool_calls": 2.0, "loop_stop_answered": float(stop == "answered")}
    scores["loop_own_seconds"] = 0.25
    return {"group": group, "sample": sample, "task_id": f"t{group}", "stop": stop, "scores": scores}


def test_means_sums_and_the_shares_of_groups():
    from star_rl.integrations.verl.replay import summary

    found = summary([row("a", 0, 2.0, 1.0), row("a", 1, 1.0), row("b", 0, 1.0), row("b", 1, 1.0)])
    assert found["reward/score/mean"] == 1.25 and found["reward/acc/mean"] == 0.25
    assert (found["rollout/tool_calls/mean"], found["rollout/tool_calls/sum"]) == (2.0, 8.0)
    assert found["rollout/own_seconds/sum"] == 1.0, "to be held against timing_s/step"
    assert found["groups/without_signal"] == 0.5
    assert [found[f"groups/successes/{k}"] for k in range(3)] == [0.5, 0.5, 0.0]
    assert summary([]) == {}


def test_a_rollout_that_is_not_trained_on_is_no_signal_and_in_no_mean_of_the_reward():
    from star_rl.integrations.verl.failed_rollouts import excluded
    from star_rl.integrations.verl.replay import summary

    rows = [row("a", 0, 1.0), row("a", 1, -1.0, stop="tool_error"), row("a", 2, 1.0)]
    rows += [row("b", 0, 2.0, 1.0), row("b", 1, -1.0, stop="aborted"), row("b", 2, -1.0, stop="aborted")]
    found = summary(rows, excluded(rows))
    assert found["groups/without_signal"] == 1.0, "all samples that are trained on score the same"
    assert found["reward/score/mean"] == 1.0 and found["reward/acc/mean"] == 0.0
    assert found["rollout/tool_calls/sum"] == 12.0 and found["rollout/stop_answered/mean"] == 0.5
    assert [found[f"groups/successes/{k}"] for k in range(4)] == [1.0, 0.0, 0.0, 0.0], "the same names at every step"


def test_scores_that_verl_cannot_tell_apart_are_no_signal():
    import numpy as np
    import torch
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    from star_rl.integrations.verl.replay import summary

    scores = [0.1 + 0.2, 0.3]
    tokens = torch.tensor([[score] for score in scores])
    advantages = compute_grpo_outcome_advantage(tokens, torch.ones_like(tokens), np.array(["a", "a"], dtype=object))[0]
    assert len(set(scores)) == 2 and advantages.abs().max() == 0.0
    assert summary([row("a", number, score) for number, score in enumerate(scores)])["groups/without_signal"] == 1.0
