"""Methods at work over tasks: each answer is kept as it comes, so that nothing is judged twice.

A folder of answers holds ``tasks.parquet`` and, for each method, ``answers/<method>.jsonl``: a first line that says
what the method was, then a line for each answer. Sealed, they are the table of :mod:`star_rl.evaluation.results`.

A method that raises, that takes too long or that returns no list has failed on that task: a miss that stays in the
denominator, with the reason beside it (websocietysimulator 1.0.0a30 gives a task 300 s). An endpoint that gives out is
no fault of the method's: such an answer is a miss until the next call asks for it again, and several of them in a row
end the work and are not kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from star_rl.errors import StarError
from star_rl.evaluation.methods import Method, Ranking, TaskContext, as_ranking, blind
from star_rl.evaluation.metrics import is_valid
from star_rl.evaluation.results import Answer
from star_rl.evaluation.tasks import digest, digest_of
from star_rl.failure import Failure
from star_rl.files import fingerprint, read_jsonl, writing_error
from star_rl.records import Task

#: Seconds that the official simulator gives a task.
TIMEOUT = 300.0
#: Answers in a row that an endpoint failed before the work ends.
OUTAGE = 10
_COLUMNS = ("well_formed", "tool_calls", "calls", "tokens_in", "seconds", "tool_seconds", "confidence")

#: Makes what a method sees beside a task: ``(task, sample) -> context``.
ContextOf = Callable[[Task, int], TaskContext]


class Progress(Protocol):
    """Called after each answer: how far, of how much, and a few words."""

    def __call__(self, done: float, total: float | None = None, note: str = "") -> None: ...


class Ledger:
    """The answers of one method, as they come.

    Args:
        folder: of all methods' answers.
        name: the method's.
        describe: all that decides an answer; answers of another description are refused.
        tasks: that are asked now; answers to others of the same ids are refused, to further ones are kept.
        timeout: seconds for one answer; what did not come within less is asked for again.

    Raises:
        StarError: the file was begun by another method of the same name, or over other tasks.
    """

    def __init__(
        self, folder: Path, name: str, describe: dict[str, Any], tasks: Sequence[Task] = (), timeout: float = TIMEOUT
    ) -> None:
        self.path, self.name = folder / f"{_slug(name)}.jsonl", name
        settings = fingerprint([name, describe])
        self.done: set[tuple[str, int]] = set()
        known = digest(tasks)
        head: dict[str, Any] = {"method": name, "began": time.time(), "describe": describe, "settings": settings}
        rows: dict[tuple[str, int], str] = {}
        for number, row in enumerate(_rows(self.path)):
            if number == 0:
                head = row
                if row.get("settings") != settings:
                    raise StarError(
                        f"{self.path} holds answers of {name} with other settings ({_other(row, describe)})",
                        "give the method a name of its own (name=..), choose another folder, or delete the file",
                    )
                continue
            _same_task(self.path, row, known.get(row["task_id"]))
            key = (row["task_id"], row["sample"])
            if key not in self.done:
                rows[key] = json.dumps(row)
                if not _asked_again(Failure.from_json(row.get("failure")), timeout):
                    self.done.add(key)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(".part")  # a last line cut short by a kill is gone
            part.write_text("".join(f"{line}\n" for line in (json.dumps(head), *rows.values())), encoding="utf-8")
            part.replace(self.path)
            self._handle = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise writing_error(self.path, error) from error

    def append(self, task: Task, sample: int, found: Ranking) -> None:
        row = {"task_id": task.task_id, "sample": sample, "task": digest_of(task), "ranking": found.ids}
        row["failure"] = found.failure and found.failure.to_json()
        row |= {name: getattr(found, name) for name in _COLUMNS}
        row |= {"tokens": found.tokens_out, "trace": found.trace}
        kept = {name: value for name, value in row.items() if value is not None and value != ""}
        self._handle.write(json.dumps(kept, default=str) + "\n")  # a trace may hold anything
        self._handle.flush()
        self.done.add((task.task_id, sample))

    def close(self) -> None:
        self._handle.close()


def _rows(path: Path) -> Iterator[Any]:
    if path.exists():
        yield from read_jsonl(path)


def _other(head: dict[str, Any], describe: dict[str, Any]) -> str:
    """Which settings differ, by name."""
    before = head.get("describe")
    if not isinstance(before, dict):
        return "unknown"
    differ = [key for key in {**before, **describe} if before.get(key) != describe.get(key)]
    return ", ".join(differ) or "the name"


def _same_task(path: Path, row: dict[str, Any], known: str | None) -> None:
    """Hold an answer to the task it was given to, where both are known: every run calls its tasks test-000000 and on.

    Raises:
        StarError: it is another task by the same id.
    """
    if known and row.get("task", known) != known:
        raise StarError(
            f"{path} has an answer to another task {row['task_id']} than is judged here",
            "judge each task set in a folder of its own, or delete the file",
        )


def _asked_again(failure: Failure | None, timeout: float) -> bool:
    """Whether an answer that failed is asked for again: the endpoint failed, or less time was given than now."""
    if failure is None:
        return False
    return failure.kind == "endpoint" or (failure.limit is not None and failure.limit < timeout)


def _slug(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "_", name).strip("_.")[:80] or "method"
    return plain if plain == name else f"{plain}-{fingerprint(name)[:6]}"


async def run_method(
    method: Method,
    tasks: Sequence[Task],
    context_of: ContextOf,
    folder: str | Path,
    samples: int = 1,
    timeout: float = TIMEOUT,
    progress: Progress | None = None,
) -> Counter[str]:
    """Let a method answer what it has not answered yet; it is entered here, and only if something is missing.

    Args:
        folder: of the answers of all methods.
        samples: of each task; one, where the method does not vary.
        timeout: seconds for one answer.

    Returns:
        failures of this call by reason.

    Raises:
        StarError: the folder holds answers of another method of this name, or the method cannot work at all.
    """
    ledger = Ledger(Path(folder), method.name, method.identity, tasks, timeout)
    many = samples if method.varies else 1
    missing = [(task, k) for task in tasks for k in range(many) if (task.task_id, k) not in ledger.done]
    work = _Work(ledger, missing, len(tasks) * many, progress)
    try:
        if missing:
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
    """A method, open for the time of the block.

    Raises:
        StarError: it cannot be opened or closed; names the method.
    """
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
            f"method {method.name} cannot {doing} ({_reason(error)})", "mend it and give the same command again"
        ) from error


class _Work:
    """What one method still has to answer."""

    def __init__(
        self, ledger: Ledger, missing: Sequence[tuple[Task, int]], total: int, progress: Progress | None
    ) -> None:
        self.total, self.failed = total, Counter[str]()
        self._ledger, self._queue, self._progress = ledger, iter(missing), progress
        self._done = self._begun = total - len(missing)
        self._held: list[tuple[Task, int, Ranking]] = []  # the last answers, where an endpoint failed all of them

    def say(self, words: str) -> None:
        if self._progress is not None:
            self._progress(self._begun, self.total, f"{self._ledger.name} {words}")

    async def go(self, method: Method, context_of: ContextOf, timeout: float) -> None:
        """Answer what is missing; the next one goes to whoever is free."""
        for task, sample in self._queue:
            found = await _once(method, task, context_of(task, sample), timeout)
            if found.failure and found.failure.kind == "endpoint":
                self._held.append((task, sample, found))
                if len(self._held) >= OUTAGE:
                    raise self._outage()
            else:
                self._release()
                self._keep(task, sample, found)

    def finish(self) -> None:
        """All was asked: keep what was held back.

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
        self._ledger.append(task, sample, found)
        self._done += 1
        if self._progress is not None:
            note = f", {self.failed.total()} failed" if self.failed else ""
            self._progress(self._done, self.total, self._ledger.name + note)

    def _outage(self) -> StarError:
        count, (_, _, last) = len(self._held), self._held[-1]
        return StarError(
            f"the endpoint of {self._ledger.name} failed {count} answers one after the other ({last.failure})",
            "mend it and give the same command again: these answers are not kept",
        )


