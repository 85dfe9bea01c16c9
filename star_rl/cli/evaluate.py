"""Methods on the same tasks: ``evaluate``, and ``compare`` over folders of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from star_rl.cli.base import AT_LEAST_1, SECONDS, command, tasks_options


@command(
    "evaluate",
    "answers of any number of methods to the same tasks, and their metrics",
    "evaluate random item_knn star star:sft --tasks runs/quickstart --out scores",
    "evaluate mars mars:tools=off star:CHECKPOINT:temperature=0 --tasks runs/quickstart --out scores --limit 100",
    "evaluate cot:endpoint=http://localhost:8000/v1 --tasks runs/quickstart --out scores",
    "evaluate python:my_method.py:make --tasks tasks.parquet --world runs/quickstart --out scores",
)
@click.argument("methods", nargs=-1, required=True, metavar="METHOD...", help="name, name:argument, name:key=value")
@tasks_options
@click.option("--out", required=True, help="folder of the answers; the same command goes on where it was")
@click.option("--samples", type=AT_LEAST_1, default=1, metavar="K", help="answers a task, where they vary")
@click.option("--timeout", type=SECONDS, default=300.0, help="seconds for one answer (default 300)")
@click.option("--bootstrap", type=click.IntRange(min=100), default=2000, help="resamples of the intervals")
@click.option("--against", metavar="METHOD", help="print the paired differences of all others to this one")
def evaluate(methods: Sequence[str], out: str, bootstrap: int, against: str | None, **options: Any) -> None:
    from star_rl.evaluation import evaluate as evaluation
    from star_rl.evaluation.console import summary
    from star_rl.progress import progress_line

    scored: list[dict[str, Any]] = []
    try:
        with progress_line("evaluate") as line:
            settings: dict[str, Any] = {
                "resamples": bootstrap,
                "against": against,
                "progress": line,
                "scored": scored.append,
            }
            evaluation.evaluate(methods, out=out, **settings, **options)
    finally:
        for figures in scored:
            print(summary(figures, against))
            print(f"{out}/report.html, answers.parquet, metrics.json")


@command(
    "compare",
    "evaluations in the layout of the paper's table 1, its figures beside them",
    "compare scores",
    "compare amazon goodreads yelp --out table1",
    "compare before after --out changed",
)
@click.argument("folders", nargs=-1, required=True, metavar="DIR...", help="folders of star-rl evaluate, or of runs")
@click.option("--out", metavar="DIR", help="write comparison.html, .md, .tex and .json there")
def compare(folders: Sequence[str], out: str | None) -> None:
    from star_rl.evaluation import compare
    from star_rl.evaluation.console import plain
    from star_rl.files import write_text
    from star_rl.report import evaluation, findings, grid

    found = findings.gather([Path(folder) for folder in folders])
    made = findings.changes(found)
    words = grid.markdown(findings.changes_grid(made)) if made else ""
    paths = []
    if out:
        more = {"changes": findings.changes_data(made, found.tasks)}
        paths = [*compare.write(found.compared, Path(out), more, words), Path(out) / "comparison.html"]
        write_text(paths[-1], evaluation.render_evaluation(found, made))
    print(plain(compare.markdown(found.compared, whole=False)))
    if words:
        print(plain(words))
    for path in paths:
        print(path)
