"""The LLM verbaliser: neighbours into categories by any chat model, checked, mended once, or left to the template.

It is a pure function of the replies, and every reply is in the ledger before it is used. A run that was killed is
therefore taken up by running it again: what was paid is read, the rest is asked.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from star_rl.errors import StarError
from star_rl.evidence.ledger import Ledger, Paid, key_of
from star_rl.evidence.model import Evidence, Neighbour, Words, checked
from star_rl.evidence.template import Template
from star_rl.evidence.words import in_words
from star_rl.prompts.evidence import EVIDENCE_VERSION, evidence_messages, mending_messages
from star_rl.prompts.flavours import FLAVOURS, Flavour
from star_rl.prompts.words import estimate_tokens, valid


class Reply(Protocol):
    """What of a chat reply is used (:class:`star_rl.chat.ChatReply`)."""

    @property
    def text(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...


class Chat(Protocol):
    """Whom to ask (:class:`star_rl.chat.ChatClient`)."""

    async def complete(self, messages: Sequence[Mapping[str, Any]], /) -> Reply: ...


@dataclass(slots=True)
class Account:
    """What a run asked and what that cost. ``faults`` counts failed attempts by the name of the error."""

    asked: int = 0
    from_ledger: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Prices:
    """Per million tokens, in any currency."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


