"""Text of ``evaluate`` and ``compare`` for the terminal, without Markdown's escapes."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

#: Columns of text, enough for every figure: a terminal folds a line, a file must not lose any.
_WIDTH = 240


def summary(figures: dict[str, Any], against: str | None = None) -> str:
    """Return a line for each method, the paired differences, and notes.

    Args:
        figures: as in ``metrics.json``.
        against: show the differences to this method alone; without it, all pairs.
    """
    from rich.console import Console

    from star_rl.report.grid import methods, terminal
    from star_rl.report.model import MethodRow

    names = MethodRow.__dataclass_fields__  # a terminal has no room for more
    rows = [{key: value for key, value in row.items() if key in names} for row in figures["methods"]]
    out = io.StringIO()
    Console(file=out, width=_WIDTH, highlight=False).print(terminal(methods(rows)))
    table = "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())
    pairs = [pair for pair in figures["pairs"] if against is None or pair["b"] == against]
    notes = [*(f"note: {note}" for note in (*figures["caveats"], *figures["notes"]))]
    notes += [f"problem: {words}" for words in figures["problems"]]
    return "\n".join([table, *_differences(pairs), *notes]) + "\n"


def _differences(pairs: Sequence[dict[str, Any]]) -> list[str]:
    if not pairs:
        return []
    names = [f"{pair['a']} - {pair['b']}" for pair in pairs]
    lines = ["HR_avg, paired differences in points [95 %]:"]
    for name, pair in zip(names, pairs, strict=True):
        shown = f"{pair['difference']:+5.1f} [{pair['low']:+.1f}, {pair['high']:+.1f}]  p {_p(pair['p'])}"
        lines.append(f"  {name:<{max(map(len, names))}}  {shown}")
    return [*lines, ""]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def plain(text: str) -> str:
    """Return Markdown without its escapes and stars; tables keep their pipes."""
    return re.sub(r"\\([\\`*_{}\[\]<>|#~])", r"\1", text.replace("**", ""))
