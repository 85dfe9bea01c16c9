"""Let methods answer tasks; every answer is kept as it comes, so that nothing is asked twice.

A folder of answers has a ledger for each method, ``answers/<method>.jsonl`` (:mod:`star_rl.ledger`). Sealed, they
become the table of :mod:`star_rl.evaluation.results`.

A method that raises, takes too long or returns no list has failed on that task: a miss that stays in the denominator,
with the reason beside it (websocietysimulator 1.0.0a30 gives a task 300 s). An unavailable endpoint is not the method's
fault: such an answer is a miss until the next call asks again, and several of them in a row end the work and are not
kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from star_rl.deadline import reason
from star_rl.errors import StarError
from star_rl.evaluation.methods.base import Method, Ranking, TaskContext, as_ranking
from star_rl.evaluation.metrics import is_valid
from star_rl.evaluation.results import Answer, foreign
from star_rl.evaluation.tasks import digest, digest_of
from star_rl.failure import Failure
from star_rl.files import fingerprint
from star_rl.ledger import Ledger, Row, read_head, read_rows
from star_rl.progress import Progress
from star_rl.records import Task
from star_rl.run import Run

#: Seconds that the official simulator gives a task.
TIMEOUT = 300.0
#: Answers in a row that an endpoint failed before the work ends.
OUTAGE = 10
_COLUMNS = ("well_formed", "tool_calls", "calls", "tokens_in", "seconds", "tool_seconds", "confidence")

#: Makes what a method sees of a task: ``(task, sample) -> context``.
ContextOf = Callable[[Task, int], TaskContext]


def context_of(run: Run) -> ContextOf:
    """Return what methods see of the tasks of a run. Histories also end before the first contact with the truth."""
    by_id: dict[str, tuple[Any, ...]] = {}

    def context(task: Task, sample: int) -> TaskContext:
        if task.task_id not in by_id:
            history = run.history(task)
            user = task.user_id
            noted = run.summary(user, history), run.memory(user, history)
            by_id[task.task_id] = history, run.texts(user, history), *noted
        history, *rest = by_id[task.task_id]
        return TaskContext(task, history, run.items, sample, run.users(task.user_id), *rest)

    return context


def _open_ledger(folder: Path, method: Method, tasks: Sequence[Task], timeout: float | None) -> Ledger:
    """Open the answers of a method; answers to further tasks are kept."""
    path, known = folder / f"{_slug(method.name)}.jsonl", digest(tasks)

    def same(row: Row) -> bool:
        _same_task(path, row, known.get(row["task_id"]))
        return True

    def final(row: Row) -> bool:
        """Return whether it is not asked again: neither did the endpoint fail, nor is there more time than then."""
        failure = Failure.from_json(row.get("failure"))
        if failure is None:
            return True
        return failure.kind != "endpoint" and (failure.limit is None or failure.limit >= (timeout or math.inf))

    settings = {"method": method.name, **method.settings}
    return Ledger(path, settings, lambda row: (row["task_id"], row["sample"]), {"began": time.time()}, same, final)


def _row(task: Task, sample: int, found: Ranking) -> Row:
    row: Row = {"task_id": task.task_id, "sample": sample, "task": digest_of(task), "ranking": found.ids}
    row |= {"failure": found.failure and found.failure.to_json(), **{name: getattr(found, name) for name in _COLUMNS}}
    row |= {"tokens": found.tokens_out, "trace": found.trace}
    return {name: value for name, value in row.items() if value is not None and value != ""}


def _same_task(path: Path, row: Row, known: str | None) -> None:
    """Refuse an answer to another task with the same id: every run calls its tasks test-000000 and on."""
    if known and row.get("task", known) != known:
        raise StarError(
            f"{path} has an answer to another task {row['task_id']} than is evaluated here",
            "evaluate each task set in a folder of its own, or delete the file",
        )


def _slug(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "_", name).strip("_.")[:80] or "method"
    return plain if plain == name else f"{plain}-{fingerprint(name)[:6]}"


async def run_method(
    method: Method,
    tasks: Sequence[Task],
    context_of: ContextOf,
    folder: str | Path,
    samples: int = 1,
    timeout: float | None = TIMEOUT,
    progress: Progress | None = None,
) -> Counter[str]:
    """Let a method answer what it has not answered yet, and return this call's failures by reason.

    Args:
        folder: of the answers of all methods.
        samples: of each task; one, where the method does not vary.
        timeout: seconds for one answer; None for no limit. What was too late for a shorter one is asked again.

    Raises:
        StarError: the folder holds answers of this method with other settings or to other tasks of the same ids, or
            the method cannot work at all.
    """
    ledger = _open_ledger(Path(folder), method, tasks, timeout)
    many = samples if method.varies else 1
    missing = [(task, k) for task in tasks for k in range(many) if (task.task_id, k) not in ledger.done]
    work = _Work(method.name, ledger, missing, len(tasks) * many, progress)
    try:
        if missing:  # else the method is not entered
            work.say("gets ready")
            method.watch = work.say
            async with _opened(method) as opened:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(max(1, opened.in_flight), len(missing))):
                        group.create_task(work.go(opened, context_of, timeout))
                work.finish()
        elif progress is not None:
            progress(work.total, work.total, method.name)
    except BaseExceptionGroup as group_error:
        raise group_error.exceptions[0] from group_error
    finally:
        ledger.close()
    return work.failed


@contextlib.asynccontextmanager
async def _opened(method: Method) -> AsyncIterator[Method]:
    """Enter a method for the time of the block; an error of its start or end names the method."""
    with _named(method, "start"):
        opened = await method.__aenter__()
    try:
        yield opened
    finally:
        with _named(method, "end"):
            await method.__aexit__(*sys.exc_info())


@contextlib.contextmanager
def _named(method: Method, doing: str) -> Iterator[None]:
    try:
        yield
    except StarError:
        raise
    except Exception as error:  # a method may fail in any way
        raise StarError(
            f"method {method.name} cannot {doing} ({reason(error)})", "mend it and give the same command again"
        ) from error


class _Work:
    """What one method still has to answer."""

    def __init__(
        self, name: str, ledger: Ledger, missing: Sequence[tuple[Task, int]], total: int, progress: Progress | None
    ) -> None:
        self.total, self.failed = total, Counter[str]()
        self._name, self._ledger, self._queue, self._progress = name, ledger, iter(missing), progress
        self._done = self._begun = total - len(missing)
        self._held: list[tuple[Task, int, Ranking]] = []  # the last answers, where an endpoint failed all of them

    def say(self, words: str) -> None:
        if self._progress is not None:
            self._progress(self._begun, self.total, f"{self._name} {words}")

    async def go(self, method: Method, context_of: ContextOf, timeout: float | None) -> None:
        """Answer what is missing; the next task goes to whoever is free."""
        for task, sample in self._queue:
            found = await _once(method, context_of(task, sample), timeout)
            if found.failure and found.failure.kind == "endpoint":
                self._held.append((task, sample, found))
                if len(self._held) >= OUTAGE:
                    raise self._outage()
            else:
                self._release()
                self._keep(task, sample, found)

    def finish(self) -> None:
        """Keep the answers that were held back, after all was asked.

        Raises:
            StarError: the endpoint has not answered at all, now or before.
        """
        if self._held and not self._ledger.done:
            raise self._outage()
        self._release()

    def _release(self) -> None:
        held, self._held = self._held, []
        for entry in held:
            self._keep(*entry)

    def _keep(self, task: Task, sample: int, found: Ranking) -> None:
        if found.failure:
            self.failed[str(found.failure)] += 1
        self._ledger.append(_row(task, sample, found))
        self._done += 1
        if self._progress is not None:
            note = f", {self.failed.total()} failed" if self.failed else ""
            self._progress(self._done, self.total, self._name + note)

    def _outage(self) -> StarError:
        count, (_, _, last) = len(self._held), self._held[-1]
        return StarError(
            f"the endpoint of {self._name} failed {count} answers one after the other ({last.failure})",
            "mend it and give the same command again: these answers are not kept",
        )


async def _once(method: Method, context: TaskContext, timeout: float | None) -> Ranking:
    """Return one answer, whatever the method does."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(timeout) as clock:
            found = as_ranking(await method.rank(context))
    except StarError:
        raise  # the user can mend it, and it is the same for every task
    except Exception as error:  # a method may fail in any way: the task is a miss, with its reason
        late = isinstance(error, TimeoutError) and clock.expired()
        found = Ranking(None, Failure.late(timeout or math.inf) if late else Failure("error", reason(error)))
    if found.seconds is None and method.in_flight == 1:
        found.seconds = min(timeout or math.inf, time.perf_counter() - began)
    return found


