"""The slow mode: reflect on a ranking once the user's choice is known, then rank again with the new notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from star_rl.prompts.case import Case, Memory
from star_rl.prompts.compact import compact_candidates, compact_line, compact_record, compact_system
from star_rl.prompts.flavours import described, flavour_of
from star_rl.prompts.student import (
    NOTES,
    Length,
    PromptOptions,
    StudentPrompt,
    candidate_lines,
    prompt_of,
    record_line,
    shown_history,
    student_prompt,
)
from star_rl.prompts.words import estimate_tokens, facts, one_line
from star_rl.records import Item

#: Stands for the new notes in a follow-up query, of which they are the first part.
NEW_NOTES = "{notes}"
#: First places of the ranking that a reflection is shown.
PLACES = {"compact": 3, "full": 5}
_LONGEST = 1200  # characters of notes


def notes_of(text: str) -> str:
    """Return a model's notes as they are kept and shown: on one line, tags defused, cut."""
    return one_line(text, _LONGEST)


def reflect_prompt(
    case: Case, played: Memory, items: Sequence[Item], options: PromptOptions, length: Length = estimate_tokens
) -> StudentPrompt:
    """Return the prompt that asks for new notes.

    Args:
        case: its history ends with the interaction that was revealed.
        played: ``before``, ``candidates`` and ``ranking`` of the play.
        items: the first of the ranking, best first.
    """
    case = case.named(options.names, options.together)
    revealed = case.history[-1]
    before = replace(case, history=case.history[:-1], memory=Memory(played.before) if played.before else None)
    item_id = case.slots.id_of(revealed.item_id) if case.slots else revealed.item_id
    ranked = len(played.ranking)
    place = f"{played.ranking.index(item_id) + 1} of {ranked}" if item_id in played.ranking else f"below {ranked}"
    if options.profile == "compact":
        kinds = [one_line(item.categories[0], 40) if item.categories else "unknown" for item in items]
        lines = [*compact_record(before, options), "Ranked:", ", ".join(kinds), "Chosen:", compact_line(case, revealed)]
        content, system = "\n".join([*lines, f"Place {place}.", "Reflect."]), compact_system(options)
        shown = min(options.together, len(before.history))
        return prompt_of(system, content, shown, len(before.history) - shown, length)
    flavour, history = flavour_of(case.source), shown_history(before, options, length)
    parts = [
        "\n".join(["# User", f"id {one_line(case.user_id)}", *facts(case.user)]),
        history.text,
        "\n".join(["# Your ranking, the first places", *(described(item, flavour) for item in items)]),
        f"# What the user {flavour.did} then\n{record_line(revealed, case.items, flavour, options.review, length)}\n"
        f"Its place in your ranking: {place}.",
        f"Reflect, and write the notes anew for user {one_line(case.user_id)}.",
    ]
    system = student_prompt(case, options, length).messages[0]["content"]
    return prompt_of(system, "\n\n".join(parts), history.shown, history.cut, length)


def follow_up(case: Case, options: PromptOptions, length: Length = estimate_tokens) -> str:
    """Return the user's turn after a reflection: rank this case's candidates by :data:`NEW_NOTES`."""
    case = case.named(options.names, options.together)
    if options.profile == "compact":
        return "\n".join([NEW_NOTES, *compact_candidates(case), "Rank."])
    lines = [f"# Candidate {flavour_of(case.source).items}", *candidate_lines(case, options, length)]
    asked = f"Rank the candidates for user {one_line(case.user_id)}."
    return "\n\n".join([f"{NOTES}\n{NEW_NOTES}", "\n".join(lines), asked])