class LanguageModel:
    """Neighbours into words by a chat model.

    Args:
        chat: whom to ask; its own limits and retries hold as well.
        describe: what decides a reply beside the messages (model, temperature, ..): ``ChatClient.describe``.
        ledger: where paid replies are kept.
        template: stands in where the model fails; its size and budget are those of the texts.
        flavour: what items are called in the prompt.
        concurrency: keys in work at once.
        retries: further attempts after a call that raised, ``backoff`` seconds apart at first, doubling, with jitter.
        patience: after so many keys in a row whose calls all failed the run stops instead of turning a dead endpoint
            into templates.
        prices: for the account.
    """

    def __init__(
        self,
        chat: Chat,
        describe: Mapping[str, Any],
        ledger: Ledger,
        template: Template,
        flavour: Flavour = FLAVOURS["generic"],
        concurrency: int = 16,
        retries: int = 2,
        backoff: float = 1.0,
        patience: int = 20,
        prices: Prices | None = None,
    ) -> None:
        if concurrency < 1 or retries < 0 or patience < 1:
            raise StarError(
                f"concurrency {concurrency}, retries {retries}, patience {patience}", "give at least 1, 0 and 1"
            )
        self.template, self.concurrency, self.ledger = template, concurrency, ledger
        self.prices = prices or Prices()
        self.account = Account()
        self._chat, self._describe, self._flavour = chat, dict(describe), flavour
        self._retries, self._backoff, self._patience = retries, backoff, patience
        self._failed_in_a_row = 0

    def about(self) -> dict[str, Any]:
        """What distinguishes these words from others, for the store's manifest."""
        return {
            **self.template.about(),
            "verbaliser": "llm",
            "prompt": EVIDENCE_VERSION,
            "flavour": self._flavour.name,
            "chat": self._describe,
        }

    def figures(self) -> dict[str, Any]:
        """The account of this run, and of the ledger as a whole (all runs), as plain data."""
        ledger = self.ledger
        return {
            "asked": self.account.asked,
            "from_ledger": self.account.from_ledger,
            "prompt_tokens": self.account.prompt_tokens,
            "completion_tokens": self.account.completion_tokens,
            "cost": round(self.prices.of(self.account.prompt_tokens, self.account.completion_tokens), 6),
            "outcomes": dict(sorted(self.account.outcomes.items())),
            "faults": dict(sorted(self.account.faults.items())),
            "ledger": {
                "replies": ledger.replies,
                "prompt_tokens": ledger.prompt_tokens,
                "completion_tokens": ledger.completion_tokens,
                "cost": round(self.prices.of(ledger.prompt_tokens, ledger.completion_tokens), 6),
            },
        }

    async def close(self) -> None:
        """Close the client, where it can be closed (within the loop it was used in)."""
        close = getattr(self._chat, "close", None)
        if close is not None:
            await close()

    async def words(
        self,
        tool: str,
        key: str,
        neighbours: Iterable[tuple[str, float] | tuple[str, float, int]],
        history: Sequence[str] = (),
    ) -> Words:
        """Text and evidence of one key; arguments as of :class:`star_rl.evidence.template.Template`.

        Raises:
            StarError: the endpoint fails again and again, refuses the key, or the ledger cannot be written.
        """
        from star_rl.evidence.answer import categories_in  # here: pydantic is slow to import

        rows = checked(tool, neighbours)
        if not rows:
            return self._counted(self.template(tool, key, rows, history))
        messages = evidence_messages(tool, key, rows, self.template.catalogue.items, history, self._flavour)
        for outcome in ("llm", "repaired"):
            text = await self._reply(messages)
            if text is None:
                break
            found = categories_in(text, tool, rows, self.template.categories)
            if isinstance(found, tuple):
                evidence = Evidence(tool, key, found, len(rows))
                template = self.template
                written = in_words(evidence, template.catalogue, template.size, template.budget, template.count)
                return self._counted(Words(written, evidence, outcome))
            messages = mending_messages(messages, text, found)
        stand_in = self.template(tool, key, rows, history)
        return self._counted(Words(stand_in.text, stand_in.evidence, "fallback"))

    def _counted(self, words: Words) -> Words:
        self.account.outcomes[words.outcome] += 1
        return words

    async def _reply(self, messages: list[dict[str, str]]) -> str | None:
        """A paid reply, old or new; ``None`` where every attempt failed."""
        key = key_of(self._describe, messages)
        found = self.ledger.get(key)
        if found is not None:
            self.account.from_ledger += 1
            return found.text
        last = ""
        for attempt in range(self._retries + 1):
            if attempt:
                most = self._backoff * 2 ** (attempt - 1)
                await asyncio.sleep(random.uniform(most / 2, most))
            try:
                reply = await self._chat.complete(messages)
            except StarError:
                raise
            except Exception as error:  # a client's errors are its own; each is counted by its name
                last = f"{type(error).__name__}: {error}"
                self.account.faults[type(error).__name__] += 1
                continue
            paid = Paid(valid(reply.text), reply.prompt_tokens, reply.completion_tokens)
            self.account.asked += 1
            self.account.prompt_tokens += paid.prompt_tokens
            self.account.completion_tokens += paid.completion_tokens
            await self.ledger.add(key, paid)
            self._failed_in_a_row = 0
            return paid.text
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self._patience:
            raise StarError(
                f"{self._failed_in_a_row} calls in a row failed ({' '.join(last.split())[:200]})",
                "mend the endpoint and run the same command again: nothing paid is lost",
            )
        return None

    def estimate(
        self, jobs: Iterable[tuple[str, str, Sequence[Neighbour], Sequence[str]]], total: int, completion: int = 300
    ) -> dict[str, Any]:
        """The price of a job before it is run (``--dry-run``); nothing is asked.

        Args:
            jobs: (tool, key, neighbours, history): all of the job, or an even sample of it.
            total: keys of the whole job.
            completion: tokens expected of an answer.

        Returns:
            ``{keys, sampled, prompt_tokens, completion_tokens, cost, paid_already}``: figures for the whole job, of
            which the share ``paid_already`` is in the ledger.
        """
        sampled = asked = paid = prompt = 0
        for tool, key, neighbours, history in jobs:
            sampled += 1
            rows = checked(tool, neighbours)
            if not rows:
                continue
            messages = evidence_messages(tool, key, rows, self.template.catalogue.items, history, self._flavour)
            asked += 1
            paid += self.ledger.get(key_of(self._describe, messages)) is not None
            prompt += sum(estimate_tokens(message["content"]) + 6 for message in messages)
        scale = total / sampled if sampled else 0.0
        tokens = round(prompt * scale), round(asked * completion * scale)
        return {
            "keys": total,
            "sampled": sampled,
            "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1],
            "cost": round(self.prices.of(*tokens), 4),
            "paid_already": round(paid / asked, 4) if asked else 0.0,
        }
