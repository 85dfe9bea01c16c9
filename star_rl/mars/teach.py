"""Run the teacher over many tasks, several passes each; a killed run resumes with the missing runs.

A run is one pass over one task, its record one line of a :class:`star_rl.ledger.Ledger`. The replies of a run that was
killed are not paid twice: the chat client's cache holds them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from star_rl import locks
from star_rl.errors import StarError
from star_rl.files import fingerprint, read_json, write_json, writing_error
from star_rl.ledger import Ledger, differences
from star_rl.mars.record import FORMAT, TeacherRun, from_json, run_id, run_of, to_json
from star_rl.mars.team import Team
from star_rl.progress import Progress
from star_rl.prompts import Case
from star_rl.records import Task

RUNS, TEACHER = "runs.jsonl", "teacher.json"

#: Stop after this many runs in a row that the endpoint failed.
_OUTAGE = 24


@dataclass(slots=True)
class Account:
    """Counts of one call of :func:`teach`; ``found`` runs were on disk before it, ``ranked_before`` of them ranked."""

    total: int = 0
    found: int = 0
    ranked_before: int = 0
    ranked: int = 0
    hits: int = 0
    corrected: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    tool_calls: int = 0
    model_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0

    @property
    def done(self) -> int:
        return self.found + self.ranked + self.failed.total()

    def add(self, run: TeacherRun) -> None:
        if run.failure:
            self.failed[run.failure.kind] += 1
            self.reasons[str(run.failure)] += 1
        else:
            self.ranked += 1
            self.hits += run.hit
            self.corrected += run.corrected
        self.tool_calls += run.sum("calls")
        self.model_calls += run.sum("model_calls")
        self.prompt_tokens += run.sum("prompt_tokens")
        self.completion_tokens += run.sum("completion_tokens")

    @property
    def commonest(self) -> str:
        """Return the commonest reason of this call's failed runs; empty if none failed."""
        return next((f"{reason} ({count} x)" for reason, count in self.reasons.most_common(1)), "")

    def check(self) -> None:
        """Check that a run is ranked, in this call or before it.

        Raises:
            StarError: all runs failed; it names the commonest reason.
        """
        if self.reasons and not self.ranked and not self.ranked_before:
            remedy = "use another model or other options, and another folder"
            if self.failed["endpoint"]:
                remedy = "fix the endpoint or its options, then run the same command again"
            raise StarError(f"none of {self.done:,} runs is ranked; the commonest reason: {self.commonest}", remedy)

    def note(self) -> str:
        """Return the progress line's text."""
        parts = [f"hit@1 {self.hits / self.ranked:.0%}" if self.ranked else "", f"failed {self.failed.total()}"]
        if self.seconds > 0:
            parts.append(f"{(self.ranked + self.failed.total()) / self.seconds:.1f}/s")
        if self.prompt_tokens:
            parts.append(f"{(self.prompt_tokens + self.completion_tokens) / 1e6:.2f}M tokens")
        if self.cost:
            parts.append(f"{self.cost:.2f} spent")
        return ", ".join(part for part in parts if part)

    def figures(self) -> dict[str, Any]:
        """Return plain data for a manifest."""
        plain = {name: getattr(self, name) for name in Account.__dataclass_fields__}
        rounded = {"cost": round(self.cost, 4), "seconds": round(self.seconds, 3)}
        return {**plain, "failed": dict(self.failed), "reasons": dict(self.reasons.most_common(8)), **rounded}


def identity_of(
    team: Team, prompts: Mapping[str, Any], model: str = "", store: str = "", summaries: str = ""
) -> dict[str, Any]:
    """Return what makes runs comparable; a folder holds runs of one identity only."""
    configuration = json.loads(json.dumps(team.describe, default=str))
    about = {"prompts": dict(prompts), "model": model, "store": store, "summaries": summaries}
    return {"format": FORMAT, "configuration": configuration, **about}


