"""Run the teacher over many tasks, several passes each; a killed run resumes with what is missing.

A run is one pass over one task, its record one line of a :class:`star_rl.ledger.Ledger`. What was paid for inside a run
that a kill interrupted is not paid again: the chat client's response cache answers the same requests.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    """Counts of one call of :func:`teach`; ``found`` runs were on disk before it."""

    total: int = 0
    found: int = 0
    ranked: int = 0
    hits: int = 0
    corrected: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    tool_calls: int = 0
    model_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0

    @property
    def done(self) -> int:
        return self.found + self.ranked + sum(self.failed.values())

    def add(self, run: TeacherRun) -> None:
        if run.failure:
            self.failed[run.failure.kind] += 1
        else:
            self.ranked += 1
            self.hits += run.hit
            self.corrected += run.corrected
        for step in run.steps:
            self.tool_calls += step["calls"]
            self.model_calls += step["model_calls"]
            self.prompt_tokens += step["prompt_tokens"]
            self.completion_tokens += step["completion_tokens"]

    def note(self) -> str:
        ended = self.ranked + sum(self.failed.values())
        parts = [f"hit@1 {self.hits / self.ranked:.0%}" if self.ranked else "", f"failed {sum(self.failed.values())}"]
        if self.seconds > 0:
            parts.append(f"{ended / self.seconds:.1f}/s")
        if self.prompt_tokens:
            parts.append(f"{(self.prompt_tokens + self.completion_tokens) / 1e6:.2f}M tokens")
        if self.cost:
            parts.append(f"{self.cost:.2f} spent")
        return ", ".join(part for part in parts if part)

    def figures(self) -> dict[str, Any]:
        """Return plain data for a manifest."""
        names = ("total", "found", "ranked", "hits", "corrected", "tool_calls", "model_calls")
        plain: dict[str, Any] = {name: getattr(self, name) for name in (*names, "prompt_tokens", "completion_tokens")}
        return {**plain, "failed": dict(self.failed), "cost": round(self.cost, 4), "seconds": round(self.seconds, 3)}


def identity_of(team: Team, prompts: Mapping[str, Any], model: str = "", store: str = "") -> dict[str, Any]:
    """Return what makes runs comparable; a folder holds runs of one identity only."""
    configuration = json.loads(json.dumps(team.describe, default=str))
    return {
        "format": FORMAT,
        "configuration": configuration,
        "prompts": dict(prompts),
        "model": model,
        "store": store,
    }


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
    await asyncio.gather(team.backend.ready(), team.planner.ready())
    target = Path(folder)
    began = time.monotonic()
    with _opened(target, identity, tasks) as ledger:
        account = Account(total=len(tasks) * passes)
        wanted = {run_id(task.task_id, sample) for task in tasks for sample in range(passes)}
        account.found = len(wanted & ledger.done)
        queue = iter([(t, s) for s in range(passes) for t in tasks if run_id(t.task_id, s) not in ledger.done])
        await _Workers(team, case_of, identity, ledger, account, queue, began, progress, spent).run(concurrency)
        account.seconds, account.cost = time.monotonic() - began, spent()
    return account


@dataclass(slots=True)
class _Workers:
    team: Team
    case_of: Callable[[Task], Case]
    identity: Mapping[str, Any]
    ledger: Ledger
    account: Account
    queue: Iterator[tuple[Task, int]]
    began: float
    progress: Progress | None
    spent: Callable[[], float]
    failed_in_a_row: int = 0

    async def run(self, concurrency: int) -> None:
        """Share one queue among workers; the first error stops all."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(self._work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _work(self) -> None:
        for task, sample in self.queue:
            outcome = await self.team.run(self.case_of(task), sample)
            self._write(run_of(task, sample, outcome, self.identity))
            await asyncio.sleep(0)

    def _write(self, run: TeacherRun) -> None:
        self.ledger.append(to_json(run))
        account = self.account
        account.add(run)
        account.seconds, account.cost = time.monotonic() - self.began, self.spent()
        if self.progress:
            self.progress(account.done, account.total, account.note())
        self.failed_in_a_row = self.failed_in_a_row + 1 if _endpoint_failed(run) else 0
        if self.failed_in_a_row >= _OUTAGE:
            raise StarError(
                f"the endpoint failed {self.failed_in_a_row} runs one after the other ({run.failure})",
                "fix it and run the same command again: these runs are repeated",
            )


@contextmanager
def _opened(folder: Path, identity: Mapping[str, Any], tasks: Iterable[Task]) -> Iterator[Ledger]:
    """Yield the locked file of runs. Runs that the endpoint failed are taken out of it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_error(folder, error) from error
    path, known = folder / RUNS, {task.task_id: task for task in tasks}

    def stands(row: dict[str, Any]) -> bool:
        try:
            run = from_json(row)
        except (ValueError, KeyError, TypeError) as error:
            raise StarError(f"{path} has a line that is no run ({error})", "teach into another folder") from error
        task = known.get(run.task.task_id, run.task)
        if task != run.task:
            raise StarError(
                f"task {task.task_id} reads differently in {path} (fingerprints {_print(run.task)}, {_print(task)})",
                "teach into another folder",
            )
        return not _endpoint_failed(run)

    with locks.hold(
        folder / ".lock", f"another process is teaching into {folder}", "wait for it, or choose another folder"
    ):
        _same_identity(folder, identity)
        ledger = Ledger(path, None, lambda row: row["id"], keep=stands)
        try:
            yield ledger
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
    return fingerprint([task.user_id, task.candidates, task.ground_truth, task.cutoff, task.source, task.scenario])
