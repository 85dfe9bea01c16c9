"""Agents that ask once: BaseAgent, CoTAgent, MemoryAgent, CoTMemAgent, and the challenge's entries Baseline666,
DummyAgent, RecHacker."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from star_rl.baselines.agents.answer import candidate_list, last_list, only_candidates, widest_list, with_missing
from star_rl.baselines.agents.workflow import ANSWER_TOKENS, BaselineAgent, Talk
from star_rl.prompts import Behaviour, Case
from star_rl.prompts.baselines import Shown, baseline_prompt, user_lines
from star_rl.prompts.words import one_line

#: Tokens of an answer that reasons before its list; the published 500 cut many off before it.
REASONED_TOKENS = 1500
#: Latest reviews that the memory agents and Baseline666 read.
REMEMBERED = 15
_WORD = re.compile(r"\w{2,}")

_ITEMS = "only the last candidate's description reaches the prompt; a list must be spelt as Python spells it"
_CUT = "500 tokens cut the reasoning off before the list"


class SingleCall(BaselineAgent):
    """One prompt, one answer, one list."""

    prompt: ClassVar[str]  #: its name in :mod:`star_rl.prompts.baselines`
    last: ClassVar[int] = 0  #: reviews shown; 0 = all that fit
    profile: ClassVar[bool] = True  #: show the user's attributes
    reasons: ClassVar[bool] = False  #: reason before the list

    async def work(self, talk: Talk) -> list[str]:
        candidates = talk.case.candidates
        tokens = REASONED_TOKENS if self.reasons and self.mended else ANSWER_TOKENS
        messages = baseline_prompt(self.prompt, talk.flavour, len(candidates), self.shown(talk))
        return self.read(await talk.ask(messages, tokens), candidates)

    def shown(self, talk: Talk) -> Shown:
        """Return the parts of the prompt."""
        case = talk.case
        user = user_lines(case.user_id, case.user, self.profile)
        return Shown(user, self.record(case, self.last), self.candidates(talk, self.prompt))

    def read(self, text: str, candidates: Sequence[str]) -> list[str]:
        """Return the list in an answer."""
        return candidate_list(text, candidates)


class BaseAgent(SingleCall):
    """User profile, reviews and candidates in one prompt."""

    label = "BaseAgent"
    fault = _ITEMS
    prompt = "base"

    def shown(self, talk: Talk) -> Shown:
        """As published, only the last candidate has more than its id."""
        shown = super().shown(talk)
        if self.mended:
            return shown
        return replace(shown, candidates=[*map(one_line, talk.case.candidates[:-1]), *shown.candidates[-1:]])

    def read(self, text: str, candidates: Sequence[str]) -> list[str]:
        return super().read(text, candidates) if self.mended else self.published(text)

    def published(self, text: str) -> list[str]:
        """Read an answer as the published agent does."""
        return last_list(text)


class CoTAgent(BaseAgent):
    """BaseAgent that reasons step by step before its list."""

    label = "CoTAgent"
    fault = f"{_ITEMS}; {_CUT}"
    prompt = "cot"
    reasons = True


class MemoryAgent(BaseAgent):
    """Keeps the last reviews in a memory and recalls the one closest to the candidates.

    The published agents compare embeddings of the endpoint; here TF-IDF over words does it, without another model.
    """

    label = "MemoryAgent"
    fault = f"{_ITEMS}; all between the first and the last bracket was run as code (here: read as a list, never run)"
    prompt = "memory"
    last = REMEMBERED

    def shown(self, talk: Talk) -> Shown:
        shown = super().shown(talk)
        return replace(shown, memory=closest(shown.record, "\n".join(shown.candidates)))

    def published(self, text: str) -> list[str]:
        return widest_list(text)


class CoTMemAgent(MemoryAgent):
    """MemoryAgent that reasons step by step before its list."""

    label = "CoTMemAgent"
    fault = f"{MemoryAgent.fault}; {_CUT}"
    prompt = "cot_memory"
    reasons = True


class Baseline666(SingleCall):
    """The last reviews, the user in figures; foreign ids are dropped, missing candidates appended."""

    label = "Baseline666"
    prompt = "baseline666"
    last = REMEMBERED

    def shown(self, talk: Talk) -> Shown:
        return replace(super().shown(talk), figures=figures(talk.case, self.entries(talk.case)))

    def read(self, text: str, candidates: Sequence[str]) -> list[str]:
        return with_missing(only_candidates(super().read(text, candidates), candidates), candidates)


class DummyAgent(SingleCall):
    """The model plays the user; few fields, no profile, all reviews; foreign ids are dropped."""

    label = "DummyAgent"
    prompt = "dummy"
    profile = False

    def read(self, text: str, candidates: Sequence[str]) -> list[str]:
        return only_candidates(super().read(text, candidates), candidates)


class RecHacker(SingleCall):
    """The model plays the user on a named platform and reasons silently; many fields; the list as it comes."""

    label = "RecHacker"
    prompt = "rechacker"


def closest(memories: Sequence[str], query: str) -> str:
    """Return the memory with the highest TF-IDF cosine to the query, the latest of equals; empty without memories."""
    counts = [Counter(_WORD.findall(memory.lower())) for memory in memories]
    weight = {word: math.log(1 + len(counts) / n) for word, n in Counter(w for own in counts for w in own).items()}
    asked = Counter(_WORD.findall(query.lower()))

    def likeness(count: Counter[str]) -> float:
        shared = sum(count[word] * asked[word] * weight[word] ** 2 for word in count if word in asked)
        norm = math.sqrt(sum((number * weight[word]) ** 2 for word, number in count.items()))
        return shared / norm if norm else 0.0  # the query's own norm is the same for all

    best = max(range(len(memories)), key=lambda place: (likeness(counts[place]), place), default=None)
    return "" if best is None else memories[best]


def figures(case: Case, entries: Sequence[Behaviour]) -> str:
    """Return a user's record in numbers: how many entries, how well rated, which kinds."""
    if not entries:
        return "no entries"
    rated = [entry.rating for entry in entries if entry.rating is not None]
    lines = [f"entries {len(entries)}"]
    if rated:
        liked = sum(rating >= 4 for rating in rated) / len(rated)
        lines.append(f"mean rating {sum(rated) / len(rated):.2f}, rated 4 or more {liked:.0%}")
    kinds = Counter(
        category for entry in entries if (item := case.items.get(entry.item_id)) for category in item.categories[:3]
    )
    if kinds:
        lines.append("kinds " + ", ".join(f"{one_line(kind, 40)} {count}" for kind, count in kinds.most_common(6)))
    return "\n".join(lines)
