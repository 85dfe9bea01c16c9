"""A shortcut for rewards: the outline of a response, without building a trajectory.

Most phases are regular: thoughts and calls, then one result. A trained policy writes little else, and one pattern finds
them in a fraction of the time of :func:`star_rl.trajectory.parse`. From the first phase of another form on, the tags
are gone through one by one. Tests hold both to the parser on texts of every kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from star_rl.trajectory.grammar import CALL, JSON, PHASES, RECOMMEND, REGULAR, RESPONSE, TAG
from star_rl.trajectory.model import BadCall, ToolCall, call_of, decode
from star_rl.trajectory.parse import ids_of, is_cut, unclosed_call
from star_rl.trajectory.validate import CRITICAL, call_fault, order_faults, result_fault

_PHASES = frozenset(PHASES)


@dataclass(slots=True)
class Outline:
    """The result of :func:`parse`, :func:`faults` and :func:`ranking` together.

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
    """Return the outline of a model's text. Linear in the text; never raises.

    Args:
        text: what the model wrote.
        required: phases that must be there.
    """
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
                        faults.append(call_fault(call))
        value, error = decode(raw)
        if tag == RECOMMEND:
            ranking = ids_of(value)
        if (error or tag == RECOMMEND) and (fault := result_fault(tag, value, error)):
            faults.append(fault)
    if rest:
        walked = _walk(rest)
        if RECOMMEND in walked.tags:
            ranking = walked.ranking
        tags += walked.tags
        calls += walked.calls
        faults += walked.faults
    else:
        walked = _Walked()
    return Outline(tags, calls, ranking, walked.tag_faults + order_faults(tags, required) + faults)


@dataclass(slots=True)
class _Walked:
    """Return the outline of a text that is not regular."""

    tags: list[str] = field(default_factory=list)
    calls: list[ToolCall | BadCall] = field(default_factory=list)
    ranking: list[str | None] | None = None
    tag_faults: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def _walk(text: str) -> _Walked:
    """From tag to tag, as :func:`star_rl.trajectory.parse` goes, without making blocks and phases of what it finds."""
    out = _Walked()
    tags, calls, faults, tag_faults = out.tags, out.calls, out.faults, out.tag_faults
    parts = TAG.split(text)
    end = len(parts)
    cut = is_cut(parts, text)
    if cut:
        end -= 4
    phase, result, results = "", "", 0  # the one that is open, its last result, how many it has
    unclosed: list[str] = []
    for block, inside, tag in zip(parts[1:end:4], parts[2:end:4], parts[3:end:4], strict=True):
        if block == JSON:
            result, results = inside, results + 1
        elif block == CALL:
            calls.append(call := call_of(inside))
            if isinstance(call, BadCall):
                faults.append(call_fault(call))
        elif block == RESPONSE:
            faults.append(f"forged:{phase}")
        elif block is not None:
            continue
        elif tag in _PHASES:
            if phase:
                tag_faults.append(f"tags:nested:<{tag}>")
                unclosed.append(phase)
            if tag == RECOMMEND:
                out.ranking = None
            phase, results = tag, 0
            tags.append(tag)
        elif phase and tag == f"/{phase}":
            if results > 1:
                faults.append(f"repeated:JSON in {phase}")
            value, error = decode(result) if results else (None, "absent")
            if phase == RECOMMEND:
                out.ranking = ids_of(value)
            if fault := result_fault(phase, value, error):
                faults.append(fault)
            phase = ""
        else:
            tag_faults.append(f"tags:stray:<{tag}>")
    if cut:
        tag, inside = parts[end : end + 2]
        if tag == CALL:
            calls.append(last := unclosed_call(inside))
            faults.append(call_fault(last))
        tag_faults.append(f"tags:unclosed:<{tag}>")
    if phase:
        unclosed.append(phase)
    tag_faults += [f"tags:unclosed:<{tag}>" for tag in unclosed]
    return out
