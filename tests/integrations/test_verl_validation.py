"""Validations of a training on a queue in memory: what is written, kept and deleted, and when training ends."""

import json

import pytest
from omegaconf import OmegaConf

from star_rl.integrations.verl.validation import best, stalled, validations

pytestmark = pytest.mark.engine


def write(folder, step, values, metric="hr_avg"):
    folder.mkdir(exist_ok=True)
    rows = [{"task_id": task, "scores": {"acc": 0.0, metric: value}} for task, value in values]
    (folder / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_of_equal_values_the_earlier_is_best_and_samples_of_a_task_count_once(tmp_path):
    write(tmp_path, 10, [("a", 1.0), ("b", 0.0)])
    write(tmp_path, 5, [("a", 1.0), ("b", 0.0), ("b", 0.0), ("b", 0.0)])
    write(tmp_path, 20, [("a", 0.0), ("b", 1 / 3)])
    found = validations(tmp_path)
    assert [one.step for one in found] == [5, 10, 20] and found[0].mean == found[1].mean == 0.5
    assert best(found).step == 5 and best(found, {10, 20}).step == 10 and best(found, {7}) is None
    assert 0.0 <= found[0].low < 0.5 < found[0].high <= 1.0 and found[0].metric == "HR_avg"
    assert [one.step for one in validations(tmp_path, 10)] == [5, 10]
    assert [stalled(found, patience) for patience in (0, 1, 2, 3)] == [False, True, True, False]


def test_a_reward_without_hr_avg_is_judged_by_hr1(tmp_path):
    write(tmp_path, 1, [("a", 1.0), ("b", 0.0)], "acc")
    assert (best(validations(tmp_path)).metric, best(validations(tmp_path)).mean) == ("HR@1", 0.5)
    assert best(validations(tmp_path / "gone")) is None and not stalled([], 1)


class ValidatingTrainer:
    """What the buffer touches of verl's trainer, and the queue: two batches of two tasks a validation."""

    def __init__(self, folder):
        self.val_dataloader, self.total_training_steps = [0, 1], 100
        trainer = {"save_freq": 1, "test_freq": 1, "default_local_dir": str(folder)}
        self.config = OmegaConf.create({"trainer": trainer})
        self.tags, self.fields = {}, {}

    def submit(self, number):
        raise AssertionError("a validation sends no prompts")

    def kv_list(self):
        return {"val": {key: dict(tag) for key, tag in self.tags.items()}}

    def kv_batch_get(self, keys, partition_id, select_fields):
        return {"extra_fields": [self.fields[key] for key in keys]}

    def kv_clear(self, keys, partition_id):
        for key in keys:
            del self.tags[key]

    def validate(self, buffer, step, hr_avg):
        for batch in self.val_dataloader:
            self.tags = {}
            for task in (f"t{2 * batch}", f"t{2 * batch + 1}"):
                self.tags[task] = {"is_prompt": True, "status": "finished", "global_steps": step}
                self.tags[f"{task}_0_0"] = {"status": "success"}
                scores = {"score": hr_avg, "acc": 0.0, "hr_avg": hr_avg}
                self.fields[f"{task}_0_0"] = {"reward_extra_info": scores, "task_id": task, "stop": "answered"}
            buffer.sample(step, "val", 2)


@pytest.fixture
def made(monkeypatch, tmp_path):
    from star_rl.integrations.verl import replay

    def make(**options):
        trainer = ValidatingTrainer(tmp_path / "checkpoints")
        for name in ("kv_list", "kv_batch_get", "kv_clear"):
            monkeypatch.setattr(replay.tq, name, getattr(trainer, name))
        return trainer, replay.StrictReplayBuffer(
            trainer_mode="sync",
            trainer_config={},
            max_off_policy_threshold=8,
            max_off_policy_strategy="drop",
            sampler_kwargs={"validation_dir": str(tmp_path / "validation"), "poll_interval": 0.0, **options},
            refill_fn=trainer.submit,
        )

    return make


def checkpoints(tmp_path, *steps):
    for step in steps:
        (tmp_path / f"checkpoints/global_step_{step}/actor").mkdir(parents=True)


def left(tmp_path):
    return sorted(int(path.name.split("_")[-1]) for path in (tmp_path / "checkpoints").iterdir())


def test_the_best_and_the_newest_checkpoints_are_left(made, tmp_path):
    trainer, buffer = made(keep="best", max_checkpoints=1)
    for step, hr_avg, steps in ((1, 0.5, [1]), (2, 0.7, [2]), (3, 0.6, [2, 3]), (4, 0.6, [2, 4]), (5, 0.8, [5])):
        checkpoints(tmp_path, step)
        trainer.validate(buffer, step, hr_avg)
        assert left(tmp_path) == steps
    rows = [json.loads(line) for line in (tmp_path / "validation/5.jsonl").read_text().splitlines()]
    assert [row["task_id"] for row in rows] == ["t0", "t1", "t2", "t3"] and rows[0]["scores"]["hr_avg"] == 0.8
    assert trainer.total_training_steps == 100


def test_without_keep_nothing_is_deleted_and_patience_ends_the_training(made, tmp_path, capsys):
    trainer, buffer = made(patience=2)
    for step, hr_avg in ((1, 0.7), (2, 0.6)):
        checkpoints(tmp_path, step)
        trainer.validate(buffer, step, hr_avg)
        assert trainer.total_training_steps == 100
    trainer, resumed = made(patience=2)  # after a kill, from the files
    trainer.validate(resumed, 3, 0.65)
    assert trainer.total_training_steps == 3 and left(tmp_path) == [1, 2]
    said = "no gain in 2 validations, best HR_avg 70.0 % (70.0 to 70.0) at step 1: ending after step 3"
    assert said in capsys.readouterr().out
