"""Make foreign text safe and short, and estimate its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from star_rl.trajectory import neutral


def one_line(text: str, characters: int = 0) -> str:
    """Return foreign text on one line with every tag defused; cut to ``characters`` if that is above 0."""
    line = neutral(valid(" ".join(text.split())))
    return line if not characters or len(line) <= characters else line[: characters - 2].rstrip() + ".."


def value_of(value: Any, characters: int) -> str:
    """Return a value of the tables on one line, entries of lists and mappings joined by commas; empty if None."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{name} {entry}" for name, entry in list(value.items())[:12])
    elif isinstance(value, (list, tuple)):
        value = ", ".join(str(entry) for entry in value[:8])
    return "" if value is None or isinstance(value, bool) else one_line(str(value), characters)


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
