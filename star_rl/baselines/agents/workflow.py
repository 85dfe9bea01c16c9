"""What all agents share: counted calls, failures that never raise, and the case as lines of text."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from star_rl.baselines.agents.answer import AgentAnswer, Malformed
from star_rl.chat import ChatError, ChatReply
from star_rl.failure import Failure
from star_rl.prompts import Behaviour, Case, Flavour, flavour_of
from star_rl.prompts.baselines import fields_of, item_line, review_line
from star_rl.prompts.words import latest_within

#: Decoding and history limit of the published agents.
TEMPERATURE, ANSWER_TOKENS, HISTORY_TOKENS = 0.1, 500, 8000


class Chat(Protocol):
    """The part of ``star_rl.chat.ChatClient`` that an agent uses."""

    async def complete(self, messages: Sequence[Any], tools: Any = None, sample: int = 0, **options: Any) -> ChatReply:
        """Return one completion."""


@dataclass(slots=True)
class Talk:
    """The calls of one case, and their cost."""

    chat: Chat
    case: Case
    sample: int
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cut: bool = False
    messages: list[dict[str, str]] = field(default_factory=list)

    @property
    def flavour(self) -> Flavour:
        """Return the words of the case's domain."""
        return flavour_of(self.case.source)

    async def ask(self, messages: Sequence[dict[str, str]], tokens: int = ANSWER_TOKENS) -> str:
        """Return a reply without the reasoning before ``</think>``; a failure of the endpoint is a ChatError."""
        self.calls += 1
        reply = await self.chat.complete(messages, None, self.sample, temperature=TEMPERATURE, max_tokens=tokens)
        self.tokens_in += reply.prompt_tokens
        self.tokens_out += reply.completion_tokens
        self.cut = reply.finish == "length"
        self.messages += [*messages, {"role": "assistant", "content": reply.text}]
        return reply.text.rpartition("</think>")[2]


class BaselineAgent(ABC):
    """A baseline of the paper's table 1 as a workflow over one chat client.

    Args:
        chat: the endpoint or endpoints.
        mended: fix the known :attr:`fault` of the published agent; without effect on an agent without one.

    Attributes:
        label: the name in the paper's table.
        fault: what is wrong with the published agent and changes its score; empty if nothing is known.
    """

    label: ClassVar[str]
    fault: ClassVar[str] = ""

    def __init__(self, chat: Chat, *, mended: bool = True) -> None:
        self.chat, self.mended = chat, mended

    @property
    def name(self) -> str:
        """Return the name for tables; the two forms of an agent have different names."""
        return f"{self.label} ({'mended' if self.mended else 'as published'})" if self.fault else self.label

    @property
    def remark(self) -> str:
        """Return what a reader must know of this form of the agent; empty if nothing."""
        form = "is without what changes the published agent's score" if self.mended else "keeps what changes its score"
        return f"{self.name} {form}: {self.fault}." if self.fault else ""

    async def rank(self, case: Case, sample: int = 0) -> AgentAnswer:
        """Rank a case. What the model or the endpoint does wrong becomes the answer's failure.

        Args:
            sample: number of the pass; passes have separate cached replies.

        Raises:
            StarError: the endpoint refuses the key.
        """
        talk, began = Talk(self.chat, case, sample), time.perf_counter()
        ranking: list[str] | None = None
        failure: Failure | None = None
        try:
            ranking = await self.work(talk)
        except Malformed as error:
            failure = Failure("malformed", f"{error}{' (the answer was cut at its limit)' if talk.cut else ''}")
        except ChatError as error:
            failure = Failure("endpoint", str(error))
        seconds = time.perf_counter() - began
        return AgentAnswer(ranking, failure, talk.calls, talk.tokens_in, talk.tokens_out, seconds, talk.messages)

    @abstractmethod
    async def work(self, talk: Talk) -> list[str]:
        """Return the agent's list for a case.

        Raises:
            Malformed: a reply cannot be used.
            ChatError: the endpoint failed.
        """

    def entries(self, case: Case, last: int = 0) -> list[Behaviour]:
        """Return the history without the candidates; only the ``last`` entries if that is above 0."""
        offered = set(case.candidates)
        kept = [entry for entry in case.history if entry.item_id not in offered]
        return kept[-last:] if last else kept

    def record(self, case: Case, last: int = 0) -> list[str]:
        """Return reviews as lines, oldest first; the oldest are dropped beyond :data:`HISTORY_TOKENS`."""
        lines = [review_line(entry, case.items.get(entry.item_id)) for entry in self.entries(case, last)]
        return latest_within(lines, HISTORY_TOKENS)

    def candidates(self, talk: Talk, agent: str, ids: Sequence[str] | None = None) -> list[str]:
        """Return candidates as lines with the fields that this agent shows."""
        items, fields = talk.case.items, fields_of(agent, talk.flavour)
        return [item_line(item, items.get(item), fields) for item in ids or talk.case.candidates]
