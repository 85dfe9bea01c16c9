"""Build the summaries of a run's users, by rules or by a served model, and seal them.

A served model is the Long Sequence Abstractor (paper, section 3.2): ``summary_i = LLM(summary_(i-1), chunk_i)``. The
chat client's cache keeps every reply, so a killed build resumes when it is run again.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from star_rl.chat import ChatClient, ChatError
from star_rl.errors import StarError
from star_rl.evidence.manifest import building_folder
from star_rl.evidence.writer import EvidenceWriter
from star_rl.files import fingerprint
from star_rl.progress import Progress
from star_rl.prompts import Behaviour, Case, Flavour, estimate_tokens, flavour_of, valid
from star_rl.prompts.agents import TEMPLATES, abstractor_messages
from star_rl.records import Item, Task
from star_rl.summaries.rules import summary_by_rules
from star_rl.summaries.store import TOOL, key_of, store_of

#: The build stops after this many users in a row that the endpoint failed.
_OUTAGE = 24


class SummaryFailure(Exception):
    """A summary that could not be made.

    ``kind``: ``endpoint`` (no answer), ``refused`` (the host filters the text or rejects the request), ``malformed``.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


async def next_summary(
    chat: ChatClient, summary: str, chunk: Sequence[Behaviour], items: Mapping[str, Item], flavour: Flavour, words: int
) -> str:
    """Return the summary that covers ``summary`` and the next chunk; beyond ``words`` it is cut.

    Raises:
        SummaryFailure: the endpoint failed or refused the request, or the model wrote an empty summary twice.
    """
    messages = abstractor_messages(flavour, summary, chunk, items, words)
    for sample in (0, 1):  # another number, or the cache would return the same empty summary
        try:
            reply = await chat.complete(messages, sample=sample, max_tokens=max(words * 3, chat.options.max_tokens))
        except ChatError as error:
            raise SummaryFailure("refused" if error.refused else "endpoint", str(error)) from None
        text = valid(reply.text).rpartition("</think>")[2].strip()
        if found := text.split():
            return text if len(found) <= words else " ".join(found[:words])
    raise SummaryFailure("malformed", "the model wrote an empty summary twice")


def longest(tasks: Iterable[Task], length: Callable[[Task], int], chunk: int) -> list[Task]:
    """Return one task a user, the one with the longest history; users whose history is one chunk are left out.

    The histories of a user's tasks are prefixes of one record, so the longest one's prefixes are those of all.
    """
    best: dict[str, tuple[int, Task]] = {}
    for task in tasks:
        count = length(task)
        if count > chunk and count > best.get(task.user_id, (0, task))[0]:
            best[task.user_id] = count, task
    return [task for _, task in best.values()]


