"""Baseline666, DummyAgent, RecHacker: the challenge's entries, each one prompt with fields chosen by source."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter

from star_rl.baselines.agents.answer import candidate_list, only_candidates, with_missing
from star_rl.baselines.agents.plan import REMEMBERED
from star_rl.baselines.agents.workflow import Agent, Talk
from star_rl.mars.case import Case
from star_rl.prompts import Behaviour
from star_rl.prompts.baselines import Shown, baseline_prompt, user_lines
from star_rl.prompts.words import one_line


class _Entry(Agent):
    """One prompt, one answer, one list."""

    prompt: str

    async def work(self, talk: Talk) -> list[str]:
        candidates = talk.case.candidates
        text = await talk.ask(baseline_prompt(self.prompt, talk.flavour, len(candidates), self.shown(talk)))
        return candidate_list(text, candidates)

    @abstractmethod
    def shown(self, talk: Talk) -> Shown:
        """What this agent shows of the case."""


class Baseline666(_Entry):
    """The last reviews, the user in figures, fields per source; foreign ids dropped, missing candidates appended."""

    label = "Baseline666"
    prompt = "baseline666"

    async def work(self, talk: Talk) -> list[str]:
        candidates = talk.case.candidates
        return with_missing(only_candidates(await super().work(talk), candidates), candidates)

    def shown(self, talk: Talk) -> Shown:
        case = talk.case
        return Shown(
            user_lines(case.user_id, case.user),
            self.record(case, REMEMBERED),
            self.candidates(talk, self.prompt),
            figures=figures(case, self.entries(case)),
        )


class DummyAgent(_Entry):
    """The model plays the user; few fields, no profile, all reviews; foreign ids dropped, nothing appended."""

    label = "DummyAgent"
    prompt = "dummy"

    async def work(self, talk: Talk) -> list[str]:
        return only_candidates(await super().work(talk), talk.case.candidates)

    def shown(self, talk: Talk) -> Shown:
        case = talk.case
        user = user_lines(case.user_id, case.user, profile=False)
        return Shown(user, self.record(case), self.candidates(talk, self.prompt))


class RecHacker(_Entry):
    """The model plays the user on a named platform and thinks unseen; wide fields; the list as it comes."""

    label = "RecHacker"
    prompt = "rechacker"

    def shown(self, talk: Talk) -> Shown:
        case = talk.case
        return Shown(user_lines(case.user_id, case.user), self.record(case), self.candidates(talk, self.prompt))


def figures(case: Case, entries: list[Behaviour]) -> str:
    """A user's record in numbers: how much, how well rated, of which kinds."""
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
