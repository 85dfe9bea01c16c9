"""The chat template of the student: ChatML exactly as Qwen3 renders it.

The text of the template is `chat_template.jinja` beside this file. It is the project's own; a test renders it against
the template that Qwen3's tokenizer ships, so a tiny student and a real Qwen3 see prompts of one form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

#: Header and footer of a turn; the generation prompt is exactly `TURN_HEADER.format(role="assistant")`.
TURN_HEADER, TURN_FOOTER = "<|im_start|>{role}\n", "<|im_end|>"


@cache
def chat_template() -> str:
    """The Jinja source, as it is stored in the checkpoint's `chat_template.jinja`."""
    return Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")


def render(messages: Sequence[Mapping[str, Any]], tools: str | None) -> str:
    """A conversation of the SFT set as text, as :func:`chat_template` renders it without think blocks.

    Args:
        messages: system (optional), user, then assistant and tool turns; the assistant's text holds its tool calls.
        tools: JSON list of wrapped tool schemas, or None.
    """
    turns = [dict(m) for m in messages]
    schemas = json.loads(tools) if tools else None
    head = turns[:1] if turns and turns[0]["role"] == "system" else []
    parts: list[str] = []
    if schemas or head:
        # only the head goes through Jinja: the rest is plain ChatML, and a set has thousands of rows
        parts.append(_head(head[0]["content"] if head else None, tools))
    previous = ""
    for turn in turns[len(head) :]:
        role, content = turn["role"], turn["content"]
        if role == "tool":
            answer = f"\n<tool_response>\n{content}\n</tool_response>"
            if previous == "tool":
                parts[-1] = parts[-1].removesuffix(TURN_FOOTER + "\n") + answer + TURN_FOOTER + "\n"
            else:
                parts.append("<|im_start|>user" + answer + TURN_FOOTER + "\n")
        else:
            parts.append(TURN_HEADER.format(role=role) + content + TURN_FOOTER + "\n")
        previous = role
    return "".join(parts)


@lru_cache(maxsize=64)
def _head(system: str | None, tools: str | None) -> str:
    """System turn and tool schemas, rendered by the template itself before an empty question."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": ""})
    text: str = _compiled().render(messages=messages, tools=json.loads(tools) if tools else None)
    return text.removesuffix(TURN_HEADER.format(role="user") + TURN_FOOTER + "\n")


@cache
def _compiled() -> Any:
    """The template in the environment that transformers gives it (its utils/chat_template_utils.py)."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(chat_template())
