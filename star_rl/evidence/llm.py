"""The LLM verbaliser: a chat model sorts neighbours into categories; each answer is checked and asked again once.

The words depend on the replies alone, and the chat client's cache keeps every reply. A killed build therefore resumes
when it is run again: paid replies are read, the rest is asked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from star_rl.errors import StarError
from star_rl.evidence.model import REPRESENTATIVES, USER_CF, Category, Neighbour, Words, checked
from star_rl.evidence.template import Template, clean
from star_rl.prompts.evidence import EVIDENCE_VERSION, evidence_messages, mending_messages
from star_rl.prompts.flavours import FLAVOURS, Flavour
from star_rl.prompts.words import estimate_tokens, valid

if TYPE_CHECKING:
    from star_rl.chat import ChatClient


class CategoryAnswer(BaseModel):
    """One category in a model's answer."""

    model_config = ConfigDict(strict=True)

    name: str = Field(min_length=1, max_length=80)
    summary: str = Field(min_length=1, max_length=400)
    item_ids: list[str] = Field(min_length=1, max_length=REPRESENTATIVES)
    why: str = Field(default="", max_length=400)


class EvidenceAnswer(BaseModel):
    """A model's answer."""

    categories: list[CategoryAnswer] = Field(min_length=1, max_length=5)


