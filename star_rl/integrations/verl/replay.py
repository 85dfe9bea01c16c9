"""A replay buffer for synchronous training, set as ``trainer.v1.sampler.custom_sampler``.

It differs from verl's in five ways:

- It polls often. verl sleeps 2 s between two polls (verl/trainer/ppo/v1/replay_buffer.py:144), the larger part of a
  step where a tiny model needs one second.
- It stops at errors. verl trains on the rollouts that did not raise and fills the batch up with padding
  (replay_buffer.py:84). Our policy loop turns everything a model can do into data, so a rollout that raises is an error
  of configuration or code. Failed rollouts are dropped, and too many stop the training
  (:mod:`star_rl.integrations.verl.failed_rollouts`), as does a lost node (:mod:`star_rl.integrations.verl.watchdog`).
- It refills groups without signal after failed rollouts are taken out (:mod:`star_rl.integrations.verl.refill`).
- It writes each validation's rollouts, deletes checkpoints and stops early by them
  (:mod:`star_rl.integrations.verl.validation`).
- It logs more. verl logs a reward's sum, not its components. What ``sample`` returns beside the batch goes into the
  step's metrics, so components and rollout statistics are added there; each rollout goes to a file, a few to W&B.
"""

from __future__ import annotations

import operator
import sys
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import transfer_queue as tq
from transfer_queue import KVBatchMeta

from star_rl.files import write_jsonl
from star_rl.integrations.verl import failed_rollouts, validation, watchdog
from star_rl.integrations.verl.checkpoints import checkpoints
from star_rl.integrations.verl.refill import RefillingReplayBuffer, place, rollout_rows

_LOOP = "loop_"  # prefix of the policy loop's counts among a rollout's scores
#: Counts whose sum over a step is logged beside the mean.
_SUMMED = ("loop_tool_calls", "loop_tool_calls_ok", "loop_unparsable_calls", "loop_own_seconds")

#: Groups of a step that are shown, each with its best and its worst rollout.
GROUPS = 4
#: Characters of a rollout that are shown.
LONGEST = 6000
NUMBERS = ("score", "acc", "format", "rank", "tool_calls", "invalid_calls", "loop_response_tokens")
COLUMNS = ("task", "sample", "stop", *(name.removeprefix("loop_") for name in NUMBERS), "rollout")


class StrictReplayBuffer(RefillingReplayBuffer):
    """verl's synchronous replay buffer with the differences above.

    ``sampler_kwargs``: ``poll_interval`` (seconds), ``details_dir`` (folder of ``<step>.jsonl``, one line a rollout),
    ``max_failed`` (share of a step's rollouts that may fail, 0 to 1), ``validation_dir`` (as ``details_dir``),
    ``keep`` (``best``: keep the best checkpoint and the newest ``max_checkpoints``), ``patience`` (validations without
    gain that end the training, 0: none), and those of its base.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = kwargs.get("sampler_kwargs") or {}
        if options.get("poll_interval") is not None:
            kwargs["poll_interval"] = float(options["poll_interval"])
        self._details_dir = options.get("details_dir")
        self._max_failed = float(options.get("max_failed", failed_rollouts.MAX_FAILED))
        self._validation_dir = options.get("validation_dir")
        self._keep, self._newest = options.get("keep"), options.get("max_checkpoints")
        self._patience = int(options.get("patience", 0))
        self._validated: list[dict[str, Any]] = []  # rollouts of the validation's batches so far
        self._batches = 0
        self._watchdog = watchdog.Watchdog()
        watchdog.start()
        super().__init__(*args, **kwargs)

    def _sync_metadata_from_transfer_queue(self) -> None:
        """Refresh the state of all groups.

        Raises:
            RuntimeError: a rollout raised, or a node or process that they need is lost.
        """
        self._watchdog.check()
        super()._sync_metadata_from_transfer_queue()
        failed = [uid for uids in self.failure_keys.values() for uid in uids]
        if failed:
            raise RuntimeError(f"a rollout of group {failed[0]} raised: see 'Error in _run_prompt' in the log")

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """Return the batch without failed rollouts, and its metrics with reward components and statistics.

        Raises:
            RuntimeError: too many rollouts failed.
        """
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        keys = [key for key in batch.keys if key.count("_") >= 2]
        if partition_id == "val":
            self._validate(global_steps, rollout_rows(keys, partition_id))
        if partition_id == "train":
            details = [row for rows in self._rows.values() for row in rows] or rollout_rows(keys, partition_id)
            failed = failed_rollouts.excluded(details)
            trained = {*map(place, keys)} - failed
            for row in details:
                row["trained"] = (row["group"], row["sample"]) in trained
            if self._details_dir:
                write_jsonl(Path(self._details_dir) / f"{global_steps}.jsonl", details)
            log_table(details, global_steps)
            metrics["rollout/failed/share"] = failed_rollouts.check(details, self._max_failed)
            metrics.update(summary(details, {(row["group"], row["sample"]) for row in details if not row["trained"]}))
            metrics.update(pass_rates(details, failed))
            batch = self._without(batch, failed)
        return batch, metrics

    def _validate(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Add a batch's rollouts; after the last batch write them, delete checkpoints and perhaps end the training."""
        self._validated += rows
        self._batches += 1
        trainer = self._submit.__self__
        if not self._validation_dir or self._batches < len(trainer.val_dataloader):
            return
        folder = Path(self._validation_dir)
        write_jsonl(folder / f"{step}.jsonl", self._validated)
        self._validated, self._batches = [], 0
        found = validation.validations(folder)
        if self._keep == "best":
            validation.thin(checkpoints(Path(trainer.config.trainer.default_local_dir)), self._newest, found)
        top = validation.best(found)
        if top is not None and validation.stalled(found, self._patience):
            self._end(step, f"no gain in {self._patience} validations, best {top.text}")

    @staticmethod
    def _without(batch: KVBatchMeta, excluded: Container[tuple[str, int]]) -> KVBatchMeta:
        """Drop these (group, sample) from the batch and from the queue's store."""
        kept = [place(key) not in excluded for key in batch.keys]
        if all(kept) or not any(kept):  # verl needs a batch; one that is all failed was exhausted and has no signal
            return batch
        tq.kv_clear(partition_id=batch.partition_id, keys=[*compress(batch.keys, map(operator.not_, kept))])
        keys, tags = [*compress(batch.keys, kept)], [*compress(batch.tags, kept)]
        return KVBatchMeta(partition_id=batch.partition_id, keys=keys, tags=tags)


