"""Foreign text made safe and short, and how long a text is."""

from __future__ import annotations

from typing import Any

from star_rl.trajectory import neutral


def one_line(text: str, characters: int = 0) -> str:
    """Foreign text on one line with every tag defused; cut to ``characters`` where that is above 0."""
    line = neutral(valid(" ".join(text.split())))
    return line if not characters or len(line) <= characters else line[: characters - 2].rstrip() + ".."


def valid(text: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate, which JSON can spell, becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def valid_json(value: Any) -> Any:
    """A decoded JSON value with every string made :func:`valid`."""
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, list):
        return [valid_json(entry) for entry in value]
    if isinstance(value, dict):
        return {valid(key): valid_json(entry) for key, entry in value.items()}
    return value


def estimate_tokens(text: str) -> int:
    """An estimate of a text's tokens from above, for budgets where no tokenizer is at hand.

    As Qwen's tokenizer counts: a token for each digit, and no fewer than one for three further UTF-8 bytes.
    """
    digits = sum(map(text.count, "0123456789"))
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return digits - (digits - size) // 3
