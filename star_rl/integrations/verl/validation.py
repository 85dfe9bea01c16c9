"""Validations of a training: their rollouts, the best checkpoint by them, and the early stop.

The replay buffer writes ``validation/<step>.jsonl``, one line a rollout. A step's value is the mean HR_avg over its
tasks, or HR@1 for a reward without ``hr_avg``. Of equal values the earlier step is better.
"""

from __future__ import annotations

import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

from star_rl.files import read_jsonl

_NAMES = {"hr_avg": "HR_avg", "acc": "HR@1"}


class Validated(NamedTuple):
    """A step's mean with its 95 % bootstrap interval, a share of 1, and the name of the metric."""

    step: int
    metric: str
    mean: float
    low: float
    high: float

    @property
    def text(self) -> str:
        mean, low, high = (100 * value for value in (self.mean, self.low, self.high))
        return f"{self.metric} {mean:.1f} % ({low:.1f} to {high:.1f}) at step {self.step}"


def validations(folder: Path, last: int | None = None) -> list[Validated]:
    """Return the validations in a folder by step, up to ``last``; of several rollouts of a task their mean counts."""
    from star_rl.evaluation.metrics import bootstrap

    found = []
    for step, file in sorted((int(file.stem), file) for file in folder.glob("*.jsonl")):
        if last is not None and step > last:
            break
        tasks: dict[str, list[float]] = {}
        name = "acc"
        for row in read_jsonl(file):
            name = "hr_avg" if "hr_avg" in row["scores"] else "acc"
            tasks.setdefault(row["task_id"], []).append(row["scores"][name])
        (interval,) = bootstrap([sum(values) / len(values) for values in tasks.values()])
        found.append(Validated(step, _NAMES[name], *interval))
    return found


def best(found: list[Validated], steps: Container[int] | None = None) -> Validated | None:
    """Return the best validation, of certain ``steps`` if given."""
    among = [one for one in found if steps is None or one.step in steps]
    return max(among, key=lambda one: (one.mean, -one.step), default=None)


def stalled(found: list[Validated], patience: int) -> bool:
    """Return whether the last ``patience`` validations brought no gain; False for 0."""
    top = best(found)
    return top is not None and sum(one.step > top.step for one in found) >= patience > 0


def thin(folders: dict[int, Path], newest: int | None, found: list[Validated]) -> None:
    """Delete all checkpoints but the ``newest`` and the best.

    Args:
        folders: step -> folder of each checkpoint.
        newest: how many; None keeps all.
    """
    top = best(found, folders)
    for step in sorted(folders)[: -newest if newest else 0]:
        if top is None or step != top.step:
            shutil.rmtree(folders[step])


def kept(tree: dict[str, Any]) -> None:
    """Let a configuration for verl validate whenever it saves, unless it says when, if a checkpoint is chosen by that.

    verl deletes the oldest checkpoint, which may be the best: with ``keep: best`` the replay buffer deletes instead.
    """
    trainer = tree["trainer"]
    options = trainer["v1"]["sampler"]["sampler_kwargs"]
    if (options["+keep"] == "best" or options["+patience"]) and trainer["test_freq"] < 1:
        trainer["test_freq"] = trainer.get("save_freq", -1)
    if options["+keep"] == "best":
        options["+max_checkpoints"] = trainer.get("max_actor_ckpt_to_keep")
        trainer |= {"max_actor_ckpt_to_keep": None, "max_critic_ckpt_to_keep": None}
