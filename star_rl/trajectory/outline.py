"""A short cut for rewards: what a response says, without the trajectory.

Most phases are regular: thoughts and calls, then one result. A trained policy writes little else, and one pattern finds
them in a fraction of the time of :func:`star_rl.trajectory.parse`. From the first phase of another form on, the text is
parsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from star_rl.trajectory.grammar import CALL, RECOMMEND, REGULAR, TAG
from star_rl.trajectory.model import BadCall, ToolCall, call_of, decode
from star_rl.trajectory.parse import ids_of, parse
from star_rl.trajectory.parse import ranking as ranking_of
from star_rl.trajectory.validate import CRITICAL, block_faults, call_fault, order_faults, result_fault, tag_faults


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


def outline(text: str, required: Sequence[str] = CRITICAL) -> Outline:
    """The outline of what the model wrote. Linear in the text; never raises.

    Args:
        text: what the model wrote.
        required: phases that must be there.
    """
    phases = REGULAR.findall(text, max(0, text.find("<")))  # words before the first tag are no fault
    # Between phases the parser has nothing open, so what follows regular ones is parsed as if it were the whole.
    rest = parse(phases.pop()[-1]) if phases and phases[-1][-1] else None
    tags = [phase[0] for phase in phases]
    ranking: list[str | None] | None = None
    calls: list[ToolCall | BadCall] = []
    faults: list[str] = []  # of blocks
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
    if rest is None:
        return Outline(tags, calls, ranking, order_faults(tags, required) + faults)
    later = rest.tags
    if RECOMMEND in later:
        ranking = ranking_of(rest)
    tags += later
    calls += rest.calls
    faults = [*tag_faults(rest), *order_faults(tags, required), *faults, *block_faults(rest)]
    return Outline(tags, calls, ranking, faults)