async def build_summaries(
    folder: str | Path,
    tasks: Sequence[Task],
    case_of: Callable[[Task], Case],
    *,
    origin: tuple[str, str],
    chunk: int,
    words: int,
    chat: ChatClient | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Summarise every user's record chunk by chunk, and seal the summaries in ``folder``.

    A summary covers the oldest 1, 2, .. chunks; the last chunk of a record is never summarised. The summaries that a
    failure leaves out are missing in the sealed store, and shorter prefixes take their place.

    Args:
        tasks: one a user (:func:`longest`).
        case_of: returns the case of a task; its history is the record.
        origin: scenario and fingerprint of the visible interactions.
        chunk: interactions in a chunk (``m`` of the paper).
        words: most words of a summary.
        chat: the served model; None: rules.

    Returns:
        ``{users, summaries, failed, incomplete, ..}``; ``incomplete`` if the endpoint failed some.

    Raises:
        StarError: the endpoint is not ready or stopped answering, or the folder cannot be written.
    """
    place = store_of(folder)
    for old in (place, building_folder(place)):  # what was paid for is in the client's cache
        shutil.rmtree(old, ignore_errors=True)
    build = _Build(list(tasks), case_of, chunk, words, chat, progress)
    return await build.run(place, origin)


def estimate_job(
    tasks: Sequence[Task], case_of: Callable[[Task], Case], chunk: int, words: int, prices: tuple[float, float] = (0, 0)
) -> str:
    """Return what a served model's summaries would cost, in words; from the prompts of at most 100 users.

    Args:
        prices: per million tokens in and out.
    """
    chosen = random.Random(0).sample(tasks, min(len(tasks), 100))
    calls = read = 0
    for case in map(case_of, chosen):
        for count in range(chunk, len(case.history), chunk):
            before, seen = "word " * words * (count > chunk), case.history[count - chunk : count]
            messages = abstractor_messages(flavour_of(case.source), before, seen, case.items, words)
            calls += 1
            read += sum(estimate_tokens(message["content"]) for message in messages)
    scale = len(tasks) / max(1, len(chosen))
    calls, read = round(calls * scale), round(read * scale)
    written = calls * words * 5 // 3  # of English
    cost = f", cost {(prices[0] * read + prices[1] * written) / 1e6:,.2f}" if any(prices) else ""
    return (
        f"{len(tasks):,} users, about {calls:,} calls, {read / 1e6:,.2f} M tokens in, "
        f"at most {written / 1e6:,.2f} M out{cost}"
    )


class _Build:
    """The state of one build."""

    def __init__(
        self,
        tasks: Sequence[Task],
        case_of: Callable[[Task], Case],
        chunk: int,
        words: int,
        chat: ChatClient | None,
        progress: Progress | None,
    ) -> None:
        self.tasks, self.case_of, self.chunk, self.words = tasks, case_of, chunk, words
        self.chat, self.progress = chat, progress
        self.done = self.written = self.failed_in_a_row = 0
        self.failed: Counter[str] = Counter()
        self.began = time.monotonic()

    async def run(self, place: Path, origin: tuple[str, str]) -> dict[str, Any]:
        about: dict[str, Any] = {"by": "rules", "chunk": self.chunk, "words": self.words}
        if self.chat is not None:
            await self.chat.ready()
            prompt = fingerprint(TEMPLATES["Long_Sequence_Abstractor"])
            about |= {"by": "llm", "prompt": prompt, "model": self.chat.model}
        with EvidenceWriter(place, *origin, about) as writer:
            queue = iter(self.tasks)
            workers = 1 if self.chat is None else self.chat.options.concurrency
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(workers):
                        group.create_task(self._work(queue, writer))
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
            writer.seal()
        figures = {"users": len(self.tasks), "summaries": self.written, "failed": dict(self.failed)}
        usage = {} if self.chat is None else {"chat": self.chat.usage.figures(), "model": self.chat.model}
        return {"incomplete": bool(self.failed["endpoint"]), **figures, **usage}

    async def _work(self, queue: Iterable[Task], writer: EvidenceWriter) -> None:
        for task in queue:
            await self._user(self.case_of(task), writer)
            self.done += 1
            if self.progress:
                self.progress(self.done, len(self.tasks), self._note())

    async def _user(self, case: Case, writer: EvidenceWriter) -> None:
        flavour, text = flavour_of(case.source), ""
        for count in range(self.chunk, len(case.history), self.chunk):
            seen = case.history[:count]
            if self.chat is None:
                text = summary_by_rules(seen, case.items, flavour, self.chunk, self.words)
            else:
                try:
                    text = await next_summary(self.chat, text, seen[-self.chunk :], case.items, flavour, self.words)
                except SummaryFailure as failure:
                    self._fail(failure.kind, str(failure))
                    return
                self.failed_in_a_row = 0
            writer.put(TOOL, key_of(case.user_id, seen), text, outcome="rules" if self.chat is None else "llm")
            self.written += 1

    def _fail(self, kind: str, message: str) -> None:
        self.failed[kind] += 1
        self.failed_in_a_row = 0 if kind == "malformed" else self.failed_in_a_row + 1
        if self.failed_in_a_row >= _OUTAGE:
            raise StarError(
                f"the endpoint failed the summaries of {self.failed_in_a_row} users one after the other ({message})",
                "fix it and run the same command again: nothing paid is lost",
            )

    def _note(self) -> str:
        parts = [f"{self.written:,} summaries"]
        if self.chat is not None:
            parts.append(f"failed {self.failed.total()}")
            parts.append(f"{self.written / max(1e-9, time.monotonic() - self.began):.1f}/s")
            if cost := self.chat.usage.cost:
                parts.append(f"{cost:.2f} spent")
        return ", ".join(parts)
