"""Text to trajectory. One pass over the tags, linear in the text, and nothing raises: a bad rollout is data.

Inside ``<Thinking>``, ``<JSON>``, ``<tool_call>`` and ``<tool_response>`` only the block's own closing tag counts, so a
phase named in a thought or in a JSON string is words, not structure.
"""

from __future__ import annotations

from collections.abc import Callable

from star_rl.trajectory.grammar import CALL, JSON, RECOMMEND, RESPONSE, TAG, THINKING
from star_rl.trajectory.model import (
    BadCall,
    Block,
    Json,
    Phase,
    Response,
    Text,
    Thinking,
    ToolCall,
    Trajectory,
    call_of,
)


def _response(inside: str) -> Response:
    return Response(inside.removeprefix("\n").removesuffix("\n"))


#: Block tag -> (how to make it of what stands inside, its closing tag).
_BLOCKS: dict[str, tuple[Callable[[str], Block], str]] = {
    tag: (make, f"</{tag}>")
    for tag, make in ((THINKING, Thinking), (JSON, Json), (CALL, call_of), (RESPONSE, _response))
}


def parse(text: str) -> Trajectory:
    """Parse a whole trajectory, or only what the model wrote of it.

    Problems are ``(code, offset)``: ``unclosed:<tag>``, ``stray:</tag>`` (a closing tag with nothing open),
    ``nested:<tag>`` (a phase opened inside another, which it ends). Tags out of place are kept as :class:`Text`, so
    that rendering shows everything that was written.
    """
    phases: list[Phase] = []
    problems: list[tuple[str, int]] = []
    phase = Phase("")  # ``""``: outside of any
    blocks = phase.blocks
    place = 0  # all before it has been read
    search, of_tag = TAG.search, _BLOCKS.get

    while (match := search(text, place)) is not None:
        start, inside = match.span()
        if start > place and (words := text[place:start].strip()):
            blocks.append(Text(words))
        place = inside
        slash, tag = match.groups()
        block = of_tag(tag)
        if block is None and not slash:  # a phase begins
            if phase.tag:
                problems.append((f"nested:<{tag}>", start))
            elif blocks:
                phases.append(phase)
            phase = Phase(tag, [], False)
            blocks = phase.blocks
            phases.append(phase)
        elif block is None and phase.tag == tag:  # it ends
            phase.closed = True
            phase = Phase("")
            blocks = phase.blocks
        elif block is None or slash:
            problems.append((f"stray:</{tag}>", start))
            blocks.append(Text(match.group()))
        else:
            make, closing = block
            end = text.find(closing, inside)
            if end < 0:  # what is left belongs to it, so this search to the end of the text is the last
                problems.append((f"unclosed:<{tag}>", inside))
                rest = text[inside:]
                blocks.append(BadCall(rest.strip(), "not closed", False) if tag == CALL else Text(f"<{tag}>{rest}"))
                place = len(text)
                break
            blocks.append(make(text[inside:end]))
            place = end + len(closing)
    if words := text[place:].strip():
        blocks.append(Text(words))
    if not phase.tag and blocks:
        phases.append(phase)
    problems.extend((f"unclosed:<{entry.tag}>", len(text)) for entry in phases if not entry.closed)
    return Trajectory(phases, problems)


def tool_calls(turn: str) -> list[ToolCall | BadCall]:
    """The calls of one assistant turn, in order. A turn may begin in the middle of a phase."""
    return parse(turn).calls if f"<{CALL}>" in turn else []


def ranking(trajectory: Trajectory) -> list[str | None] | None:
    """The list in the last ``<recommend>`` phase, position by position, as AgentRecBench's evaluator would take it.

    Returns ``None`` when there is no closed phase with a JSON list. Entries that are no strings become ``None``:
    they hold their position and match nothing. Duplicates and foreign ids stay.
    """
    phases = trajectory.of(RECOMMEND)
    if not phases or not phases[-1].closed or phases[-1].result is None:
        return None
    value = phases[-1].result.value
    if not isinstance(value, list):
        return None
    return [entry if isinstance(entry, str) else None for entry in value]