def summary(
    details: Sequence[Mapping[str, Any]], excluded: Container[tuple[str, int]] = frozenset()
) -> dict[str, float]:
    """Return the metrics of one step: means, some sums, and how much signal its groups hold.

    ``rollout/<count>/mean`` and ``/sum`` cover all rollouts. The others cover those that are trained on, as verl's own
    ``critic/score/mean`` does: ``reward/<component>/mean``; ``groups/without_signal``, the share of groups whose
    samples all score the same; ``groups/successes/<k>``, the share with k samples of ``acc`` 1.

    Args:
        details: the rollouts.
        excluded: (group, sample) of those that are not trained on.
    """
    if not details:
        return {}
    columns: dict[str, list[float]] = defaultdict(list)
    groups: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    for row in details:
        trained = (row["group"], row["sample"]) not in excluded
        if trained:
            groups[row["group"]].append(row["scores"])
        for name, value in row["scores"].items():
            if trained or name.startswith(_LOOP):
                columns[name].append(value)
    out: dict[str, float] = {}
    for name, values in columns.items():
        own = name.startswith(_LOOP)
        place = f"rollout/{name.removeprefix(_LOOP)}" if own else f"reward/{name}"
        out[f"{place}/mean"] = _mean(values)
        if name in _SUMMED:
            out[f"{place}/sum"] = sum(values)
    # verl's scores have single precision: equal ones give no advantage
    out["groups/without_signal"] = _mean(
        len({np.float32(scores["score"]) for scores in group}) == 1 for group in groups.values()
    )
    if "acc" in columns:
        wins = [round(sum(scores["acc"] for scores in group)) for group in groups.values()]
        for number in range(max(Counter(row["group"] for row in details).values()) + 1):
            out[f"groups/successes/{number}"] = _mean(count == number for count in wins)
    return out


def pass_rates(
    details: Iterable[Mapping[str, Any]], excluded: Container[tuple[str, int]] = frozenset()
) -> dict[str, float]:
    """Return the mean ``acc`` of all that was generated, by the tasks' difficulty: ``pass_rate/<difficulty>``."""
    columns: dict[str, list[float]] = defaultdict(list)
    for row in details:
        if row.get("difficulty") and "acc" in row["scores"] and (row["group"], row["sample"]) not in excluded:
            columns[row["difficulty"]].append(row["scores"]["acc"])
    return {f"pass_rate/{name}": _mean(values) for name, values in columns.items()}


def _mean(values: Iterable[float]) -> float:
    kept = [float(value) for value in values]
    return sum(kept) / len(kept)


def table_rows(details: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return the best and the worst rollout of the groups with the widest range of scores, as :data:`COLUMNS`."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in details:
        groups[row["group"]].append(row)
    ranked = [sorted(group, key=lambda row: -row["scores"].get("score", 0.0)) for group in groups.values()]
    ranked.sort(key=lambda group: group[-1]["scores"].get("score", 0.0) - group[0]["scores"].get("score", 0.0))
    return [_row(row) for group in ranked[:GROUPS] for row in (group[:1] if len(group) == 1 else (group[0], group[-1]))]


def _row(row: Mapping[str, Any]) -> list[Any]:
    said = "\n".join(f"[{message['role']}] {message['content']}" for message in row["messages"])
    if len(said) > LONGEST:
        said = f"{said[: LONGEST // 2]}\n..\n{said[-LONGEST // 2 :]}"
    return [row["task_id"], row["sample"], row["stop"], *(row["scores"].get(name) for name in NUMBERS), said]


def log_table(details: Sequence[Mapping[str, Any]], step: int) -> bool:
    """Add the table ``rollouts`` to a step of the W&B run that verl started in this process; return False without one.

    verl logs such a table for validation only, and its loggers take only numbers.
    """
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None or not details:
        return False
    table = wandb.Table(columns=list(COLUMNS), data=table_rows(details))
    wandb.run.log({"rollouts": table}, step=step, commit=False)  # verl's own numbers of the step complete it
    return True
