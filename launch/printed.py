"""What ``evaluate`` and ``compare`` say on the terminal: words and figures as they are, without Markdown's escapes."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

#: Wide enough for every column: a terminal folds a line, a file is not to lose figures.
_WIDTH = 240


def summary(judged: dict[str, Any], against: str | None = None) -> str:
    """The methods, one line each, differences of pairs, and what has to be said beside them.

    Args:
        judged: as ``metrics.json`` has it.
        against: differences to this method alone; without it, all pairs.
    """
    from rich.console import Console

    from star_rl.report.grid import methods, terminal
    from star_rl.report.model import Method

    names = Method.__dataclass_fields__  # a terminal has no room for more
    rows = [{key: value for key, value in row.items() if key in names} for row in judged["methods"]]
    out = io.StringIO()
    Console(file=out, width=_WIDTH, highlight=False).print(terminal(methods(rows)))
    table = "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())
    pairs = [pair for pair in judged["pairs"] if against is None or pair["b"] == against]
    said = [*(f"note: {note}" for note in (*judged["caveats"], *judged["notes"]))]
    said += [f"problem: {words}" for words in judged["problems"]]
    return "\n".join([table, *_differences(pairs), *said]) + "\n"


def _differences(pairs: Sequence[dict[str, Any]]) -> list[str]:
    """A line a pair."""
    if not pairs:
        return []
    names = [f"{pair['a']} - {pair['b']}" for pair in pairs]
    lines = ["HR_avg, paired differences in points [95 %]:"]
    for name, pair in zip(names, pairs, strict=True):
        figures = f"{pair['difference']:+5.1f} [{pair['low']:+.1f}, {pair['high']:+.1f}]  p {_p(pair['p'])}"
        lines.append(f"  {name:<{max(map(len, names))}}  {figures}")
    return [*lines, ""]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def plain(text: str) -> str:
    """Markdown as the words it stands for: the tables keep their pipes."""
    return re.sub(r"\\([\\`*_{}\[\]<>|#~])", r"\1", text.replace("**", ""))
