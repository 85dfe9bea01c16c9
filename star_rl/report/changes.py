"""What changed between two evaluations of the same tasks: the paired difference of each method that both hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from star_rl.evaluation.compare import Evaluation
from star_rl.evaluation.metrics import Difference
from star_rl.records import Task
from star_rl.report.findings import Findings, difference, key_of
from star_rl.report.tables import DASH, markdown_text


@dataclass(slots=True)
class Change:
    """One method, from one evaluation to another.

    Attributes:
        before, after: the evaluations.
        n: tasks that both judged.
        difference: after minus before, HR_avg in percentage points.
        gained, lost: places (in the findings' tasks) of the tasks whose HR_avg rose or fell, the largest change first.
        values: HR_avg before and after of each of these tasks, in percent.
    """

    method: str
    before: Evaluation
    after: Evaluation
    n: int
    difference: Difference
    gained: list[int]
    lost: list[int]
    values: dict[int, tuple[float, float]]


def changes(found: Findings) -> list[Change]:
    """From the first evaluation to each later one that holds the same tasks, wholly or in part."""
    first, *later = found.compared.folders
    made = []
    for other in later:
        for name in first.names:
            if name in other.names and (one := _change(found, name, first, other)) is not None:
                made.append(one)
    return made


def _change(found: Findings, name: str, before: Evaluation, after: Evaluation) -> Change | None:
    old, new = _values(found, before, name), _values(found, after, name)
    places = {key_of(task): place for place, task in enumerate(found.tasks)}
    both = [(places[key], value, new[key]) for key, value in old.items() if key in new]
    if not both:
        return None
    both.sort()
    order, a, b = (np.array(column) for column in zip(*both, strict=True))
    gain = b - a
    largest = np.argsort(-np.abs(gain), kind="stable")
    return Change(
        name,
        before,
        after,
        len(both),
        difference(b, a),
        [int(order[k]) for k in largest if gain[k] > 1e-12],
        [int(order[k]) for k in largest if gain[k] < -1e-12],
        {int(order[k]): (100 * float(a[k]), 100 * float(b[k])) for k in largest if abs(gain[k]) > 1e-12},
    )


def _values(found: Findings, judged: Evaluation, name: str) -> dict[tuple[str, str, str], float]:
    """HR_avg by task that was asked, a share."""
    values = found.scores[judged.label, name]
    return {key_of(task): float(value) for task, value in zip(judged.tasks, values, strict=True) if value == value}


def markdown(made: Sequence[Change]) -> str:
    """A row a method: the paired difference, and how many tasks rose and fell."""
    if not made:
        return ""
    lines = [
        "| method | from | to | n | difference [95 %] | tasks gained | tasks lost |",
        "| --- " * 3 + "| ---: " * 4 + "|",
    ]
    for one in made:
        d = one.difference
        names = (markdown_text(text) for text in (one.method, one.before.label, one.after.label))
        shown = f"{d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}]" if one.values else f"0.0 {DASH} the same"
        lines.append(f"| {' | '.join(names)} | {one.n} | {shown} | {len(one.gained)} | {len(one.lost)} |")
    return "**What changed, HR_avg in percentage points**\n\n" + "\n".join(lines) + "\n"


def data(made: Sequence[Change], tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """As plain data, the tasks by their ids."""
    return [
        {
            "method": one.method,
            "from": one.before.label,
            "to": one.after.label,
            "n": one.n,
            **one.difference._asdict(),
            "gained": [tasks[place].task_id for place in one.gained],
            "lost": [tasks[place].task_id for place in one.lost],
        }
        for one in made
    ]
