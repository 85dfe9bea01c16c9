"""Score the stored rollouts of GRPO with another reward, and compare the order inside their groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau, rankdata

from star_rl.errors import StarError
from star_rl.files import read_jsonl
from star_rl.policy.rollout_stats import FAILED
from star_rl.trajectory.answers import answers_of

_LOOP = "loop_"


@dataclass(frozen=True, slots=True)
class Rescored:
    """A rollout under two rewards; a place is its position in its group from 1, of equal scores their mean."""

    step: int
    group: str
    task_id: str
    sample: int
    old: float
    new: float
    old_place: float = 0.0
    new_place: float = 0.0

    @property
    def moved(self) -> float:
        """Return by how many places the new reward raises it."""
        return self.old_place - self.new_place


def rescore(run: Path, reward: Callable[..., Mapping[str, float]]) -> list[Rescored]:
    """Return all rollouts of a run's GRPO under the stored score and under ``reward``, failed ones left out.

    Raises:
        StarError: the run has no stored rollouts, or one belongs to no row of its GRPO set.
    """
    from pyarrow.parquet import read_table

    files = sorted((run / "grpo" / "details").glob("*.jsonl"), key=lambda file: int(file.stem))
    rows = run / "grpo_set" / "train.parquet"
    if not files or not rows.is_file():
        raise StarError(f"{run} has no rollouts of GRPO", "name a run whose stage grpo has taken a step")
    by_task = {row["extra_info"]["task_id"]: row for row in read_table(rows).to_pylist()}
    found = []
    for file in files:
        groups: dict[str, list[Rescored]] = defaultdict(list)
        for entry in read_jsonl(file):
            if entry["stop"] not in FAILED:
                score = reward(**_arguments(entry, by_task, file))["score"]
                where = (int(file.stem), entry["group"], entry["task_id"], entry["sample"])
                groups[entry["group"]].append(Rescored(*where, entry["scores"]["score"], float(score)))
        found += [one for group in groups.values() if len(group) > 1 for one in _placed(group)]
    return found


def _arguments(entry: Mapping[str, Any], by_task: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return what the policy loop gave the reward (:mod:`star_rl.policy.agent_loop`)."""
    row = by_task.get(entry["task_id"])
    if row is None:
        raise StarError(
            f"{file} has a rollout of task {entry['task_id']}, which is not in the run's GRPO set",
            "the set was made again since: run stage grpo again",
        )
    said, counts = entry["messages"], entry["scores"]
    rollout = {name.removeprefix(_LOOP): value for name, value in counts.items() if name.startswith(_LOOP)}
    return {
        "data_source": row["data_source"],
        "solution_str": "\n".join(message["content"] for message in said if message["role"] == "assistant"),
        "ground_truth": row["reward_model"]["ground_truth"],
        "extra_info": {**row["extra_info"], "rollout": rollout, "answers": answers_of(said)},
    }


def _placed(group: Sequence[Rescored]) -> Iterator[Rescored]:
    places = (rankdata([-np.float32(value) for value in column]) for column in _columns(group))
    for one, old, new in zip(group, *places, strict=True):
        yield Rescored(one.step, one.group, one.task_id, one.sample, one.old, one.new, float(old), float(new))


def _columns(rows: Sequence[Rescored]) -> tuple[list[float], list[float]]:
    return [one.old for one in rows], [one.new for one in rows]


def table(rows: Sequence[Rescored], old: str, new: str, top: int = 10) -> str:
    """Return means, groups with signal, Kendall's tau within groups, and the ``top`` rollouts that move most."""
    groups: dict[str, list[Rescored]] = defaultdict(list)
    for one in rows:
        groups[one.group].append(one)
    # verl's scores have single precision: equal ones give no advantage
    signal = [[len(set(map(np.float32, column))) > 1 for column in _columns(group)] for group in groups.values()]
    both = [group for group, has in zip(groups.values(), signal, strict=True) if all(has)]
    taus = [float(kendalltau(*_columns(group)).statistic) for group in both]
    means, shares = np.mean([_columns(rows)], axis=2)[0], np.mean(signal, axis=0)
    wide = max(len(old), len(new), 6) + 2
    lines = [
        f"{len(rows):,} rollouts in {len(groups):,} groups, {len({one.step for one in rows})} steps",
        f"{'':<28}{old:>{wide}}{new:>{wide}}",
        f"{'mean score':<28}{means[0]:>{wide}.3f}{means[1]:>{wide}.3f}",
        f"{'groups with signal, %':<28}{100 * shares[0]:>{wide}.1f}{100 * shares[1]:>{wide}.1f}",
        f"Kendall's tau within groups: {_taus(taus)}",
    ]
    moving = sorted((one for one in rows if one.moved), key=lambda one: (-abs(one.moved), one.step, one.group))[:top]
    if moving:
        lines.append(f"{'step':>5}  {'task':<20} {'sample':>6} {old:>{wide}}{new:>{wide}}  place in its group")
    for one in moving:
        lines.append(
            f"{one.step:>5}  {one.task_id:<20} {one.sample:>6} {one.old:>{wide}.3f}{one.new:>{wide}.3f}  "
            f"{one.old_place:g} -> {one.new_place:g}"
        )
    return "\n".join(lines)


def _taus(taus: Sequence[float]) -> str:
    if not taus:
        return "no group has signal under both rewards"
    same, turned = sum(tau > 1 - 1e-9 for tau in taus), sum(tau < 0 for tau in taus)
    return (
        f"mean {np.mean(taus):.2f} over {len(taus):,} groups with signal under both, {same:,} in the same order, "
        f"{turned:,} rather turned round"
    )
