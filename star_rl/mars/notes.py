"""A user's notes by rules: rank by liked and avoided categories, and correct them by what the user chose.

The notes are text, ``Likes: Drama, Comedy. Avoids: Horror.``, and the rules read nothing else of the memory.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from star_rl.prompts import Behaviour, Case, Memory
from star_rl.records import Item

_FORM = re.compile(r"Likes: (.*?)\.(?: Avoids: (.*?)\.)?")
_LIKES, _AVOIDS = 4, 2
#: A rating above it is a liked item, as in STARec; one below it is a disliked one.
_NEUTRAL = 3.0


def read_notes(text: str) -> tuple[list[str], list[str]]:
    """Return the liked and the avoided categories of notes, the most liked first; none of another form."""
    found = _FORM.fullmatch(text)
    return (found[1].split(", "), found[2].split(", ") if found[2] else []) if found else ([], [])


def notes(likes: Sequence[str], avoids: Sequence[str]) -> str:
    """Return liked and avoided categories as notes."""
    avoided = f" Avoids: {', '.join(avoids)}." if avoids else ""
    return f"Likes: {', '.join(likes)}.{avoided}" if likes else ""


def first_notes(case: Case, record: Sequence[Behaviour]) -> list[str]:
    """Return the most frequent categories of the liked part of a record, the more recent of equals first."""
    liked = [case.category(entry.item_id) for entry in reversed(record) if (entry.rating or 5.0) > _NEUTRAL]
    return [name for name, _ in Counter(liked).most_common(_LIKES)]


def rank_by_notes(
    case: Case, record: Sequence[Behaviour], popular: Mapping[str, int], weight: float
) -> tuple[str, list[str]]:
    """Return a reason and all candidates, best first.

    Args:
        record: read in the place of a memory that has no notes.
        popular: how often each item was chosen, by id.
        weight: of its logarithm; the first liked category adds 1, the next ones less, an avoided one takes 1/4 away.
    """
    likes, avoids = read_notes(case.memory.text if case.memory else "")
    likes = likes or first_notes(case, record)
    value = {name: 1.0 - place / _LIKES for place, name in enumerate(likes)} | dict.fromkeys(avoids, -1.0 / _LIKES)

    def score(name: str) -> float:
        item_id = case.slots.id_of(name) if case.slots else name
        return value.get(case.category(name), 0.0) + weight * math.log1p(popular.get(item_id, 0))

    return f"{likes[0]} first." if likes else "No notes.", sorted(case.candidates, key=score, reverse=True)


def rewrite_notes(case: Case, played: Memory, predicted: Sequence[Item]) -> tuple[str, str]:
    """Return a reason and the new notes: a kind that was liked goes up a place, one that was not goes down.

    Args:
        case: its history ends with the interaction that was revealed.
        predicted: the first of the ranking, best first.
    """
    revealed, earlier = case.history[-1], case.history[:-1]
    chosen, disliked = case.category(revealed.item_id), (revealed.rating or _NEUTRAL) < _NEUTRAL
    likes, avoids = read_notes(played.before)
    likes = likes or first_notes(case, earlier) or [chosen]
    place = likes.index(chosen) if chosen in likes else len(likes)
    if disliked and place >= len(likes) - 1:
        likes, avoids = [name for name in likes if name != chosen] or likes, [chosen, *avoids]
    elif disliked:
        likes[place : place + 2] = likes[place + 1], chosen
    elif place < len(likes):
        likes[max(0, place - 1) : place + 1] = list(dict.fromkeys([chosen, *likes[max(0, place - 1) : place]]))
    else:
        likes = [*likes[: _LIKES - 1], chosen]
    avoids = [name for name in dict.fromkeys(avoids) if name not in likes][:_AVOIDS]
    wrong = predicted[0].categories[0] if predicted and predicted[0].categories else chosen
    why = f"Chose {chosen}{f', not {wrong}' if wrong != chosen else ''}."
    return f"{why} Did not like it." if disliked else why, notes(likes, avoids)
