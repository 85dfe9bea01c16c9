"""The Long Sequence Abstractor: a running summary of all but the last chunk of a long history (paper, section 3.2).

``summary_i = LLM(summary_(i-1), chunk_i)``; the last chunk is never summarised. A summary depends on the user and the
chunks up to it and on nothing else, so all passes, all scenarios and all tasks with a later cutoff share it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from star_rl.chat import ChatClient
from star_rl.errors import StarError
from star_rl.files import fingerprint
from star_rl.mars.case import Case
from star_rl.prompts import Behaviour, flavour_of, valid
from star_rl.prompts.agents import abstractor_messages

NAME = "Long_Sequence_Abstractor"


@dataclass(slots=True)
class Abstract:
    """A history made short: the summary, what stays raw, and what making it cost *this* call (0 where it was known)."""

    summary: str = ""
    raw: tuple[Behaviour, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model_calls: int = 0
    cached_calls: int = 0
    messages: list[dict[str, Any]] = field(default_factory=list)


class EmptySummary(Exception):
    """The model wrote nothing, twice. Data: the run that needed the summary is recorded as failed."""


class Abstractor:
    """Summaries by user, made once.

    Args:
        chat: the endpoint.
        chunk: behaviours in a chunk (``m`` of the paper).
        words: a longer summary is cut.

    Raises:
        StarError: ``chunk`` or ``words`` below 1.
    """

    def __init__(self, chat: ChatClient, chunk: int = 40, words: int = 500) -> None:
        for name, value in (("chunk", chunk), ("words", words)):
            if value < 1:
                raise StarError(f"abstractor option {name} is {value}", "give 1 or more")
        self._chat, self.chunk, self.words = chat, chunk, words
        self._known: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def abstract(self, case: Case, made: Abstract | None = None) -> Abstract:
        """The case's history made short.

        Args:
            made: filled and returned; after an error it holds what was paid for until then.

        Raises:
            ChatError: the endpoint failed.
            EmptySummary: it wrote nothing, and nothing again when asked once more.
        """
        chunks = [case.history[start : start + self.chunk] for start in range(0, len(case.history), self.chunk)]
        made = Abstract() if made is None else made
        made.raw = chunks[-1] if chunks else ()
        if len(chunks) < 2:
            return made
        async with self._locks.setdefault(f"{case.source}\n{case.user_id}", asyncio.Lock()):
            for number, chunk in enumerate(chunks[:-1], 1):
                key = fingerprint([case.source, case.user_id, case.history[: number * self.chunk]])
                if key not in self._known:
                    self._known[key] = await self._ask(case, made, chunk)
                made.summary = self._known[key]
        return made

    async def _ask(self, case: Case, made: Abstract, chunk: Sequence[Behaviour]) -> str:
        messages = abstractor_messages(flavour_of(case.source), made.summary, chunk, case.items, self.words)
        for sample in (0, 1):  # a number of its own: the cache would answer with the same nothing
            reply = await self._chat.complete(messages, sample=sample, max_tokens=self.words * 3)
            made.model_calls += 1
            made.cached_calls += reply.cached
            made.prompt_tokens += reply.prompt_tokens
            made.completion_tokens += reply.completion_tokens
            made.messages += [*messages, {"role": "assistant", "content": reply.text}]
            words = valid(reply.text).split()
            if words:
                return valid(reply.text).strip() if len(words) <= self.words else " ".join(words[: self.words])
        raise EmptySummary("the abstractor wrote an empty summary twice")
