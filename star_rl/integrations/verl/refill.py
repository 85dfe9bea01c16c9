"""Dynamic sampling: drop the groups without signal and refill them by further prompts.

verl's synchronous buffer has the mechanism (``algorithm.filter_groups``; the matrix in
verl/trainer/ppo/v1/replay_buffer.py): k groups are dropped, up to 2k further prompts are sent, at most
``max_inflight_gen_batches`` batches at a time, and the surplus is discarded. It differs here in four ways:

- verl gives these options to its own samplers only (trainer_base.py:165). Here they arrive in ``sampler_kwargs``.
- Failed rollouts do not count: a group whose sound rollouts all score the same has no signal.
- A step generates at most ``max_num_gen_batches`` batches, which verl ignores (trainer_base.py:206): it would generate
  for ever with a policy that is certain. A step trains on the groups with signal that it has by then.
- Training ends after ``max_steps_without_signal`` steps in a row in which no group has signal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import DAPO_FILTERED_REWARD_COUNTS_KEY, FILTER_GROUPS_REWARD_METRIC, ReplayBuffer

from star_rl.integrations.verl import failed_rollouts


class _Exhausted(Exception):
    """All prompts of a step are generated, and too few groups have signal."""


class RefillingReplayBuffer(ReplayBuffer):
    """verl's synchronous replay buffer with the differences above.

    ``sampler_kwargs``: ``filter_groups`` (verl's section), ``max_steps_without_signal``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = kwargs.get("sampler_kwargs") or {}
        self._filters = options.get("filter_groups") or {}
        self._rows: dict[str, list[dict[str, Any]]] = {}  # the step's finished groups, dropped ones too
        self._values: dict[str, set[float]] = {}  # their values of the metric
        self._barren, self._streak = False, 0  # no group of the step has signal; such steps in a row
        self._submit = kwargs["refill_fn"]
        if self._filters.get("enable"):
            self._most_steps = int(options["max_steps_without_signal"])
            kwargs.update(
                filter_groups_metric=self._filters["metric"],
                max_inflight_gen_batches=self._filters["max_inflight_gen_batches"],
                gen_batch_size=1,
                refill_fn=self._refill,
            )
        super().__init__(*args, **kwargs)

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """Return verl's batch and metrics; with ``filter_groups`` a batch of groups with signal, or fewer of them.

        If no group has signal, groups without signal are returned: verl cannot skip a step, and their advantages are 0.
        """
        if partition_id == "val" or self.filter_groups_metric is None:
            return super().sample(global_steps, partition_id, batch_size)
        self._rows, self._values, self._barren = {}, {}, False
        self.train_batch_size, self._left = batch_size, (self._filters["max_num_gen_batches"] - 1) * batch_size
        extra = self._left
        try:
            batch, metrics = super().sample(global_steps, partition_id, batch_size)
        except _Exhausted:
            finished = self.finished_keys[partition_id]
            found = [uid for uid in finished if len(self._values[uid]) > 1]
            self._barren = not found
            self.train_batch_size = len(found) or min(batch_size, len(finished))
            batch, metrics = super().sample(global_steps, partition_id, self.train_batch_size)
        kept = {place(key)[0] for key in batch.keys}
        without = {uid: values for uid, values in self._values.items() if len(values) < 2}
        dropped = [values for uid, values in without.items() if uid not in kept]
        metrics |= {
            # verl's own two, which are lost where a step is exhausted
            "training/filter_groups/evicted_samples": len(dropped),
            DAPO_FILTERED_REWARD_COUNTS_KEY: dict(Counter(value for values in dropped for value in values)),
            "groups/dropped": len(dropped),
            "groups/refills": extra - self._left,
            "groups/generated/without_signal": len(without) / len(self._values),
        }
        self._streak = self._streak + 1 if self._barren else 0
        metrics["groups/steps_without_signal"] = self._streak
        if self._streak >= self._most_steps:
            self._end(global_steps, f"no group had signal in {self._streak} steps in a row")
        return batch, metrics

    def _refill(self, number: int) -> None:
        """Send as many of these prompts as the step has left."""
        number = min(number, self._left)
        self._left -= number
        if number:
            self._submit(number)

    def _dapo_filtered_keys(self, partition_id: str) -> tuple[set[str], Counter[float]]:
        """Return the finished groups without signal, and how many there are of each value.

        Raises:
            _Exhausted: nothing is in flight or left to send, and too few groups have signal.
        """
        if partition_id == "val" or self.filter_groups_metric is None or self._barren:
            return set(), Counter()
        finished = self.finished_keys[partition_id]
        new = finished - self._rows.keys()
        for row in rollout_rows([key for key in self.partitions[partition_id] if place(key)[0] in new], partition_id):
            self._rows.setdefault(row["group"], []).append(row)
        self._values.update((uid, self._metric_values(self._rows[uid])) for uid in new)
        without = {uid for uid in finished if len(self._values[uid]) < 2}
        in_flight = self.pending_keys[partition_id] or self.running_keys[partition_id]
        if not self._left and not in_flight and len(finished - without) < self.train_batch_size:
            raise _Exhausted
        return without, Counter(value for uid in without for value in self._values[uid])

    def _metric_values(self, rows: Sequence[dict[str, Any]]) -> set[float]:
        """Return the different values of the metric among a group's sound rollouts, in verl's single precision."""
        name = "score" if self.filter_groups_metric == FILTER_GROUPS_REWARD_METRIC else self.filter_groups_metric
        failed = failed_rollouts.excluded(rows)
        return {float(np.float32(row["scores"][name])) for row in rows if (row["group"], row["sample"]) not in failed}

    def _end(self, step: int, why: str) -> None:
        """Let verl's training end after this step, with a checkpoint: ``PPOTrainer.fit`` reads these after it."""
        print(f"star-rl: {why}: ending after step {step}", flush=True)
        trainer = self._submit.__self__
        trainer.total_training_steps = step
        for name in ("save_freq", "test_freq"):
            if trainer.config.trainer[name] > 0:
                trainer.config.trainer[name] = 1


def place(key: str) -> tuple[str, int]:
    """Return (group, sample) of a trajectory's key, ``<uid>_<session>_<index>``."""
    group, sample, _ = key.rsplit("_", 2)
    return group, int(sample)


def rollout_rows(keys: Sequence[str], partition_id: str) -> list[dict[str, Any]]:
    """Return one mapping a rollout, sorted: group, sample, task, difficulty, scores and statistics, messages."""
    if not keys:
        return []
    stored = tq.kv_batch_get(keys=list(keys), partition_id=partition_id, select_fields=["extra_fields"])
    rows = []
    for key, entry in zip(keys, stored["extra_fields"], strict=True):
        fields = getattr(entry, "data", entry)
        group, sample = place(key)
        rows.append(
            {
                "group": group,
                "sample": sample,
                "task_id": fields.get("task_id"),
                "difficulty": fields.get("difficulty"),
                "stop": fields.get("stop"),
                "error": fields.get("error", ""),
                "scores": {name: float(value) for name, value in fields.get("reward_extra_info", {}).items()},
                "messages": fields.get("messages", []),
            }
        )
    return sorted(rows, key=lambda row: (row["group"], row["sample"]))
