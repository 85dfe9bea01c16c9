"""View the teacher's runs: one in the terminal, or a folder as a self-contained HTML page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from star_rl.errors import StarError
from star_rl.files import write_text
from star_rl.mars.record import TeacherRun, read_runs
from star_rl.records import Item
from star_rl.trajectory.grammar import REFLECTION
from star_rl.trajectory.view import Cutter, sections_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_TEMPLATE = Path(__file__).with_name("page.html")
#: Phase -> colour in the terminal; the page has its own style sheet.
_COLOURS = {
    "plan": "blue",
    "user_profile": "cyan",
    "historical_analysis": "green",
    "recent_analysis": "yellow",
    "interest_divergence": "magenta",
    "reflection": "bright_yellow",
    "recommend": "bright_red",
}
#: Kind of a part -> mark and style in the terminal.
_MARKS = {
    "thinking": ("", "italic"),
    "call": ("-> ", "bold"),
    "call bad": ("-> ", "bold red"),
    "response": ("<- ", "dim"),
    "json": ("=  ", ""),
    "json bad": ("=  ", "red"),
    "text": ("", "dim red"),
}
#: Control characters, which must not reach a terminal.
_CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def verdict_of(run: TeacherRun) -> str:
    """Return the reflector's verdict: ``content``, ``sent back``, or ``none`` if it did not run."""
    verdicts = [phase.result.value for phase in run.trajectory.of(REFLECTION) if phase.result]
    found = [verdict.get("correct") for verdict in verdicts if isinstance(verdict, dict)]
    return "sent back" if "no" in found else "content" if "yes" in found else "none"


def result_of(run: TeacherRun) -> str:
    """Return ``hit``, ``miss`` or ``failed``."""
    return "failed" if run.failure else "hit" if run.hit else "miss"


def show(run: TeacherRun, console: Console | None = None, items: Mapping[str, Item] | None = None) -> None:
    """Print one run, phases and calls in colours."""
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.text import Text

    def safe(words: str, style: str = "") -> Text:
        return Text(words.translate(_CONTROL), style=style)

    out, task = console or Console(), run.task
    rank = f"rank {run.rank}" if run.rank else "not ranked"
    result = f"{result_of(run)}, the truth {task.ground_truth} has {rank}; {run.seconds:.2f} s"
    out.print(safe(f"{run.id}  {task.source}/{task.scenario}  user {task.user_id}", "bold"))
    out.print(safe(str(run.failure or result)))
    for section in sections_of(run.in_ids):
        parts = []
        for part in section.parts:
            words = f"{part.text}\n({part.label})" if "bad" in part.kind else part.text
            if words:
                mark, style = _MARKS[part.kind]
                parts.append(safe(mark + words, style))
        colour = _COLOURS.get(section.tag, "red")
        out.print(Panel(Group(*parts), title=section.title, title_align="left", border_style=colour))
    for place, item_id in enumerate(run.ranking, 1):
        item = (items or {}).get(item_id)
        words = f"{place:3}  {item_id}" + (f"  {item.title}" if item else "")
        out.print(safe(words, "bold green" if item_id == task.ground_truth else ""))


def find(paths: str | Path | Iterable[str | Path], wanted: str) -> TeacherRun:
    """Return the run with an id, or the first run of a task.

    Raises:
        StarError: not found.
    """
    for run in read_runs(paths):
        if wanted in (run.id, run.task.task_id):
            return run
    raise StarError(f"there is no run {wanted!r}", "give a run (task#pass) or a task of the file")


def write_page(
    paths: str | Path | Iterable[str | Path],
    out: str | Path,
    items: Mapping[str, Item] | None = None,
    limit: int = 2000,
) -> dict[str, Any]:
    """Write one self-contained page to filter, search and read the runs of files and folders.

    Args:
        items: titles for the rankings.
        limit: most runs on the page, which also shows how many there were.

    Returns:
        ``read``, ``shown`` and counts by result.

    Raises:
        StarError: no runs, or the page cannot be written.
    """
    if limit < 1:
        raise StarError(f"limit is {limit}", "give 1 or more")
    rows: list[dict[str, Any]] = []
    results: Counter[str] = Counter()
    for run in read_runs(paths):
        results[result_of(run)] += 1
        if len(rows) < limit:
            rows.append(_row(run, items or {}))
    read = results.total()
    # Without "<" in the data no title can close the script element.
    text = (
        json.dumps({"read": read, "runs": rows}, ensure_ascii=False)
        .replace("<", "\\u003c")
        .replace("\u2028", "\\u2028")
    )
    write_text(out, _TEMPLATE.read_text(encoding="utf-8").replace("@DATA@", text, 1))
    return {"read": read, "shown": len(rows), **dict(results)}


def _row(run: TeacherRun, items: Mapping[str, Item]) -> dict[str, Any]:
    sections, task = sections_of(run.in_ids, Cutter(where="the record")), run.task
    phases = [[one.tag, one.title, [[part.kind, part.label, part.text] for part in one.parts]] for one in sections]
    left_out = sum(len(phase.blocks) for phase in run.trajectory.phases) - sum(len(one.parts) for one in sections)
    if left_out:
        phases.append(["outside", f"{left_out} more blocks, see the record", []])
    return {
        **{name: getattr(run, name) for name in ("id", "rank", "seconds", "tokens", "model")},
        "source": task.source,
        "scenario": task.scenario,
        "user": task.user_id,
        "truth": task.ground_truth,
        "result": result_of(run),
        "verdict": verdict_of(run),
        "failure": str(run.failure or ""),
        "last": _last_words(run),
        "calls": run.sum("calls"),
        "ranking": [[item_id, items[item_id].title if item_id in items else ""] for item_id in run.ranking],
        "phases": phases,
    }


def _last_words(run: TeacherRun) -> str:
    """Return the model's last reply in a failed run, which is in no phase; empty for other runs."""
    messages = run.steps[-1].get("messages", ()) if run.failure and run.steps else ()
    said = [m["content"] for m in messages if m.get("role") == "assistant" and m.get("content")]
    return Cutter(where="the record")(str(said[-1])) if said else ""
