"""Run the teacher over many tasks, several passes each; after a kill the next call resumes.

A run is one pass over one task and one line of the file; a line cut short by a kill is dropped. The model calls of an
interrupted run are not paid again: the chat client's response cache holds their replies.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from star_rl import locks
from star_rl.errors import StarError
from star_rl.files import atomic_open, fingerprint, read_json, write_json, writing_error
from star_rl.mars.case import Case
from star_rl.mars.record import FORMAT, Run, from_json, run_id, run_of, to_json
from star_rl.mars.team import Team
from star_rl.records import Task

RUNS, TEACHER = "runs.jsonl", "teacher.json"

#: Stop after this many runs in a row that the endpoint failed.
_OUTAGE = 24


class Progress(Protocol):
    """Called after each run: how many are done, of how many, and a few words."""

    def __call__(self, done: float, total: float | None = None, note: str = "") -> None: ...


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

    def add(self, run: Run) -> None:
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
    with _opened(target, identity, tasks) as (handle, done):
        account = Account(total=len(tasks) * passes)
        wanted = {run_id(task.task_id, sample) for task in tasks for sample in range(passes)}
        account.found = len(wanted & done)
        queue = iter([(t, s) for s in range(passes) for t in tasks if run_id(t.task_id, s) not in done])
        await _Workers(team, case_of, identity, handle, account, queue, began, progress, spent).run(concurrency)
        account.seconds, account.cost = time.monotonic() - began, spent()
    return account


@dataclass(slots=True)
class _Workers:
    team: Team
    case_of: Callable[[Task], Case]
    identity: Mapping[str, Any]
    handle: IO[str]
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

    def _write(self, run: Run) -> None:
        try:
            self.handle.write(json.dumps(to_json(run), ensure_ascii=False) + "\n")
            self.handle.flush()
        except OSError as error:
            raise writing_error(Path(self.handle.name), error) from error
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
def _opened(folder: Path, identity: Mapping[str, Any], tasks: Iterable[Task]) -> Iterator[tuple[IO[str], set[str]]]:
    """Lock the folder; yield the file of runs, open for appending, and the ids of the runs in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_error(folder, error) from error
    with locks.hold(
        folder / ".lock", f"another process is teaching into {folder}", "wait for it, or choose another folder"
    ):
        _same_identity(folder, identity)
        done = _standing(folder / RUNS, tasks)
        with open(folder / RUNS, "a", encoding="utf-8") as handle:
            yield handle, done
            handle.flush()
            os.fsync(handle.fileno())


def _same_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    path = folder / TEACHER
    if not path.exists():
        if (folder / RUNS).exists() and (folder / RUNS).stat().st_size:
            raise StarError(f"{folder} holds runs but no {TEACHER}", "choose another folder")
        write_json(path, identity)
        return
    before, now = _flat(read_json(path)), _flat(json.loads(json.dumps(identity, default=str)))
    changed = [
        f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise StarError(
            f"{folder} holds runs of another teacher; changed: {'; '.join(changed[:4])}{more}",
            "undo the change, or teach into another folder",
        )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, entry in value.items():
            found.update(_flat(entry, f"{path}.{key}" if path else str(key)))
        return found
    return {path: value}


def _standing(path: Path, tasks: Iterable[Task]) -> set[str]:
    """Return the ids of the runs on disk; first drop a cut line and the runs that the endpoint failed."""
    if not path.exists():
        return set()
    known = {task.task_id: task for task in tasks}
    done: set[str] = set()
    dropped: set[int] = set()
    with open(path, encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            run = _run_in(line, path, number)
            if run is None or _endpoint_failed(run) or run.id in done:
                dropped.add(number)
                continue
            task = known.get(run.task.task_id)
            if task is not None and task != run.task:
                raise StarError(
                    f"task {task.task_id} is another task in {path} (fingerprints {_print(run.task)}, {_print(task)})",
                    "teach into another folder",
                )
            done.add(run.id)
    if dropped:
        with atomic_open(path) as target, open(path, encoding="utf-8") as handle:
            target.writelines(line for number, line in enumerate(handle, 1) if number not in dropped)
    return done


def _endpoint_failed(run: Run) -> bool:
    return run.failure is not None and run.failure.kind == "endpoint"


def _run_in(line: str, path: Path, number: int) -> Run | None:
    """Return the run in a line; None if a kill cut it short."""
    if not line.endswith("\n"):
        return None
    try:
        return from_json(json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise StarError(f"{path}, line {number} is not a run ({error})", "teach into another folder") from error


def _print(task: Task) -> str:
    return fingerprint([task.user_id, task.candidates, task.ground_truth, task.cutoff, task.source, task.scenario])
