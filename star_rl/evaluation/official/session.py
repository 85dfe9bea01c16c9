"""Run the official simulator with our methods in it, and compare its figures with ours."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.evaluation import metrics
from star_rl.evaluation.methods import Method, TaskContext
from star_rl.evaluation.official.bridge import Bridge, SummaryOf, UserOf
from star_rl.evaluation.official.layout import Group
from star_rl.files import read_json, write_json
from star_rl.progress import Progress
from star_rl.records import Item, Task

HERE = Path(__file__).parent
#: Where ``make official`` puts the simulator.
PYTHON = Path(".bench/official/bin/python")
#: Reasons of failure that are named, and characters of each.
_REASONS, _WORDS = 3, 160
_ABSENT = 3  # exit code of runner.py
_THEIRS = {f"hr{k}": f"top_{k}_hit_rate" for k in metrics.CUTS} | {"hr_avg": "average_hit_rate"}


@dataclass(frozen=True, slots=True)
class OfficialScore:
    """One method on one sub-task, by the official evaluator and by ours.

    Attributes:
        n, failed: tasks, and tasks without a ranking (misses for both).
        theirs, ours: ``hr1``, ``hr3``, ``hr5``, ``hr_avg``.
        checked, same: answers over all sub-tasks that were asked for outside of the simulator as well, and how many of
            them were equal; 0 for methods that vary.
        reasons: of failures with their numbers, the most frequent first.
    """

    method: str
    group: str
    n: int
    failed: int
    theirs: dict[str, float]
    ours: dict[str, float]
    checked: int = 0
    same: int = 0
    reasons: list[tuple[str, int]] = field(default_factory=list)

    @property
    def agreed(self) -> bool:
        """Whether the numbers are equal to the last bit."""
        return self.theirs == self.ours


async def simulate(
    methods: Sequence[Method],
    groups: Sequence[Group],
    data: Path,
    out: Path,
    *,
    python: Path,
    known: Sequence[Task] = (),
    items: Mapping[str, Item] | None = None,
    users: UserOf | None = None,
    summaries: SummaryOf | None = None,
    outside: Callable[[Task], TaskContext] | None = None,
    threads: int = 16,
    progress: Progress | None = None,
) -> list[OfficialScore]:
    """Run every method over every sub-task inside the official simulator.

    Leaves in ``out``: ``star_rl_agent.py`` (the submission), ``simulator.log``, and for each method and sub-task
    ``outputs.json`` and ``evaluation.json`` as the simulator made them.

    Args:
        data: folder with ``item.json``, ``user.json`` and ``review.json``.
        python: interpreter that has ``websocietysimulator``.
        threads: tasks that the simulator works on at once.
        progress: called after each answer.

    Raises:
        StarError: two methods share a name, the package is absent, the simulator ended with an error, or a method
            cannot work at all.
    """
    names = [method.name for method in methods]
    if len(set(names)) != len(names):
        raise StarError(f"two methods are called {max(names, key=names.count)!r}", "give one of them name=..")
    out.mkdir(parents=True, exist_ok=True)
    agent = out / "star_rl_agent.py"
    shutil.copyfile(HERE / "submission.py", agent)
    places = {(name, group.name): out / _slug(name) / _slug(group.name) for name in names for group in groups}
    async with Bridge(dict(zip(names, methods, strict=True)), known, items, users, outside, summaries) as bridge:
        if progress is not None:
            bridge.heard = _counter(progress, len(names) * sum(len(group.truths) for group in groups))
        job = {
            "data": str(data.resolve()),
            "bridge": bridge.address,
            "threads": threads,
            "agent": str(agent.resolve()),
            "runs": [
                {
                    "method": name,
                    "tasks": str(group.tasks.resolve()),
                    "groundtruth": str(group.groundtruth.resolve()),
                    "out": str(places[name, group.name].resolve()),
                }
                for name in names
                for group in groups
            ],
        }
        write_json(out / "job.json", job)
        code, words = await _run(python, out)
        if bridge.fault is not None:
            raise bridge.fault
        if code == _ABSENT:
            raise StarError(f"{python} has no websocietysimulator", "make official installs it in .bench/official")
        if code:
            raise StarError(f"the simulator ended with {code}: {words}", f"see {out / 'simulator.log'}")
        return [
            read_score(name, group, places[name, group.name], bridge.checked[name], bridge.same[name])
            for name in names
            for group in groups
        ]


def _counter(progress: Progress, total: int) -> Callable[[str, bool], None]:
    """Return a listener that counts all answers and each method's failures."""
    done, failed = 0, Counter[str]()

    def heard(name: str, missed: bool) -> None:
        nonlocal done
        done, failed[name] = done + 1, failed[name] + missed
        progress(done, total, name + (f", {failed[name]:,} failed" if failed[name] else ""))

    return heard


async def _run(python: Path, out: Path) -> tuple[int, str]:
    """Return the exit code of the simulator and the last line it wrote."""
    # The interpreter is another one: what leads it to this one's packages stays here.
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    log = out / "simulator.log"
    with open(log, "wb") as handle:
        try:
            process = await asyncio.create_subprocess_exec(
                str(python), str(HERE / "runner.py"), str(out / "job.json"), stdout=handle, stderr=handle,
                stdin=asyncio.subprocess.DEVNULL, env=surroundings,
            )  # fmt: skip
        except OSError as error:
            raise StarError(f"{python} does not start ({error})", "make official makes .bench/official") from None
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return code, lines[-1][:300] if lines else "no words"


def read_score(name: str, group: Group, folder: Path, checked: int = 0, same: int = 0) -> OfficialScore:
    """Read what the simulator left, and score its outputs again with our own metrics."""
    outputs = read_json(folder / "outputs.json")
    predictions = [prediction_of(output) for output in outputs]
    found = metrics.ranks(predictions, group.truths)
    given = read_json(folder / "evaluation.json")["metrics"]
    theirs = {ours: given[name] for ours, name in _THEIRS.items()}
    failed = int((found == metrics.FAILED).sum())
    told = [str(output["error"]) for output in outputs if isinstance(output, dict) and "error" in output]
    reasons = Counter(" ".join(words.split())[:_WORDS] for words in told).most_common(_REASONS)
    return OfficialScore(
        name, group.name, len(outputs), failed, theirs, metrics.official(found), checked, same, reasons
    )


def prediction_of(output: Any) -> Any:
    """Return one of the simulator's outputs as a prediction; ``None`` for an error."""
    return output.get("output") if isinstance(output, dict) and "error" not in output else None


def table(rows: Sequence[OfficialScore]) -> str:
    """Return a table of the official figures in percent, and whether ours are equal."""
    head = f"{'method':<28} {'sub-task':<24} {'n':>5} {'failed':>6} {'HR@1':>6} {'HR@3':>6} {'HR@5':>6} {'HR_avg':>6}"
    lines = [f"{head}  ours    outside"]
    for row in rows:
        figures = " ".join(f"{100 * row.theirs[name]:>6.2f}" for name in _THEIRS)
        outside = f"{row.same}/{row.checked} alike" if row.checked else "-"
        equal = "equal" if row.agreed else f"DIFFER {row.ours}"
        lines.append(f"{row.method:<28} {row.group:<24} {row.n:>5} {row.failed:>6} {figures}  {equal:<7} {outside}")
    for row in rows:
        lines += [f"{row.method}, {row.group}: {count:,} x failed ({words})" for words, count in row.reasons]
    return "\n".join(lines)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name).strip(".") or "_"
