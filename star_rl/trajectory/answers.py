"""A rollout in which the environment speaks as the user has several answers of the model, not one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from star_rl.trajectory.grammar import RECOMMEND
from star_rl.trajectory.parse import parse
from star_rl.trajectory.validate import CRITICAL, faults

#: What an answer after the first has to hold.
AGAIN = (RECOMMEND,)


def answers_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the model wrote between the user's turns, its own turns joined by a newline."""
    answers: list[list[str]] = [[]]
    for message in messages:
        if message["role"] == "user":
            answers.append([])
        elif message["role"] == "assistant":
            answers[-1].append(message["content"] or "")
    return ["\n".join(turns) for turns in answers]


def answer_faults(answers: Sequence[str], required: Sequence[str] = CRITICAL) -> list[str]:
    """Return the faults of each answer (see :func:`faults`): a later one holds a ranking at least."""
    return [
        fault
        for place, text in enumerate(answers)
        for fault in faults(parse(text), AGAIN if place and required else required)
    ]
