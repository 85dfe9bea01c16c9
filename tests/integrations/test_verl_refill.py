"""Dynamic sampling on a queue in memory, whose prompts are generated as soon as they are sent."""

import itertools
import json
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.engine

FLAT, SPREAD = (1.0, 1.0, 1.0), (0.0, 1.0, 1.0)


class Trainer:
    """What the buffer touches of verl's trainer, and the queue: each prompt takes the next group of scores."""

    def __init__(self, groups, stops=("answered",) * 3):
        self.groups, self.stops, self.sent = iter(groups), stops, []
        self.tags, self.fields, self.names = {}, {}, itertools.count()
        self.total_training_steps = 100
        self.config = SimpleNamespace(trainer={"save_freq": 10, "test_freq": -1})

    def generate(self, number):
        self.sent.append(number)
        for _ in range(number):
            uid, scores = f"g{next(self.names)}", next(self.groups)
            self.tags[uid] = {"is_prompt": True, "status": "finished", "global_steps": 1}
            for sample, (score, stop) in enumerate(zip(scores, self.stops, strict=True)):
                key = f"{uid}_{sample}_0"
                info = {"score": score, "acc": float(score == 1.0)}
                self.tags[key] = {"status": "success"}
                self.fields[key] = {"reward_extra_info": info, "stop": stop, "difficulty": "hard", "task_id": uid}

    def kv_list(self):
        return {"train": {key: dict(tag) for key, tag in self.tags.items()}}

    def kv_batch_get(self, keys, partition_id, select_fields):
        return {"extra_fields": [self.fields[key] for key in keys]}

    def kv_clear(self, keys, partition_id):
        for key in keys:
            del self.tags[key]


@pytest.fixture
def made(monkeypatch, tmp_path):
    from star_rl.integrations.verl import replay

    def make(trainer, max_failed=0.25, **filters):
        for name in ("kv_list", "kv_batch_get", "kv_clear"):
            monkeypatch.setattr(replay.tq, name, getattr(trainer, name))
        defaults = {"enable": True, "metric": "reward", "max_inflight_gen_batches": 1, "max_num_gen_batches": 5}
        options = {"details_dir": str(tmp_path), "max_failed": max_failed, "max_steps_without_signal": 2}
        return replay.StrictReplayBuffer(
            trainer_mode="sync",
            trainer_config={},
            max_off_policy_threshold=8,
            max_off_policy_strategy="drop",
            sampler_kwargs={**options, "filter_groups": {**defaults, **filters}, "poll_interval": 0.0},
            refill_fn=trainer.generate,
        )

    return make


def step(buffer, trainer, batch=2, number=1):
    trainer.sent.clear()
    trainer.generate(batch)
    found, metrics = buffer.sample(number, "train", batch)
    groups = {key.split("_")[0] for key in found.keys}
    for key in found.keys:  # verl clears what it has trained on
        del trainer.tags[key]
    assert not trainer.tags, "rollouts are left in the queue"
    return groups, metrics


def test_groups_without_signal_are_refilled_until_the_batch_is_full(made, tmp_path):
    trainer = Trainer([SPREAD, FLAT, FLAT, SPREAD])
    groups, metrics = step(made(trainer), trainer)
    assert groups == {"g0", "g3"} and trainer.sent == [2, 2], "two prompts for a dropped group, as verl does"
    assert (metrics["groups/refills"], metrics["groups/dropped"]) == (2, 2)
    assert metrics["groups/generated/without_signal"] == 0.5 and metrics["groups/without_signal"] == 0.0
    assert metrics["reward/acc/mean"] == pytest.approx(2 / 3) and metrics["pass_rate/hard"] == pytest.approx(10 / 12)
    assert metrics["groups/steps_without_signal"] == 0 and metrics["training/filter_groups/evicted_samples"] == 2
    rows = [json.loads(line) for line in (tmp_path / "1.jsonl").read_text().splitlines()]
    assert {row["group"]: row["trained"] for row in rows} == {"g0": True, "g1": False, "g2": False, "g3": True}


def test_a_surplus_is_discarded(made):
    trainer = Trainer([FLAT, FLAT, SPREAD, SPREAD, SPREAD, SPREAD])
    groups, metrics = step(made(trainer, max_inflight_gen_batches=2), trainer)
    assert trainer.sent == [2, 4] and len(groups) == 2
    assert metrics["training/filter_groups/discarded_surplus_samples"] == 2 and metrics["groups/dropped"] == 2


def test_without_the_option_nothing_is_dropped(made):
    trainer = Trainer([SPREAD, FLAT])
    groups, metrics = step(made(trainer, enable=False), trainer)
    assert groups == {"g0", "g1"} and trainer.sent == [2]
    assert metrics["groups/without_signal"] == 0.5 and "groups/refills" not in metrics


def test_failed_rollouts_are_no_signal(made):
    trainer = Trainer([(0.0, 1.0, 1.0), (1.0, 0.0, 1.0)], stops=("tool_error", "answered", "answered"))
    groups, metrics = step(made(trainer, 0.5, max_num_gen_batches=1), trainer)
    assert (
        groups == {"g1"} and metrics["groups/dropped"] == 1 and metrics["rollout/failed/share"] == pytest.approx(1 / 3)
    )
    assert metrics["reward/score/mean"] == 0.5, "of the sound rollouts alone"


def test_another_metric_decides(made):
    trainer = Trainer([(0.1, 0.2, 0.3), SPREAD])
    groups, metrics = step(made(trainer, metric="acc", max_num_gen_batches=1), trainer)
    assert groups == {"g1"} and metrics["groups/dropped"] == 1


def test_a_step_trains_on_what_it_has_at_the_bound(made):
    trainer = Trainer([SPREAD, *[FLAT] * 5])
    groups, metrics = step(made(trainer, max_num_gen_batches=3), trainer)
    assert groups == {"g0"} and sum(trainer.sent) == 6
    assert (metrics["groups/refills"], metrics["groups/dropped"], metrics["groups/without_signal"]) == (4, 5, 0.0)
    assert metrics["training/filter_groups/evicted_samples"] == 5
    assert metrics["groups/steps_without_signal"] == 0


def test_steps_in_a_row_without_any_signal_end_the_training_with_a_checkpoint(made, capsys):
    trainer = Trainer([*[FLAT] * 4, *[SPREAD] * 2, *[FLAT] * 8])
    buffer = made(trainer, max_num_gen_batches=2)
    groups, metrics = step(buffer, trainer, number=1)
    assert groups and metrics["groups/without_signal"] == 1.0, "verl needs a batch"
    assert metrics["groups/steps_without_signal"] == 1 and trainer.total_training_steps == 100
    assert step(buffer, trainer, number=2)[1]["groups/steps_without_signal"] == 0
    step(buffer, trainer, number=3)
    assert trainer.total_training_steps == 100
    assert step(buffer, trainer, number=4)[1]["groups/steps_without_signal"] == 2
    assert trainer.total_training_steps == 4
    assert trainer.config.trainer == {"save_freq": 1, "test_freq": -1}
    assert "no group had signal in 2 steps in a row: ending after step 4" in capsys.readouterr().out


def test_rollouts_that_all_fail_stop_the_training_at_the_bound(made):
    trainer = Trainer([FLAT] * 4, stops=("tool_error",) * 3)
    with pytest.raises(RuntimeError, match=r"12 of 12 rollouts of this step failed"):
        step(made(trainer, max_num_gen_batches=2), trainer)
