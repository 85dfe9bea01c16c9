"""BaseAgent, CoTAgent, MemoryAgent, CoTMemAgent: a fixed plan (user, items, reviews), with and without step-by-step
reasoning, with and without a memory of reviews."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from star_rl.baselines.agents.answer import candidate_list, last_list, widest_list
from star_rl.baselines.agents.workflow import ANSWER_TOKENS, Agent, Talk
from star_rl.prompts.baselines import Shown, baseline_prompt, user_lines
from star_rl.prompts.words import one_line

#: Tokens of an answer that reasons before its list; the published 500 cut many off before it.
REASONED_TOKENS = 1500
#: Reviews that the memory agents read and remember.
REMEMBERED = 15
_WORD = re.compile(r"\w{2,}")

_ITEMS = "only the last candidate's description reaches the prompt; a list must be spelt as Python spells it"


class BaseAgent(Agent):
    """User profile, reviews and candidates in one prompt."""

    label = "BaseAgent"
    fault = _ITEMS
    prompt: ClassVar[str] = "base"
    reasons: ClassVar[bool] = False

    async def work(self, talk: Talk) -> list[str]:
        shown = self.shown(talk)
        tokens = REASONED_TOKENS if self.reasons and self.mended else ANSWER_TOKENS
        text = await talk.ask(baseline_prompt(self.prompt, talk.flavour, len(talk.case.candidates), shown), tokens)
        return candidate_list(text, talk.case.candidates) if self.mended else self.published(text)

    def published(self, text: str) -> list[str]:
        """How the published agent reads its answer."""
        return last_list(text)

    def shown(self, talk: Talk) -> Shown:
        case = talk.case
        return Shown(user_lines(case.user_id, case.user), self.record(case), self.described(talk))

    def described(self, talk: Talk) -> list[str]:
        """Candidates; as published only the last has more than its id."""
        lines = self.candidates(talk, "base")
        return lines if self.mended else [*map(one_line, talk.case.candidates[:-1]), *lines[-1:]]


class CoTAgent(BaseAgent):
    """BaseAgent that reasons step by step before its list."""

    label = "CoTAgent"
    fault = f"{_ITEMS}; 500 tokens cut the reasoning off before the list"
    prompt = "cot"
    reasons = True


class MemoryAgent(BaseAgent):
    """The last reviews are put into a memory, and the one closest to the candidates is recalled.

    The published agents compare embeddings of the endpoint; here TF-IDF over words does it, without a further model.
    """

    label = "MemoryAgent"
    fault = f"{_ITEMS}; all between the first and the last bracket was run as code (here: read as a list, never run)"
    prompt = "memory"

    def published(self, text: str) -> list[str]:
        return widest_list(text)

    def shown(self, talk: Talk) -> Shown:
        case, record, described = talk.case, self.record(talk.case, REMEMBERED), self.described(talk)
        return Shown(user_lines(case.user_id, case.user), record, described, closest(record, "\n".join(described)))


class CoTMemAgent(MemoryAgent):
    """MemoryAgent that reasons step by step before its list."""

    label = "CoTMemAgent"
    fault = f"{MemoryAgent.fault}; 500 tokens cut the reasoning off before the list"
    prompt = "cot_memory"
    reasons = True


def closest(memories: Sequence[str], query: str) -> str:
    """The memory with the highest TF-IDF cosine to the query, the latest of equals; empty without memories."""
    counts = [Counter(_WORD.findall(memory.lower())) for memory in memories]
    spread = Counter(word for count in counts for word in count)
    asked = Counter(_WORD.findall(query.lower()))

    def weight(word: str) -> float:
        return math.log(1 + len(memories) / spread[word]) if spread[word] else 0.0

    def likeness(count: Counter[str]) -> float:
        shared = sum(count[word] * asked[word] * weight(word) ** 2 for word in count if word in asked)
        norm = math.sqrt(sum((number * weight(word)) ** 2 for word, number in count.items()))
        return shared / norm if norm else 0.0  # the query's own norm is the same for all

    best = max(range(len(memories)), key=lambda place: (likeness(counts[place]), place), default=None)
    return "" if best is None else memories[best]
