"""Text to trajectory. One pass over the tags, linear in the text, and nothing raises: a bad rollout is data.

Inside ``<Thinking>``, ``<JSON>``, ``<tool_call>`` and ``<tool_response>`` only the block's own closing tag counts, so a
phase named in a thought or in a JSON string is words, not structure.
"""

from __future__ import annotations

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

_PHASES = frozenset(PHASES)


def _block(tag: str, inside: str) -> Block:
    if tag == THINKING:
        return Thinking(inside)
    if tag == JSON:
        return Json(inside)
    if tag == RESPONSE:
        return Response(inside.removeprefix("\n").removesuffix("\n"))
    return call_of(inside.strip())


def parse(text: str) -> Trajectory:
    """Parse a whole trajectory, or only what the model wrote of it.

    Problems are ``(code, offset)``: ``unclosed:<tag>``, ``stray:</tag>`` (a closing tag with nothing open),
    ``nested:<tag>`` (a phase opened inside another, which it ends). Tags out of place are kept as :class:`Text`, so
    that rendering shows everything that was written.
    """
    result = Trajectory()
    phase: Phase | None = None
    opened = ""  # the block that is open
    start = 0  # where its inside, or the text between blocks, begins

    def keep(block: Block) -> None:
        if phase is None:
            if not result.phases or result.phases[-1].tag:
                result.phases.append(Phase(""))
            result.phases[-1].blocks.append(block)
        else:
            phase.blocks.append(block)

    def between(end: int) -> None:
        if words := text[start:end].strip():
            keep(Text(words))

    for match in TAG.finditer(text):
        closing, tag = bool(match.group(1)), match.group(2)
        if opened:
            if closing and tag == opened:
                keep(_block(tag, text[start : match.start()]))
                opened, start = "", match.end()
            continue
        between(match.start())
        start = match.end()
        if tag not in _PHASES:
            if closing:
                result.problems.append((f"stray:</{tag}>", match.start()))
                keep(Text(match.group()))
            else:
                opened = tag
        elif closing:
            if phase is not None and phase.tag == tag:
                phase.closed, phase = True, None
            else:
                result.problems.append((f"stray:</{tag}>", match.start()))
                keep(Text(match.group()))
        else:
            if phase is not None:
                result.problems.append((f"nested:<{tag}>", match.start()))
            phase = Phase(tag, closed=False)
            result.phases.append(phase)
    if opened:
        result.problems.append((f"unclosed:<{opened}>", start))
        if opened == CALL:
            keep(BadCall(text[start:].strip(), "not closed", closed=False))
        else:
            keep(Text(f"<{opened}>{text[start:]}"))
    else:
        between(len(text))
    result.problems.extend((f"unclosed:<{p.tag}>", len(text)) for p in result.phases if p.tag and not p.closed)
    return result


def tool_calls(turn: str) -> list[ToolCall | BadCall]:
    """The calls of one assistant turn, in order. A turn may begin in the middle of a phase."""
    return parse(turn).calls if f"<{CALL}>" in turn else []


def ranking(trajectory: Trajectory) -> list[str | None] | None:
    """The list in the last ``<recommend>`` phase, position by position, as AgentRecBench's evaluator would take it.

    Returns ``None`` when there is no closed phase with a JSON list. Entries that are no strings become ``None``:
    they hold their position and match nothing. Duplicates and foreign ids stay (spec, section 9.5).
    """
    phases = trajectory.of(RECOMMEND)
    if not phases or not phases[-1].closed or phases[-1].result is None:
        return None
    value = phases[-1].result.value
    if not isinstance(value, list):
        return None
    return [entry if isinstance(entry, str) else None for entry in value]