async def teach(
    tasks: Sequence[Task],
    team: Team,
    case_of: Callable[[Task], Case],
    folder: str | Path,
    identity: Mapping[str, Any],
    passes: int = 1,
    concurrency: int = 16,
    progress: Progress | None = None,
    spent: Callable[[], float] = lambda: 0.0,
) -> Account:
    """Run the teacher over tasks and append one record a run to ``folder/runs.jsonl``.

    Runs that the endpoint failed are run again by the next call; all other records stay.

    Args:
        tasks: distinct task ids.
        case_of: returns the case of a task.
        identity: see :func:`identity_of`.
        passes: runs per task.
        concurrency: runs in flight.
        spent: cost of this call so far, for the progress line and the account.

    Raises:
        StarError: another process writes to the folder; it holds runs of another identity, or of another task with
            the same id; the backend is not ready; the endpoint stopped answering.
    """
    for name, value in (("passes", passes), ("concurrency", concurrency)):
        if value < 1:
            raise StarError(f"{name} is {value}", "give 1 or more")
    twice = [task_id for task_id, count in Counter(task.task_id for task in tasks).items() if count > 1]
    if twice:
        raise StarError(f"task id {twice[0]} is not unique", "give each task its own id")
    await team.backend.ready(team.options.tools)
    if team.planner is not team.backend:
        await team.planner.ready()
    began, in_a_row = time.monotonic(), 0
    wanted = [(task, sample) for sample in range(passes) for task in tasks]
    with _opened(Path(folder), identity, tasks) as (ledger, ranked_before):
        queue = iter([(task, sample) for task, sample in wanted if run_id(task.task_id, sample) not in ledger.done])
        account = Account(total=len(wanted), ranked_before=ranked_before)
        account.found = sum(run_id(task.task_id, sample) in ledger.done for task, sample in wanted)

        async def work() -> None:
            nonlocal in_a_row
            for task, sample in queue:
                run = run_of(task, sample, await team.run(case_of(task), sample, task.ground_truth), identity)
                ledger.append(to_json(run))
                account.add(run)
                account.seconds, account.cost = time.monotonic() - began, spent()
                if progress:
                    progress(account.done, account.total, account.note())
                in_a_row = in_a_row + 1 if _endpoint_failed(run) else 0
                if in_a_row >= _OUTAGE:
                    raise StarError(
                        f"the endpoint failed {in_a_row} runs one after the other ({run.failure})",
                        "fix it and run the same command again: these runs are repeated",
                    )
                await asyncio.sleep(0)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())
        except BaseExceptionGroup as errors:  # the first error stops all workers
            raise errors.exceptions[0] from None
        account.seconds, account.cost = time.monotonic() - began, spent()
    return account


@contextmanager
def _opened(folder: Path, identity: Mapping[str, Any], tasks: Iterable[Task]) -> Iterator[tuple[Ledger, int]]:
    """Yield the locked file of runs and how many are ranked. Runs that the endpoint failed are taken out of it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_error(folder, error) from error
    path, known, ranked = folder / RUNS, {task.task_id: task for task in tasks}, 0

    def stands(row: dict[str, Any]) -> bool:
        try:
            run = from_json(row)
        except (ValueError, KeyError, TypeError) as error:
            raise StarError(f"{path} has an invalid line ({error})", "teach into another folder") from error
        nonlocal ranked
        ranked += run.failure is None
        task = known.get(run.task.task_id, run.task)
        if task != run.task:
            raise StarError(
                f"task {task.task_id} differs in {path} (fingerprints {_print(run.task)}, {_print(task)})",
                "teach into another folder",
            )
        return not _endpoint_failed(run)

    with locks.hold(
        folder / ".lock", f"another process is teaching into {folder}", "wait for it, or choose another folder"
    ):
        _same_identity(folder, identity)
        ledger = Ledger(path, None, lambda row: row["id"], keep=stands)
        try:
            yield ledger, ranked
        finally:
            ledger.close()


def _same_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    path = folder / TEACHER
    if not path.exists():
        if (folder / RUNS).exists() and (folder / RUNS).stat().st_size:
            raise StarError(f"{folder} holds runs but no {TEACHER}", "choose another folder")
        write_json(path, identity)
        return
    changed = differences(read_json(path), json.loads(json.dumps(identity, default=str)))
    if changed:
        raise StarError(
            f"{folder} holds runs of another teacher; changed: {changed}",
            "undo the change, or teach into another folder",
        )


def _endpoint_failed(run: TeacherRun) -> bool:
    return run.failure is not None and run.failure.kind == "endpoint"


def _print(task: Task) -> str:
    return fingerprint(asdict(task))
