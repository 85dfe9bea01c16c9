"""A shortcut for rewards: the outline of a response, without building a trajectory.

Most phases are regular: thoughts and calls, then one result. A trained policy writes little else, and one pattern finds
them in a fraction of the time of :func:`star_rl.trajectory.parse`, which reads the rest of the text, from the first
phase of another form on. Tests hold the result to the parser on texts of every kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from star_rl.trajectory.grammar import CALL, RECOMMEND, REGULAR, TAG
from star_rl.trajectory.model import BadCall, ToolCall, call_of, decode
from star_rl.trajectory.parse import ids_of, parse
from star_rl.trajectory.parse import ranking as ranking_of
from star_rl.trajectory.validate import CRITICAL, block_faults, order_faults, result_fault


@dataclass(slots=True)
class Outline:
    """The tags and calls in the order they were written, and the results of :func:`ranking` and :func:`faults`."""

    tags: list[str]
    calls: list[ToolCall | BadCall]
    ranking: list[str | None] | None
    faults: list[str]


def outline(text: str, required: Sequence[str] = CRITICAL) -> Outline:
    """Return the outline of a model's text, which must hold the ``required`` phases. Linear; never raises."""
    phases = REGULAR.findall(text, max(0, text.find("<")))  # words before the first tag are no fault
    # Between phases nothing is open, so what follows regular ones is read as if it were the whole.
    rest = phases.pop()[-1] if phases and phases[-1][-1] else ""
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
                        faults.append(f"call:{call.reason}")
        value, error = decode(raw)
        if tag == RECOMMEND:
            ranking = ids_of(value)
        if (error or tag == RECOMMEND) and (fault := result_fault(tag, value, error)):
            faults.append(fault)
    of_tags: list[str] = []
    if rest:
        parsed = parse(rest)
        further = parsed.tags
        if RECOMMEND in further:
            ranking = ranking_of(parsed)
        tags += further
        calls += parsed.calls
        of_tags = [f"tags:{problem}" for problem in parsed.problems]
        faults += block_faults(parsed)
    return Outline(tags, calls, ranking, of_tags + order_faults(tags, required) + faults)