async def _once(method: Method, task: Task, context: TaskContext, timeout: float) -> Ranking:
    """One answer, whatever the method does."""
    began = time.perf_counter()
    try:
        found = as_ranking(await asyncio.wait_for(method.rank(blind(task), context), timeout))
    except TimeoutError:
        found = Ranking(None, Failure.late(timeout))
    except StarError:
        raise  # the user's to mend, and the same for every task
    except Exception as error:  # a method may fail in any way: the task is a miss, with its reason
        found = Ranking(None, Failure("error", _reason(error)))
    if found.seconds is None and method.in_flight == 1:
        found.seconds = min(timeout, time.perf_counter() - began)
    return found


def _reason(error: Exception) -> str:
    words = " ".join(str(error).encode("utf-8", "replace").decode("utf-8").split())[:200]
    return words if type(error) is RuntimeError else f"{type(error).__name__}: {words}"


def ledgers(folder: str | Path) -> list[tuple[Path, dict[str, Any]]]:
    """The files of answers with their first lines, in the order in which they were begun."""
    found: list[tuple[Path, dict[str, Any]]] = [
        (path, next(_rows(path), {})) for path in sorted(Path(folder).glob("*.jsonl"))
    ]
    return sorted(found, key=lambda entry: entry[1].get("began", 0.0))


