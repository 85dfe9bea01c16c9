"""The chat template of the student: ChatML exactly as Qwen3 renders it.

The text of the template is `chat_template.jinja` beside this file. It is the project's own; a test renders it against
the template that Qwen3's tokenizer ships, so a tiny student and a real Qwen3 see prompts of one form.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

CHAT_TEMPLATE_FILE = Path(__file__).with_name("chat_template.jinja")

#: Header and footer of a turn; the generation prompt is exactly `TURN_HEADER.format(role="assistant")`.
TURN_HEADER = "<|im_start|>{role}\n"
TURN_FOOTER = "<|im_end|>"
GENERATION_PROMPT = TURN_HEADER.format(role="assistant")


@cache
def chat_template() -> str:
    """The Jinja source, as it is stored in the checkpoint's `chat_template.jinja`."""
    return CHAT_TEMPLATE_FILE.read_text(encoding="utf-8")
