"""The outcome filter: of the teacher's runs, those whose first is the truth (paper, section 4.1)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from star_rl.errors import StarError
from star_rl.files import atomic_open, write_json
from star_rl.mars.record import Run, read_runs, to_json
from star_rl.trajectory import CRITICAL, faults, render

Keep = Literal["top1", "ranked"]


def required_phases(run: Run) -> tuple[str, ...]:
    """The phases that a run of its configuration has to have."""
    team = run.configuration["team"]
    return tuple(tag for tag in CRITICAL if team.get({"plan": "planner", "reflection": "reflector"}.get(tag, ""), True))


def reason_against(run: Run, keep: Keep = "top1") -> str:
    """Why a run is no training sample; empty where it is one.

    ``failed_<kind>``, ``miss`` (the truth is not first), ``malformed`` (the grammar finds a fault), ``not_identical``
    (text to trajectory to text is not the same text).
    """
    if run.failure:
        return f"failed_{run.failure.kind}"
    if keep == "top1" and not run.hit:
        return "miss"
    trajectory = run.trajectory
    if faults(trajectory, required_phases(run), own_text=False):
        return "malformed"
    return "" if render(trajectory) == run.text else "not_identical"


def filter_runs(runs: str | Path | Iterable[str | Path], out: str | Path, keep: Keep = "top1") -> dict[str, Any]:
    """Write the runs that pass to ``out`` (JSON lines) and what became of the rest to ``<out>.audit.json``.

    Args:
        runs: files or folders that :func:`star_rl.mars.teach` wrote.
        out: file to write.
        keep: ``top1``, or ``ranked`` for every well-formed run whatever its rank.

    Returns:
        The audit: ``read``, ``kept``, ``dropped`` by reason, and the teacher's quality over all its runs and by
            scenario.

    Raises:
        StarError: no runs, or ``keep`` is unknown.
    """
    if keep not in ("top1", "ranked"):
        raise StarError(f"unknown filter {keep!r}", "choose top1 or ranked")
    dropped: Counter[str] = Counter()
    kept = 0
    ranks: dict[str, list[int]] = {}
    with atomic_open(out) as handle:
        for run in read_runs(runs):
            ranks.setdefault(f"{run.task.source}/{run.task.scenario}", []).append(0 if run.failure else run.rank)
            reason = reason_against(run, keep)
            if reason:
                dropped[reason] += 1
                continue
            handle.write(json.dumps(to_json(run), ensure_ascii=False) + "\n")
            kept += 1
    everything = [rank for group in ranks.values() for rank in group]
    audit = {
        "filter": keep,
        "read": len(everything),
        "kept": kept,
        "dropped": dict(sorted(dropped.items())),
        "teacher": {
            "overall": hit_rates(everything),
            **{name: hit_rates(group) for name, group in sorted(ranks.items())},
        },
    }
    write_json(Path(f"{out}.audit.json"), audit)
    return audit


def hit_rates(ranks: Iterable[int]) -> dict[str, float]:
    """n, HR@1, HR@3, HR@5 and their mean of 1-based ranks, as shares; 0 counts as a miss."""
    listed = list(ranks)
    rates = {f"hr{k}": sum(0 < rank <= k for rank in listed) / max(len(listed), 1) for k in (1, 3, 5)}
    return {
        "n": len(listed),
        **{name: round(rate, 4) for name, rate in rates.items()},
        "hr_avg": round(sum(rates.values()) / 3, 4),
    }
