"""Make foreign text safe and short, and estimate its tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from star_rl.trajectory import neutral

#: Control characters, and marks that reverse or hide text: no prompt holds one.
_HIDDEN = dict.fromkeys(
    [*range(32), *range(127, 160), 0x200B, 0x2060, 0xFEFF, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)
_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"')\]\u2019\u201d]*(?=\s|$)|[\u3002\uff01\uff1f]")


def one_line(text: str, characters: int = 0) -> str:
    """Return foreign text on one line, tags defused, hidden characters removed; cut to ``characters`` if above 0."""
    line = neutral(valid(" ".join(text.split()).translate(_HIDDEN)))
    return line if not characters or len(line) <= characters else line[: characters - 2].rstrip() + ".."


def cut_at_sentence(text: str, tokens: int, length: Callable[[str], int]) -> str:
    """Return foreign text on one line in at most ``tokens``, cut behind a sentence, or a word if the first is too long.

    A cut text ends in ``..``.
    """
    line = one_line(text[: 40 * tokens])  # no tokenizer takes more than some characters a token
    if length(line) <= tokens and len(text) <= 40 * tokens:
        return line
    low, high = 0, len(line)
    while low < high:  # the longest part that fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length(line[:middle]) + 2 <= tokens else (low, middle - 1)
    kept = line[:low]
    ends = [match.end() for match in _SENTENCE_END.finditer(kept)]
    kept = kept[: ends[-1]] if ends and ends[-1] >= low // 3 else kept.rpartition(" ")[0] or kept
    return f"{kept} .." if kept else ""


def value_of(value: Any, characters: int) -> str:
    """Return a value of the tables on one line, entries of lists and mappings joined by commas; empty if None."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{name} {entry}" for name, entry in list(value.items())[:12])
    elif isinstance(value, (list, tuple)):
        value = ", ".join(filter(None, map(_entry, value[:8])))
    elif isinstance(value, float):
        value = "" if not math.isfinite(value) else f"{value:.0f}" if value.is_integer() else f"{value:.2f}"
    return "" if value is None or isinstance(value, bool) else one_line(str(value), characters)


def _entry(value: Any) -> str:
    """An entry of a list; of a Goodreads author the name, or else the id, and the role if there is one."""
    if not isinstance(value, Mapping):
        return "" if value is None else str(value)
    first = value.get("name") or value.get("author_id")
    more = [value.get("role")] if first else value.values()
    words = [str(word) for word in more if word not in (None, "")]
    return (f"{first} ({words[0]})" if words else str(first)) if first else " ".join(words)


def facts(user: Mapping[str, Any]) -> list[str]:
    """Return ``name: value`` of up to twelve attributes of a user."""
    return [f"{one_line(name, 40)}: {text}" for name, value in list(user.items())[:12] if (text := value_of(value, 80))]


def valid(text: str) -> str:
    """Return text that UTF-8 can encode: a lone surrogate becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def valid_json(value: Any) -> Any:
    """Return a decoded JSON value with every string made :func:`valid`."""
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, list):
        return [valid_json(entry) for entry in value]
    if isinstance(value, dict):
        return {valid(key): valid_json(entry) for key, entry in value.items()}
    return value


def estimate_tokens(text: str) -> int:
    """Return an upper estimate of a text's tokens, for budgets without a tokenizer.

    As Qwen's tokenizer counts: one token a digit, and at most one token for three further UTF-8 bytes.
    """
    digits = sum(map(text.count, "0123456789"))
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return digits - (digits - size) // 3


def latest_within(lines: Sequence[str], tokens: int) -> list[str]:
    """Return the latest lines that fit into ``tokens``, in order."""
    kept: list[str] = []
    for line in reversed(lines):
        tokens -= estimate_tokens(line) + 1
        if tokens < 0:
            break
        kept.append(line)
    return kept[::-1]


def chat(system: str, user: str) -> list[dict[str, str]]:
    """Return a system and a user message."""
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
