"""The table of rollouts that W&B shows for a step."""

import sys
from types import SimpleNamespace

from star_rl.integrations.verl.table import COLUMNS, GROUPS, LONGEST, log_table, rows


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
    details = [rollout(f"g{group}", sample, group * sample / 7) for group in range(6) for sample in range(4)]
    shown = rows(details)
    assert len(shown) == 2 * GROUPS and all(len(row) == len(COLUMNS) for row in shown)
    assert [(row[0], row[1]) for row in shown[:4]] == [("task g5", 3), ("task g5", 0), ("task g4", 3), ("task g4", 0)]
    assert shown[0][-1] == "[assistant] said\n[tool] found"


def test_a_group_of_one_shows_once_and_long_words_are_cut_in_the_middle():
    (row,) = rows([rollout("g", 0, 1.0, "x" * 100_000)])
    assert len(row[-1]) <= LONGEST + 10 and row[-1].endswith("[tool] found")


def test_the_table_goes_to_the_run_of_this_process_and_nowhere_without_one(monkeypatch):
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
