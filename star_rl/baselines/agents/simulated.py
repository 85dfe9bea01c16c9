"""Agent4Rec (arXiv 2310.10108) as a ranker: a simulated user with a taste memory and an emotion memory rates the
candidates page by page."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from star_rl.baselines.agents.answer import Malformed, json_object
from star_rl.baselines.agents.workflow import BaselineAgent, Talk
from star_rl.prompts import Behaviour, Case
from star_rl.prompts.baselines import page_prompt, taste_prompt

#: Candidates shown at once.
PAGE = 5
_HIGHEST = 10.0


class Agent4Rec(BaselineAgent):
    """One call for the taste, one a page. Ranks by interest; among equals, items they would take come first."""

    label = "Agent4Rec"

    async def work(self, talk: Talk) -> list[str]:
        case = talk.case
        taste = await talk.ask(taste_prompt(talk.flavour, self.record(case)))
        if not taste.strip():
            raise Malformed("the taste is empty")
        pages = [case.candidates[start : start + PAGE] for start in range(0, len(case.candidates), PAGE)]
        mood: list[str] = []
        interest: dict[str, tuple[float, bool]] = {}
        character = traits(case, self.entries(case))
        for number, page in enumerate(pages, 1):
            lines = self.candidates(talk, "agent4rec", page)
            said = json_object(
                await talk.ask(page_prompt(talk.flavour, character, taste, mood, number, len(pages), lines))
            )
            judged = _judged(said.get("items"), page)
            if not judged:
                raise Malformed(f"page {number} judges none of its items")
            interest |= judged
            if isinstance(feeling := said.get("feeling"), str) and feeling.strip():
                mood.append(feeling)
        return sorted(case.candidates, key=lambda item: interest.get(item, (0.0, False)), reverse=True)


def _judged(rows: Any, page: Sequence[str]) -> dict[str, tuple[float, bool]]:
    """Return (interest, would take) by item of the page; rows that are invalid are skipped."""
    found: dict[str, tuple[float, bool]] = {}
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, Mapping):
            continue
        name, value = row.get("id"), row.get("interest")
        name = str(name) if isinstance(name, int) and not isinstance(name, bool) else name
        if name not in page or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        found[str(name)] = (min(_HIGHEST, max(0.0, float(min(value, 1e6)))), row.get("take") is True)
    return found


def traits(case: Case, entries: Sequence[Behaviour]) -> str:
    """Return activity, conformity and diversity in words, as far as the history shows them."""
    if not entries:
        return "new here, nothing is known"
    words = [_step(len(entries), ((10, "seldom active"), (50, "active now and then"), (math.inf, "very active")))]
    apart = [
        abs(entry.rating - standing)
        for entry in entries
        if entry.rating is not None and (standing := _standing(case, entry.item_id)) is not None
    ]
    if apart:
        steps = ((0.5, "rates as most people do"), (1.0, "at times of another opinion"), (math.inf, "judges alone"))
        words.append(_step(sum(apart) / len(apart), steps))
    kinds = [case.items[entry.item_id].categories[:1] for entry in entries if entry.item_id in case.items]
    if any(kinds):
        share = len({kind for kind in kinds if kind}) / len(kinds)
        steps = ((0.2, "keeps to a few kinds"), (0.5, "varies"), (math.inf, "tries many kinds"))
        words.append(_step(share, steps))
    return ", ".join(words)


def _step(value: float, steps: Sequence[tuple[float, str]]) -> str:
    return next(word for bound, word in steps if value < bound)


def _standing(case: Case, item_id: str) -> float | None:
    """Return an item's mean rating; None if its source has none."""
    item = case.items.get(item_id)
    for name in ("average_rating", "stars"):
        value = item.attributes.get(name) if item else None
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            with contextlib.suppress(ValueError):
                if math.isfinite(number := float(value)):
                    return number
    return None
