"""What a step's rollouts come to: reward components, counts, how much signal the groups hold, and W&B's table."""

import sys
from types import SimpleNamespace

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


def rollout(group, sample, score, words="said"):
    return {
        "group": group,
        "sample": sample,
        "task_id": f"task {group}",
        "stop": "answered",
        "scores": {"score": score, "acc": float(score > 1.5), "rank": 1.0},
        "messages": [{"role": "assistant", "content": words}, {"role": "tool", "content": "found"}],
    }


def test_groups_with_the_widest_spread_show_their_best_and_their_worst():
    from star_rl.integrations.verl.replay import COLUMNS, GROUPS, table_rows

    details = [rollout(f"g{group}", sample, group * sample / 7) for group in range(6) for sample in range(4)]
    shown = table_rows(details)
    assert len(shown) == 2 * GROUPS and all(len(row) == len(COLUMNS) for row in shown)
    assert [(row[0], row[1]) for row in shown[:4]] == [("task g5", 3), ("task g5", 0), ("task g4", 3), ("task g4", 0)]
    assert shown[0][-1] == "[assistant] said\n[tool] found"


def test_a_group_of_one_shows_once_and_long_words_are_cut_in_the_middle():
    from star_rl.integrations.verl.replay import LONGEST, table_rows

    (row,) = table_rows([rollout("g", 0, 1.0, "x" * 100_000)])
    assert len(row[-1]) <= LONGEST + 10 and row[-1].endswith("[tool] found")


def test_the_table_goes_to_the_run_of_this_process_and_nowhere_without_one(monkeypatch):
    from star_rl.integrations.verl.replay import log_table

    logged = []
    run = SimpleNamespace(log=lambda data, step, commit: logged.append((data, step, commit)))
    wandb = SimpleNamespace(run=None, Table=lambda columns, data: (columns, data))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    assert not log_table([rollout("g", 0, 1.0)], 3)
    wandb.run = run
    assert not log_table([], 3)
    assert log_table([rollout("g", 0, 1.0)], 3)
    assert logged[0][1:] == (3, False) and len(logged[0][0]["rollouts"][1]) == 1
    monkeypatch.delitem(sys.modules, "wandb")
    assert not log_table([rollout("g", 0, 1.0)], 3)
