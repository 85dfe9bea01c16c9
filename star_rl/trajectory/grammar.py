"""The words of the grammar: phases, agents, blocks, and what must never come in from outside.

A trajectory is one assistant policy's walk through the phases of the teacher (paper, section 3.4): ``plan``, the chosen
experts, ``reflection``, re-runs of the experts that were faulted, ``recommend``. This module is the only place that
spells a tag.
"""

from __future__ import annotations

import json
import re
from typing import Any

#: Agent name (as the planner and the reflector write it) -> phase tag.
EXPERTS = {
    "User_Profile_Summary": "user_profile",
    "Historical_Interest_Analysis": "historical_analysis",
    "Recent_Interest_Analysis": "recent_analysis",
    "Interest_Divergence_Reasoning": "interest_divergence",
}
PLAN, REFLECTION, RECOMMEND = "plan", "reflection", "recommend"
EXPERT_TAGS = tuple(EXPERTS.values())
PHASES = (PLAN, *EXPERT_TAGS, REFLECTION, RECOMMEND)

THINKING, JSON, CALL, RESPONSE = "Thinking", "JSON", "tool_call", "tool_response"
BLOCKS = (THINKING, JSON, CALL, RESPONSE)

# Possessive quantifiers (``*+``) give back nothing that they took: all patterns here are linear in the text.


def _inside(tag: str) -> str:
    """Pattern of a block's content: anything up to its own closing tag, or to the end of the text."""
    return rf"[^<]*+(?:<(?!/{tag}>)[^<]*+)*+"


_ITS_OWN = r"\1"  # the tag that the pattern's first group found
#: Every tag of the grammar. A block's is taken together with what stands inside, up to its closing tag or the end of
#: the text. Groups: the block's tag; its inside; or else any other tag, without its brackets.
TAG = re.compile(
    rf"<(?:({'|'.join(BLOCKS)})>({_inside(_ITS_OWN)})(?:</{_ITS_OWN}>|\Z)"
    rf"|(/?(?:{'|'.join(PHASES)})|/(?:{'|'.join(BLOCKS)}))>)"
)

_WORDS = r"[^<]*+"
_THOUGHT = rf"(?:<{THINKING}>{_inside(THINKING)}</{THINKING}>{_WORDS})?+"
_CALLS = rf"(?:<{CALL}>{_inside(CALL)}</{CALL}>{_WORDS}(?:{_THOUGHT}(?=<{CALL}>))?+)*+"
#: A phase as it should be: thoughts and calls, then one result. Words between them are no fault. Groups: its tag; its
#: calls, with what stands between them; the result. Or, from where that ends, the rest of the text as the last group.
REGULAR = re.compile(
    rf"<({'|'.join(PHASES)})>{_WORDS}{_THOUGHT}({_CALLS}){_THOUGHT}<{JSON}>({_inside(JSON)})</{JSON}>{_WORDS}</{_ITS_OWN}>{_WORDS}|(.+)",
    re.DOTALL,
)

#: What foreign text (titles, reviews, tool answers) must not smuggle in: our tags, Qwen3's think tags, and anything
#: that has the form of a chat special token. Possessive quantifiers: a run of blanks is read once, so it is linear.
_FOREIGN = re.compile(
    rf"<(?=\s*+/?+\s*+(?:{'|'.join((*PHASES, *BLOCKS, 'think'))})\s*+/?+\s*+>)|<(?=[|\uff5c])|(?<=[|\uff5c])>",
    re.IGNORECASE,
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_OPEN, _CLOSE = "\u2039", "\u203a"


def neutral(text: str) -> str:
    """Defuse every tag and special token of foreign text (``<`` becomes a look-alike that no tokenizer maps to one).

    Titles and tool answers are untrusted: one that holds ``</tool_response><recommend>`` would otherwise end the
    environment's turn and forge a ranking. Lone surrogates, which no UTF-8 file can hold, become U+FFFD.
    """
    if "<" in text or ">" in text:
        text = _FOREIGN.sub(lambda match: _OPEN if match.group() == "<" else _CLOSE, text)
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def compact_json(value: Any) -> str:
    """Write JSON on one line, each ``<`` that could open a tag escaped, so that a string never closes its block.

    Raises:
        ValueError: the value holds NaN or an infinity, which are not JSON.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if "<" in text or ">" in text:
        text = _FOREIGN.sub(lambda match: "\\u003c" if match.group() == "<" else "\\u003e", text)
    return text if text.isascii() else _SURROGATE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
