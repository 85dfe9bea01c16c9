"""What all agents share: calls with an account, an answer that never raises, and the case laid out in lines."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from star_rl.baselines.agents.answer import Malformed, Ranking
from star_rl.baselines.agents.reviews import ReviewOf, no_reviews
from star_rl.chat import ChatError, ChatReply
from star_rl.failure import Failure
from star_rl.mars.case import Case
from star_rl.prompts import Behaviour, Flavour, flavour_of
from star_rl.prompts.baselines import fields_of, item_line, review_line
from star_rl.prompts.words import latest_within

#: Decoding and the history's cap of the published agents.
TEMPERATURE, ANSWER_TOKENS, HISTORY_TOKENS = 0.1, 500, 8000


class Chat(Protocol):
    """What an agent needs of a client; ``star_rl.chat.ChatClient``."""

    async def complete(self, messages: Sequence[Any], tools: Any = None, sample: int = 0, **options: Any) -> ChatReply:
        """One completion."""


@dataclass(slots=True)
class Talk:
    """The calls of one case."""

    chat: Chat
    case: Case
    sample: int
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    flavour: Flavour = field(init=False)
    cut: bool = field(default=False, init=False)
    messages: list[dict[str, str]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.flavour = flavour_of(self.case.source)

    async def ask(self, messages: Sequence[dict[str, str]], tokens: int = ANSWER_TOKENS) -> str:
        """The answer without what a reasoning model thought before it.

        Raises:
            ChatError: the endpoint failed.
        """
        self.calls += 1
        reply = await self.chat.complete(messages, None, self.sample, temperature=TEMPERATURE, max_tokens=tokens)
        self.tokens_in += reply.prompt_tokens
        self.tokens_out += reply.completion_tokens
        self.cut = reply.finish == "length"
        self.messages += [*messages, {"role": "assistant", "content": reply.text}]
        return reply.text.rpartition("</think>")[2]


class Agent(ABC):
    """A baseline of the paper's table 1 as a workflow over one chat client.

    Args:
        chat: the endpoint or endpoints.
        mended: without the fault of the published agent that changes its score, where one is known
            (:attr:`fault`); an agent without such a fault is the same either way.
        reviews: what users wrote; nothing by default.

    Attributes:
        label: the name in the paper's table.
        fault: what is wrong with the published agent and mended here; empty where nothing is known.
    """

    label: ClassVar[str]
    fault: ClassVar[str] = ""

    def __init__(self, chat: Chat, *, mended: bool = True, reviews: ReviewOf = no_reviews) -> None:
        self.chat, self.mended, self.reviews = chat, mended, reviews

    @property
    def faithful(self) -> Literal["published", "mended"]:
        """Which of the two this is."""
        return "mended" if self.fault and self.mended else "published"

    @property
    def name(self) -> str:
        """As it stands in a table: two forms of one agent have two names, and neither is the paper's alone."""
        return f"{self.label} ({'mended' if self.mended else 'as published'})" if self.fault else self.label

    @property
    def remark(self) -> str:
        """What a reader must know of this form of the agent; empty where there is nothing."""
        if not self.fault:
            return ""
        if self.mended:
            return f"{self.name} is without what changes the published agent's score: {self.fault}."
        return f"{self.name} keeps what changes its score: {self.fault}."

    async def rank(self, case: Case, sample: int = 0) -> Ranking:
        """Rank a case. Whatever the model or the endpoint does ends in a :class:`Ranking`.

        Args:
            sample: tells apart passes over one case that a cache would else answer alike.

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
        return Ranking(ranking, failure, talk.calls, talk.tokens_in, talk.tokens_out, seconds, talk.messages)

    @abstractmethod
    async def work(self, talk: Talk) -> list[str]:
        """The agent's own way from the case to a list.

        Raises:
            Malformed: an answer cannot be used.
            ChatError: the endpoint failed.
        """

    # -------------------------------------------------------------------------------------------------------- lines

    def entries(self, case: Case, last: int = 0) -> list[Behaviour]:
        """The record without the candidates' own reviews; the ``last`` entries where that is above 0."""
        offered = set(case.candidates)
        kept = [entry for entry in case.history if entry.item_id not in offered]
        return kept[-last:] if last else kept

    def record(self, case: Case, last: int = 0) -> list[str]:
        """Reviews as lines, oldest first, capped at :data:`HISTORY_TOKENS`; the oldest go first."""
        lines = [
            review_line(entry, case.items.get(entry.item_id), self.text(case, entry))
            for entry in self.entries(case, last)
        ]
        return latest_within(lines, HISTORY_TOKENS)

    def text(self, case: Case, entry: Behaviour) -> str:
        """What the user wrote of an entry: what the case brings, else what the tables have."""
        return case.texts.get((entry.item_id, entry.timestamp)) or self.reviews(case.user_id, entry)

    def candidates(self, talk: Talk, agent: str, ids: Sequence[str] | None = None) -> list[str]:
        """Candidates as lines with the fields that this agent shows."""
        items, fields = talk.case.items, fields_of(agent, talk.flavour)
        return [item_line(item, items.get(item), fields) for item in ids or talk.case.candidates]
