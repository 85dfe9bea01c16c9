"""The compact profile: one sentence, and ids with a category, for a student of a million parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from star_rl.prompts.case import Behaviour, Case
from star_rl.prompts.modes import COMPACT
from star_rl.prompts.words import facts, one_line

if TYPE_CHECKING:
    from star_rl.prompts.student import PromptOptions

#: Attributes of a user that are shown.
_PROFILE = ("gender", "occupation")


def compact_system(options: PromptOptions) -> str:
    """Return the system message of the compact profile."""
    if options.scope == "rank":
        return COMPACT.format(top=options.top)
    if options.scope == "plan":
        return "Plan which experts this user needs."
    steps = [
        *(["plan"] if options.planner else []),
        *(["ask the tools"] if options.tools else ["look at the history"]),
        *(["reflect"] if options.reflector else []),
    ]
    return f"Recommend: {', '.join(steps)}, then rank the best {options.top} candidates."


def compact_record(case: Case, options: PromptOptions) -> list[str]:
    """Return lines about the user and the history; with scope ``rank`` profile, notes and ratings too."""
    shown = case.history[-options.together :]
    if options.scope != "rank":
        lines = [f"{one_line(entry.item_id)} {case.category(entry.item_id)}" for entry in shown]
        return [f"User {one_line(case.user_id)}", "History:", *(lines or ["none"])]
    notes = one_line(case.memory.text) if case.memory else ""
    profile = ", ".join(facts({name: case.user[name] for name in _PROFILE if name in case.user}))
    lines = [compact_line(case, entry) for entry in shown]
    return [f"User {one_line(case.user_id)} {profile}".rstrip(), notes or "none", "History:", *(lines or ["none"])]


def compact_line(case: Case, entry: Behaviour) -> str:
    """Return id, category and rating of an interaction."""
    rated = "" if entry.rating is None else f" {entry.rating:g}"
    return f"{one_line(entry.item_id)} {case.category(entry.item_id)}{rated}"


def compact_candidates(case: Case) -> list[str]:
    """Return the candidates, one a line, below their heading."""
    return ["Candidates:", *(f"{one_line(item)} {case.category(item)}" for item in case.candidates)]
