"""Text to trajectory. One pass over the tags, linear in the text, and nothing raises: a bad rollout is data.

Inside ``<Thinking>``, ``<JSON>``, ``<tool_call>`` and ``<tool_response>`` only the block's own closing tag counts, so a
phase named in a thought or in a JSON string is words, not structure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    all_strings,
    call_of,
)

#: Block tag -> how to make it of what stands inside.
_BLOCKS: dict[str, Callable[[str], Block]] = {
    THINKING: Thinking,
    JSON: Json,
    CALL: call_of,
    RESPONSE: lambda inside: Response(inside.removeprefix("\n").removesuffix("\n")),
}
_CLOSING = {tag: f"/{tag}" for tag in PHASES}


def parse(text: str) -> Trajectory:
    """Parse a whole trajectory, or only what the model wrote of it.

    Problems are ``unclosed:<tag>``, ``stray:</tag>`` (a closing tag with nothing open) and ``nested:<tag>`` (a phase
    opened inside another, which it ends). Tags out of place are kept as :class:`Text`, so that rendering shows
    everything that was written.
    """
    # All tags in one go: words, then (block, inside, tag, words) for each, with either a block or a tag.
    parts = TAG.split(text)
    end = len(parts)
    cut = is_cut(parts, text)
    if cut:
        end -= 4
    phases: list[Phase] = []
    problems: list[str] = []
    phase: Phase | None = None  # the one that is open
    blocks: list[Block] = []  # its own, or those outside of any
    if words := parts[0].strip():
        blocks.append(Text(words))
    for block, inside, tag, words in zip(parts[1:end:4], parts[2:end:4], parts[3:end:4], parts[4:end:4], strict=True):
        if block is not None:
            blocks.append(_BLOCKS[block](inside))
        elif tag in _CLOSING:
            if phase is not None:
                problems.append(f"nested:<{tag}>")
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
            problems.append(f"stray:<{tag}>")
            blocks.append(Text(f"<{tag}>"))
        if words != "\n" and (words := words.strip()):
            blocks.append(Text(words))
    if cut:
        tag, inside = parts[end : end + 2]
        blocks.append(unclosed_call(inside) if tag == CALL else Text(f"<{tag}>{inside}"))
        problems.append(f"unclosed:<{tag}>")
    if phase is None and blocks:
        phases.append(Phase("", blocks))
    problems += [f"unclosed:<{entry.tag}>" for entry in phases if not entry.closed]
    return Trajectory(phases, problems)


def tool_calls(turn: str) -> list[ToolCall | BadCall]:
    """The calls of one assistant turn, in order: ``parse(turn).calls``, sooner. A turn may begin amid a phase."""
    if f"<{CALL}>" not in turn:
        return []
    parts = TAG.split(turn)
    blocks = [*zip(parts[1::4], parts[2::4], strict=True)]
    unclosed = is_cut(parts, turn) and blocks.pop()
    calls = [call_of(inside) for block, inside in blocks if block == CALL]
    if unclosed and unclosed[0] == CALL:
        calls.append(unclosed_call(unclosed[1]))
    return calls


def is_cut(parts: list[str], text: str) -> bool:
    """Whether a text, split by :data:`TAG`, ends in a block."""
    return len(parts) > 1 and parts[-4] is not None and not parts[-1] and not text.endswith(f"</{parts[-4]}>")


def unclosed_call(inside: str) -> BadCall:
    """A call in which the text ended."""
    return BadCall(inside.strip(), "not closed", False)


def ranking(trajectory: Trajectory) -> list[str | None] | None:
    """Return the list in the last ``<recommend>`` phase, position by position, as AgentRecBench's evaluator reads it.

    Returns ``None`` when there is no closed phase with a JSON list. Entries that are no strings become ``None``:
    they hold their position and match nothing. Duplicates and foreign ids stay.
    """
    for phase in reversed(trajectory.phases):
        if phase.tag == RECOMMEND:
            result = phase.result if phase.closed else None
            return None if result is None else ids_of(result.value)
    return None


def ids_of(value: Any) -> list[str | None] | None:
    """A decoded ranking position by position (see :func:`ranking`); ``None`` where it is no list."""
    if not isinstance(value, list):
        return None
    return list(value) if all_strings(value) else [entry if isinstance(entry, str) else None for entry in value]