def ledgers(folder: str | Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the files of answers with the settings of their methods (``method``, ..), in the order they were begun."""
    heads = [(path, read_head(path)) for path in sorted(Path(folder).glob("*.jsonl"))]
    heads.sort(key=lambda entry: entry[1].get("began", 0.0))
    return [(path, head.get("settings") or {}) for path, head in heads]


def any_answers(folder: str | Path) -> bool:
    """Return whether any method has an answer."""
    return any(next(read_rows(path), None) is not None for path, _ in ledgers(folder))


def read_answers(folder: str | Path, tasks: Sequence[Task], top: int = 1) -> list[Answer]:
    """Return all methods' answers to ``tasks``, by method, task and sample.

    Args:
        top: ids that a valid ranking holds, where the task has as many candidates.

    Raises:
        StarError: an answer belongs to none of the tasks, or to another one with the same id.
    """
    known = {task.task_id: (place, task) for place, task in enumerate(tasks)}
    digests = digest(tasks)
    found: list[Answer] = []
    for path, settings in ledgers(folder):
        name, own = str(settings.get("method", path.stem)), dict[tuple[int, int], Answer]()
        for row in read_rows(path):
            if row["task_id"] not in known:
                raise foreign(path, row["task_id"], tasks)
            place, task = known[row["task_id"]]
            _same_task(path, row, digests[task.task_id])
            ranked = row.get("ranking")
            own[place, row["sample"]] = Answer(  # the later row is the second attempt
                name,
                task,
                ranked,
                row["sample"],
                valid=is_valid(ranked, task.candidates, top),
                failure=Failure.from_json(row.get("failure")),
                **{column: row.get(column) for column in ("tokens", *_COLUMNS)},
            )
        found += [own[key] for key in sorted(own)]
    return found