def any_answers(folder: str | Path) -> bool:
    """Is there an answer of any method?"""
    return any(next(itertools.islice(_rows(path), 1, None), None) is not None for path, _ in ledgers(folder))


def read_answers(folder: str | Path, tasks: Sequence[Task], top: int = 1) -> list[Answer]:
    """All methods' answers to ``tasks``, by method, task and sample.

    Args:
        top: ids that a valid ranking holds, where the task has as many candidates.

    Raises:
        StarError: an answer belongs to none of the tasks, or to another one of the same id.
    """
    known = {task.task_id: (place, task) for place, task in enumerate(tasks)}
    digests = digest(tasks)
    found: list[Answer] = []
    for path, head in ledgers(folder):
        name, own = str(head.get("method", path.stem)), dict[tuple[int, int], Answer]()
        for row in itertools.islice(_rows(path), 1, None):
            if row["task_id"] not in known:
                raise StarError(
                    f"{path} has an answer to task {row['task_id']}, which is not among the {len(tasks)} tasks",
                    "judge each task set in a folder of its own",
                )
            place, task = known[row["task_id"]]
            _same_task(path, row, digests[task.task_id])
            own[place, row["sample"]] = _answer(
                name, task, row, top
            )  # the last: what an endpoint failed was asked again
        found += [own[key] for key in sorted(own)]
    return found


def _answer(name: str, task: Task, row: dict[str, Any], top: int) -> Answer:
    ranked = row.get("ranking")
    return Answer(
        name,
        task,
        ranked,
        row["sample"],
        valid=is_valid(ranked, task.candidates, top),
        tokens=row.get("tokens"),
        failure=Failure.from_json(row.get("failure")),
        **{column: row.get(column) for column in _COLUMNS},
    )


def answer_of(name: str, task: Task, sample: int, found: Ranking, top: int = 1) -> Answer:
    """A ranking that is in hand as an answer; ``top`` as of :func:`read_answers`."""
    return Answer(
        name,
        task,
        found.ids,
        sample,
        valid=is_valid(found.ids, task.candidates, top),
        tokens=found.tokens_out,
        failure=found.failure,
        **{column: getattr(found, column) for column in _COLUMNS},
    )
