"""A replay buffer that looks often, overlooks nothing, and tells (``trainer.v1.sampler.custom_sampler``, synchronous
training).

Often: verl sleeps 2 s between two looks (verl/trainer/ppo/v1/replay_buffer.py:144), nothing beside minutes of
generation but the larger part of a step where a tiny model needs one second.

Nothing overlooked: where rollouts raise, verl trains on those that are left and fills up with padding
(replay_buffer.py:84). The policy loop turns all that a model can do into data, so a rollout that raises is a fault of
configuration or code, and training stops. So it does where more than a share of the rollouts ended by the machinery's
fault; the few others are left out of the batch (:mod:`star_rl.integrations.verl.faults`). So it does, too, where a node
is gone whose rollouts would be awaited for ever (:mod:`star_rl.integrations.verl.presence`).

Tells: verl logs the sum of a reward, not its components, and dumps texts without them. What ``sample`` returns beside
the batch goes into the metrics of the step, so the components and the loop's counts are added there, and each
rollout's go to a file, a few of them to a table in W&B.
"""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from star_rl.files import write_jsonl
from star_rl.integrations.verl import faults
from star_rl.integrations.verl.presence import Presence
from star_rl.integrations.verl.table import log_table

_OF_THE_LOOP = "loop_"  # prefix of the loop's counts among a rollout's scores
#: Counts whose sum over a step is logged too, beside the mean.
_SUMMED = ("loop_tool_calls", "loop_tool_calls_ok", "loop_unparsable_calls", "loop_own_seconds")


class StrictReplayBuffer(ReplayBuffer):
    """verl's synchronous replay buffer with the three additions above.

    ``sampler_kwargs``: ``poll_interval`` (seconds), ``details_dir`` (where ``<step>.jsonl`` with one line a rollout
    goes), ``max_faults`` (share of a step's rollouts that may be faulted, 0 to 1).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = kwargs.get("sampler_kwargs") or {}
        if options.get("poll_interval") is not None:
            kwargs["poll_interval"] = float(options["poll_interval"])
        self._details_dir = options.get("details_dir")
        self._max_faults = float(options.get("max_faults", faults.MOST))
        self._presence = Presence()
        self._presence.watch()
        super().__init__(*args, **kwargs)

    def _sync_metadata_from_transfer_queue(self) -> None:
        """Refresh the state of all groups.

        Raises:
            RuntimeError: a rollout raised, or a node or a process that is needed for them is gone.
        """
        self._presence.check()
        super()._sync_metadata_from_transfer_queue()
        failed = [uid for uids in self.failure_keys.values() for uid in uids]
        if failed:
            raise RuntimeError(f"a rollout of group {failed[0]} raised: see 'Error in _run_prompt' in the log")

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """As verl's without faulted rollouts, with reward components and counts among the metrics.

        Raises:
            RuntimeError: too many rollouts are faulted.
        """
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        if partition_id == "train":
            details = self._details(batch)
            if self._details_dir:
                write_jsonl(Path(self._details_dir) / f"{global_steps}.jsonl", details)
            log_table(details, global_steps)
            metrics["rollout/faults/share"] = faults.check(details, self._max_faults)
            gone = faults.left_out(details)
            metrics.update(summary(details, gone))
            batch = self._without(batch, gone)
        return batch, metrics

    @staticmethod
    def _without(batch: KVBatchMeta, gone: Container[tuple[str, int]]) -> KVBatchMeta:
        """The batch without these (group, sample), which leave the store as well."""
        kept = [_place(key) not in gone for key in batch.keys]
        if all(kept):
            return batch
        tq.kv_clear(partition_id=batch.partition_id, keys=[*compress(batch.keys, map(operator.not_, kept))])
        keys, tags = [*compress(batch.keys, kept)], [*compress(batch.tags, kept)]
        return KVBatchMeta(partition_id=batch.partition_id, keys=keys, tags=tags)

    @staticmethod
    def _details(batch: KVBatchMeta) -> list[dict[str, Any]]:
        """One mapping a rollout: group, sample, task, scores and counts, the model's text."""
        keys = [key for key in batch.keys if key.count("_") >= 2]
        stored = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
        rows = []
        for key, entry in zip(keys, stored["extra_fields"], strict=True):
            fields = getattr(entry, "data", entry)
            group, sample = _place(key)
            scores = fields.get("reward_extra_info", {})
            rows.append(
                {
                    "group": group,
                    "sample": sample,
                    "task_id": fields.get("task_id"),
                    "stop": fields.get("stop"),
                    "error": fields.get("error", ""),
                    "scores": {name: float(value) for name, value in scores.items()},
                    "messages": fields.get("messages", []),
                }
            )
        return sorted(rows, key=lambda row: (row["group"], row["sample"]))


def _place(key: str) -> tuple[str, int]:
    """(group, sample) of a trajectory's key, ``<uid>_<session>_<index>``."""
    group, sample, _ = key.rsplit("_", 2)
    return group, int(sample)


def summary(details: Sequence[Mapping[str, Any]], gone: Container[tuple[str, int]] = frozenset()) -> dict[str, float]:
    """Metrics of one step from its rollouts: means, some sums, and how much signal the groups hold.

    ``rollout/<count>/mean`` and ``/sum`` over all rollouts. Over those that are trained on, as verl's own
    ``critic/score/mean``: ``reward/<component>/mean``; ``groups/without_signal``, the share of groups whose samples all
    score the same; ``groups/successes/<k>``, the share with k samples of ``acc`` 1.

    Args:
        details: the rollouts.
        gone: (group, sample) of those that are not trained on.
    """
    if not details:
        return {}
    columns: dict[str, list[float]] = defaultdict(list)
    groups: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    for row in details:
        trained = (row["group"], row["sample"]) not in gone
        if trained:
            groups[row["group"]].append(row["scores"])
        for name, value in row["scores"].items():
            if trained or name.startswith(_OF_THE_LOOP):
                columns[name].append(value)
    out: dict[str, float] = {}
    for name, values in columns.items():
        own = name.startswith(_OF_THE_LOOP)
        place = f"rollout/{name.removeprefix(_OF_THE_LOOP)}" if own else f"reward/{name}"
        out[f"{place}/mean"] = _mean(values)
        if name in _SUMMED:
            out[f"{place}/sum"] = sum(values)
    # verl's scores have single precision: what is the same there gives no advantage
    out["groups/without_signal"] = _mean(
        len({np.float32(scores["score"]) for scores in group}) == 1 for group in groups.values()
    )
    if "acc" in columns:
        wins = [round(sum(scores["acc"] for scores in group)) for group in groups.values()]
        for number in range(max(Counter(row["group"] for row in details).values()) + 1):
            out[f"groups/successes/{number}"] = _mean(count == number for count in wins)
    return out


def _mean(values: Iterable[float]) -> float:
    kept = [float(value) for value in values]
    return sum(kept) / len(kept)
