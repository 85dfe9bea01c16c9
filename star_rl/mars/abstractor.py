"""The Long Sequence Abstractor: a running summary of all but the last chunk of a long history (paper, section 3.2).

``summary_i = LLM(summary_(i-1), chunk_i)``; the last chunk is never summarised. A summary depends on the user and the
chunks up to it alone, so all passes, all scenarios and all tasks with a later cutoff share it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from star_rl.chat import ChatClient
from star_rl.errors import StarError
from star_rl.files import fingerprint
from star_rl.mars.agents import AgentFailure, Step
from star_rl.mars.calls import ask
from star_rl.prompts import Behaviour, Case, flavour_of, valid
from star_rl.prompts.agents import abstractor_messages

NAME = "Long_Sequence_Abstractor"


class Abstractor:
    """Summaries by user, each made once.

    Args:
        chat: the endpoint.
        chunk: interactions in a chunk (``m`` of the paper).
        words: most words of a summary; a longer one is cut.

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

    async def abstract(self, case: Case, step: Step) -> tuple[str, tuple[Behaviour, ...]]:
        """Return a summary of the older history, and the latest chunk as it is.

        Args:
            step: gets the messages and the cost of the calls made here.

        Raises:
            AgentFailure: the endpoint failed, or the model wrote an empty summary twice.
        """
        chunks = [case.history[start : start + self.chunk] for start in range(0, len(case.history), self.chunk)]
        summary = ""
        async with self._locks.setdefault(f"{case.source}\n{case.user_id}", asyncio.Lock()):
            for number, chunk in enumerate(chunks[:-1], 1):
                key = fingerprint([case.source, case.user_id, case.history[: number * self.chunk]])
                if key not in self._known:
                    self._known[key] = await self._ask(case, step, summary, chunk)
                summary = self._known[key]
        return summary, chunks[-1] if chunks else ()

    async def _ask(self, case: Case, step: Step, summary: str, chunk: Sequence[Behaviour]) -> str:
        messages = abstractor_messages(flavour_of(case.source), summary, chunk, case.items, self.words)
        for sample in (0, 1):  # another number, or the cache would return the same empty summary
            reply = await ask(self._chat, step, messages, sample=sample, max_tokens=self.words * 3)
            answer = {"role": "assistant", "content": reply.text}
            step.messages += [{**message, "agent": NAME} for message in (*messages, answer)]
            text = valid(reply.text).strip()
            words = text.split()
            if words:
                return text if len(words) <= self.words else " ".join(words[: self.words])
        raise AgentFailure("malformed", "the abstractor wrote an empty summary twice", step)
