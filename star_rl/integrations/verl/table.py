"""Log a small table of rollouts per step to W&B.

verl logs such a table for validation only (``trainer.log_val_generations``), and its loggers take only numbers, so the
table goes to the W&B run that verl started in this process.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

#: Groups of a step that are shown, each with its best and its worst rollout.
GROUPS = 4
#: Characters of a rollout that are shown.
LONGEST = 6000
NUMBERS = ("score", "acc", "format", "rank", "tool_calls", "invalid_calls", "loop_response_tokens")
COLUMNS = ("task", "sample", "stop", *(name.removeprefix("loop_") for name in NUMBERS), "rollout")


def rows(details: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
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
    """Add the table ``rollouts`` to a step of this process's W&B run; return False if there is no run."""
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None or not details:
        return False
    table = wandb.Table(columns=list(COLUMNS), data=rows(details))
    wandb.run.log({"rollouts": table}, step=step, commit=False)  # verl's own numbers of the step complete it
    return True