def categories_in(
    text: str, tool: str, neighbours: Sequence[Neighbour], most: int = 5
) -> tuple[Category, ...] | list[str]:
    """Return the categories of a model's answer, or its faults, one line each. Never raises.

    Args:
        text: the model's reply; the outermost JSON object behind its thoughts counts.
        tool: ``UserCF`` needs a reason for every category.
        neighbours: the ids that may be named, each once.
        most: categories to keep.
    """
    text = text.rpartition("</think>")[2]
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return ["there is no JSON object in it"]
    try:
        answer = EvidenceAnswer.model_validate(json.loads(text[start : end + 1]))
    except ValidationError as error:
        return [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
    except (ValueError, RecursionError) as error:
        return [f"it is not valid JSON ({str(error)[:100]})"]
    support = {row.id: row.support for row in neighbours}
    faults: list[str] = []
    seen: set[str] = set()
    categories = []
    for number, group in enumerate(answer.categories):
        ids = tuple(group.item_ids)
        for item_id in ids:
            if item_id not in support:
                faults.append(f"categories.{number}.item_ids: {item_id!r} is not in the list")
            elif item_id in seen:
                faults.append(f"categories.{number}.item_ids: {item_id!r} is named twice")
            seen.add(item_id)
        name, summary, why = (clean(words, 400) for words in (group.name, group.summary, group.why))
        if not name or not summary or (tool == USER_CF and not why):
            why_too = " and why" if tool == USER_CF else ""
            faults.append(f"categories.{number}: name, summary{why_too} must say something")
        people = sum(support.get(item_id, 0) for item_id in ids)
        categories.append(Category(name, summary, ids, why if tool == USER_CF else "", len(ids), people))
    return faults or tuple(categories[:most])


class LanguageModel:
    """Put neighbours into words by a chat model.

    Args:
        chat: the client; its options set concurrency, retries, prices and the cache of replies.
        template: replaces an answer that stays invalid; its size and budget are those of the texts.
        flavour: what items are called in the prompt.
        patience: the build stops after so many keys in a row whose calls all failed, so that an endpoint that is down
            does not fill the store with templates.
    """

    def __init__(
        self, chat: ChatClient, template: Template, flavour: Flavour = FLAVOURS["generic"], patience: int = 20
    ) -> None:
        if patience < 1:
            raise StarError(f"patience is {patience}", "give at least 1")
        self.chat, self.template, self.flavour, self.patience = chat, template, flavour, patience
        self.outcomes: Counter[str] = Counter()
        self._failed_in_a_row = 0

    def about(self) -> dict[str, Any]:
        """Return what distinguishes these words from others, for the store's manifest."""
        mine = {"verbaliser": "llm", "prompt": EVIDENCE_VERSION, "flavour": self.flavour.name}
        return {**self.template.about(), **mine, "chat": self.chat.describe}

    def figures(self) -> dict[str, Any]:
        """Return the calls and cost of this run, and of all runs that filled the cache, as plain data."""
        from star_rl.chat.cache import Cache

        figures = {**self.chat.usage.figures(), "outcomes": dict(sorted(self.outcomes.items()))}
        if self.chat.options.cache:
            cache = Cache(self.chat.options.cache)  # the client's own may be closed
            replies, prompt, completion = cache.totals()
            cache.close()
            tokens = {"prompt_tokens": prompt, "completion_tokens": completion}
            figures["cache"] = {"replies": replies, **tokens, "cost": round(self._cost(prompt, completion), 6)}
        return figures

    def _cost(self, prompt: float, completion: float) -> float:
        options = self.chat.options
        return (options.price_prompt * prompt + options.price_completion * completion) / 1e6

    def _messages(self, tool: str, key: str, rows: list[Neighbour], history: Sequence[str]) -> list[dict[str, str]]:
        return evidence_messages(tool, key, rows, self.template.catalogue.items, history, self.flavour)

    async def words(
        self,
        tool: str,
        key: str,
        neighbours: Iterable[tuple[str, float] | tuple[str, float, int]],
        history: Sequence[str] = (),
    ) -> Words:
        """Return text and categories of one key; arguments as of :class:`star_rl.evidence.template.Template`.

        Raises:
            StarError: ``patience`` is spent, the endpoint refuses the key, or the cache cannot be written.
        """
        words = await self._words(tool, key, checked(tool, neighbours), history)
        self.outcomes[words.outcome] += 1
        return words

    async def _words(self, tool: str, key: str, rows: list[Neighbour], history: Sequence[str]) -> Words:
        template = self.template
        if not rows:
            return template(tool, key, rows, history)
        messages = self._messages(tool, key, rows, history)
        for outcome in ("llm", "repaired"):
            text = await self._reply(messages)
            if text is None:
                break
            found = categories_in(text, tool, rows, template.categories)
            if isinstance(found, tuple):
                return Words(template.text(tool, found), found, outcome)
            messages = mending_messages(messages, text, found)
        replacement = template(tool, key, rows, history)
        return Words(replacement.text, replacement.categories, "fallback")

    async def _reply(self, messages: list[dict[str, str]]) -> str | None:
        """Return the model's reply; None if the call failed."""
        from star_rl.chat import ChatError

        try:
            reply = await self.chat.complete(messages)
        except ChatError as error:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= self.patience:
                raise StarError(
                    f"{self._failed_in_a_row} calls in a row failed ({error})",
                    "fix the endpoint and run the same command again: nothing paid is lost",
                ) from None
            return None
        self._failed_in_a_row = 0
        return valid(reply.text)

    def estimate(
        self, jobs: Iterable[tuple[str, str, Sequence[Neighbour], Sequence[str]]], total: int, completion: int = 300
    ) -> dict[str, Any]:
        """Return what a build would cost (``--dry-run``); the model is not asked.

        Args:
            jobs: (tool, key, neighbours, history): all of the build, or an even sample of it.
            total: keys of the whole build.
            completion: expected tokens of an answer.

        Returns:
            ``{keys, sampled, prompt_tokens, completion_tokens, cost, paid_already}``: figures for the whole build;
            the share ``paid_already`` is in the cache.
        """
        sampled = asked = paid = prompt = 0
        for tool, key, neighbours, history in jobs:
            sampled += 1
            if rows := checked(tool, neighbours):
                messages = self._messages(tool, key, rows, history)
                asked += 1
                paid += self.chat.is_cached(messages)
                prompt += sum(estimate_tokens(message["content"]) + 6 for message in messages)
        scale = total / sampled if sampled else 0.0
        tokens = round(prompt * scale), round(asked * completion * scale)
        return {
            "keys": total,
            "sampled": sampled,
            "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1],
            "cost": round(self._cost(*tokens), 4),
            "paid_already": round(paid / asked, 4) if asked else 0.0,
        }
