"""Text to trajectory. One pass over the tags, linear in the text, and nothing raises: a bad rollout is data.

Inside ``<Thinking>``, ``<JSON>``, ``<tool_call>`` and ``<tool_response>`` only the block's own closing tag counts, so a
phase named in a thought or in a JSON string is words, not structure.
"""

from __future__ import annotations

from collections.abc import Callable

from star_rl.trajectory.grammar import CALL, JSON, PHASES, RECOMMEND, RESPONSE, TAG, THINKING
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


#: Block tag -> how to make it of what stands inside, and the tag that closes it.
_BLOCKS: dict[str, tuple[Callable[[str], Block], str]] = {
    tag: (make, f"/{tag}") for tag, make in ((THINKING, Thinking), (JSON, Json), (CALL, call_of), (RESPONSE, _response))
}
_PHASES = frozenset(PHASES)
_CLOSING = {tag: f"/{tag}" for tag in PHASES}

_STRINGS = frozenset((str,))


def parse(text: str) -> Trajectory:
    """Parse a whole trajectory, or only what the model wrote of it.

    Problems are ``(code, offset)``: ``unclosed:<tag>``, ``stray:</tag>`` (a closing tag with nothing open),
    ``nested:<tag>`` (a phase opened inside another, which it ends). Tags out of place are kept as :class:`Text`, so
    that rendering shows everything that was written.
    """
    # All tags in one go: text, then (tag, text) for each. A tag inside a block is put back into its words below.
    parts = TAG.split(text)
    phases: list[Phase] = []
    problems: list[tuple[str, int]] = []  # with the number of the part, until the end
    phase: Phase | None = None  # the one that is open
    blocks: list[Block] = []  # its own, or those outside of any
    words, at, end = parts[0], 1, len(parts)

    while True:
        if words != "\n" and (words := words.strip()):
            blocks.append(Text(words))
        if at == end:
            break
        tag, words = parts[at], parts[at + 1]
        if tag in _BLOCKS:
            make, closing = _BLOCKS[tag]
            last = at + 2  # of the tag that closes the block
            if last < end and parts[last] == closing:
                blocks.append(make(words))
            else:
                while last < end and parts[last] != closing:
                    last += 2
                inside = _joined(parts, at + 1, last)
                if last == end:
                    problems.append((f"unclosed:<{tag}>", at + 1))
                    rest = BadCall(inside.strip(), "not closed", False) if tag == CALL else Text(f"<{tag}>{inside}")
                    blocks.append(rest)
                    break
                blocks.append(make(inside))
            words = parts[last + 1]
            at = last
        elif tag in _PHASES:
            if phase is not None:
                problems.append((f"nested:<{tag}>", at))
            elif blocks:
                phases.append(Phase("", blocks))
            blocks = []
            phase = Phase(tag, blocks, False)
            phases.append(phase)
        elif phase is not None and tag == _CLOSING[phase.tag]:
            phase.closed = True
            phase = None
            blocks = []
        else:
            problems.append((f"stray:<{tag}>", at))
            blocks.append(Text(f"<{tag}>"))
        at += 2
    if phase is None and blocks:
        phases.append(Phase("", blocks))
    if problems:
        problems = _with_offsets(problems, parts)
    problems += [(f"unclosed:<{entry.tag}>", len(text)) for entry in phases if not entry.closed]
    return Trajectory(phases, problems)


def _joined(parts: list[str], first: int, last: int) -> str:
    """The text from one part of the split to before another, tags in their places."""
    pieces = [parts[first]]
    for at in range(first + 1, last, 2):
        pieces += ("<", parts[at], ">", parts[at + 1])
    return "".join(pieces)


def _with_offsets(problems: list[tuple[str, int]], parts: list[str]) -> list[tuple[str, int]]:
    """Offsets in the text for numbers of parts, a tag's with its bracket. One pass over both."""
    found: list[tuple[str, int]] = []
    offset, reached = 0, 0
    for code, number in problems:
        for at in range(reached, number):
            offset += len(parts[at]) + 2 * (at % 2)
        reached = number
        found.append((code, offset))
    return found


def tool_calls(turn: str) -> list[ToolCall | BadCall]:
    """The calls of one assistant turn, in order. A turn may begin in the middle of a phase."""
    return parse(turn).calls if f"<{CALL}>" in turn else []


def ranking(trajectory: Trajectory) -> list[str | None] | None:
    """The list in the last ``<recommend>`` phase, position by position, as AgentRecBench's evaluator would take it.

    Returns ``None`` when there is no closed phase with a JSON list. Entries that are no strings become ``None``:
    they hold their position and match nothing. Duplicates and foreign ids stay.
    """
    for phase in reversed(trajectory.phases):
        if phase.tag == RECOMMEND:
            result = phase.result if phase.closed else None
            value = None if result is None else result.value
            break
    else:
        return None
    if not isinstance(value, list):
        return None
    if {*map(type, value)} <= _STRINGS:
        return list(value)
    return [entry if isinstance(entry, str) else None for entry in value]
