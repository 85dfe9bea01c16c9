"""Trajectory to text and to chat messages, and back from messages.

Every piece stands on lines of its own, joined by one newline; an assistant turn ends where the environment answers.
So the model's turns joined by a newline are exactly the trajectory without the tool responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from star_rl.trajectory.grammar import CALL, JSON, RESPONSE, THINKING, compact_json, neutral
from star_rl.trajectory.model import BadCall, Block, Json, Phase, Response, Text, Thinking, ToolCall, Trajectory
from star_rl.trajectory.parse import parse


def json_block(value: Any) -> Json:
    """A value as the JSON block of a phase."""
    return Json(compact_json(value))


def render_block(block: Block) -> str:
    """A block as text; a tool call exactly as Qwen3's template writes one."""
    match block:
        case Thinking(text):
            return f"<{THINKING}>{neutral(text)}</{THINKING}>"
        case ToolCall(name, arguments):
            return f"<{CALL}>\n{compact_json({'name': name, 'arguments': arguments})}\n</{CALL}>"
        case BadCall(text, _, closed):
            return f"<{CALL}>\n{text}\n</{CALL}>" if closed else f"<{CALL}>\n{text}"
        case Response(text):
            return f"<{RESPONSE}>\n{neutral(text)}\n</{RESPONSE}>"
        case Json(raw):
            return f"<{JSON}>{raw}</{JSON}>"
        case Text(text):
            return text


def render(trajectory: Trajectory) -> str:
    """The flat text, tool responses in place (paper, section 3.4)."""
    pieces = []
    for phase in trajectory.phases:
        pieces += [*_open(phase), *map(render_block, phase.blocks), *_close(phase)]
    return "\n".join(pieces)


def _open(phase: Phase) -> list[str]:
    return [f"<{phase.tag}>"] if phase.tag else []


def _close(phase: Phase) -> list[str]:
    return [f"</{phase.tag}>"] if phase.tag and phase.closed else []


def to_messages(trajectory: Trajectory) -> list[dict[str, str]]:
    """Return assistant and tool messages in turn. Consecutive responses become consecutive ``tool`` messages.

    The assistant's text holds its calls inline: structured ``tool_calls`` do not survive Parquet, where Arrow pads each
    arguments struct with the other calls' keys.
    """
    messages: list[dict[str, str]] = []
    turn: list[str] = []
    for phase in trajectory.phases:
        turn += _open(phase)
        for block in phase.blocks:
            if isinstance(block, Response):
                if turn:
                    messages.append({"role": "assistant", "content": "\n".join(turn)})
                    turn = []
                messages.append({"role": "tool", "content": neutral(block.text)})
            else:
                turn.append(render_block(block))
        turn += _close(phase)
    if turn:
        messages.append({"role": "assistant", "content": "\n".join(turn)})
    return messages


def from_messages(messages: Sequence[Mapping[str, Any]]) -> Trajectory:
    """The trajectory in a conversation. What the user says amid it is text; before it, it is passed over."""
    pieces: list[str] = []
    for message in messages:
        if message["role"] == "user" and pieces:
            pieces.append(neutral(message["content"] or ""))
        elif message["role"] == "assistant":
            pieces.append(message["content"] or "")
        elif message["role"] == "tool":
            pieces.append(f"<{RESPONSE}>\n{neutral(message['content'] or '')}\n</{RESPONSE}>")
    return parse("\n".join(pieces))


def model_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Only what the model wrote: its turns joined by a newline. The reward reads nothing else."""
    return "\n".join(message["content"] or "" for message in messages if message["role"] == "assistant")
