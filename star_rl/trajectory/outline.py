"""A short cut for rewards: what a response says, without the trajectory, where its form is as regular as most are.

Regular are phases that follow one another, each of thoughts, calls and then one result. A trained policy writes little
else, one pattern finds it in a fraction of the time of :func:`star_rl.trajectory.parse`, and what may still be wrong
with it is soon told. Of a text of any other form nothing is said here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from star_rl.trajectory.grammar import CALL, RECOMMEND, REGULAR, TAG
from star_rl.trajectory.model import BadCall, ToolCall, call_of, decode
from star_rl.trajectory.parse import ids_of
from star_rl.trajectory.validate import CRITICAL, call_fault, order_faults, result_fault


@dataclass(slots=True)
class Outline:
    """What :func:`parse`, :func:`faults` and :func:`ranking` together would tell.

    Attributes:
        tags: of the phases, in the order they were written.
        calls: likewise.
        ranking: the last one.
        faults: by name.
    """

    tags: list[str]
    calls: list[ToolCall | BadCall]
    ranking: list[str | None] | None
    faults: list[str]


def outline(text: str, required: Sequence[str] = CRITICAL) -> Outline | None:
    """The outline of a response of regular form, ``None`` of any other. Linear in the text; never raises.

    Args:
        text: what the model wrote.
        required: phases that must be there.
    """
    phases = REGULAR.findall(text)
    if phases and phases[-1][-1]:
        return None
    tags = [phase[0] for phase in phases]
    ranking: list[str | None] | None = None
    calls: list[ToolCall | BadCall] = []
    faults = order_faults(tags, required)
    for tag, called, raw, _ in phases:
        if called:
            for block, inside, _ in TAG.findall(called):
                if block == CALL:
                    call = call_of(inside)
                    calls.append(call)
                    if isinstance(call, BadCall):
                        faults.append(call_fault(call))
        value, error = decode(raw)
        if tag == RECOMMEND:
            ranking = ids_of(value)
        if (error or tag == RECOMMEND) and (fault := result_fault(tag, value, error)):
            faults.append(fault)
    return Outline(tags, calls, ranking, faults)
