"""What the evidence is worth to a rule that reads it: each of the teacher's strategies, the teacher, and a fusion.

    python -m benchmarks.evidence [--data DIR] [--cases ml-100k,games,cds] [--work DIR] [--out FILE]

*before* is plain co-occurrence over whole sequences with 100 neighbours; *after* is the recipe. Tasks, visible
interactions and methods are the same in both columns. At most 1,000 test tasks a case; nothing is trained. *teacher* is
the mean over its draws of a strategy. The raw files lie in ``--data``, in ``$STAR_RL_DATA``, or in ``../shared/data``.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import star_rl
from benchmarks.harness import CACHE, ROOT, machine, read_options, table, write_json
from star_rl.evaluation import metrics, results
from star_rl.evaluation.tasks import read_tasks
from star_rl.pipeline.chain import STAGES
from star_rl.pipeline.runner import run as run_stages

#: Case -> recipe, and its file or folder within the data.
CASES = {
    "ml-100k": ("learn-ml100k", "ml-100k"),
    "games": ("learn-games", "amazon-games-6k"),
    "cds": ("learn-cds", "agentcf-cds-100/CDs-100-user-dense.test.inter"),
    "synthetic": ("quickstart", ""),  # with --quick: a clean clone has no other data
}
BEFORE = ("neighbours.window=0", "neighbours.items_k=100", "neighbours.liked_k=100")
STRATEGIES = ("users", "history", "recent")
METHODS = ("popularity", "item_knn", *(f"mars:strategy={s}:name={s} alone" for s in STRATEGIES), "fusion")
TEACHER = "mars:name=teacher"
DRAWS = 8
TASKS = 1000


def answers(recipe: star_rl.Recipe) -> tuple[dict[str, np.ndarray], Path]:
    """Run a recipe as far as the evidence and ask every method; ranks by method, shape: (samples, n), and the tasks."""
    run_stages(recipe, STAGES, until="evidence")
    run = Path(recipe.out) / recipe.name
    found: dict[str, np.ndarray] = {}
    for methods, samples in ((METHODS, 1), ([TEACHER], DRAWS)):
        folder = run / f"evaluate-{samples}"
        shutil.rmtree(folder, ignore_errors=True)  # answers are kept by name, not by the code that gave them
        star_rl.evaluate(methods, run, folder, limit=TASKS, samples=samples)
        tasks, given = read_tasks(folder / "tasks.parquet"), results.read(folder / "answers.parquet")
        for name in dict.fromkeys(given["method"].to_pylist()):
            ranks = results.ranks_by_task(given, name, tasks, samples)
            found[name] = ranks[: results.complete_samples(ranks)]
    return found, folder / "tasks.parquet"


def compare(case: str, data: Path, work: Path) -> dict[str, Any]:
    """One case: method -> figures before and after, and the paired difference."""
    recipe, path = CASES[case]
    source = f"source.root={data / path}" if path else "source.options.users=200"
    common = (source, f"out={work}", f"split.options.max_test={TASKS}")
    before, first = answers(star_rl.load_recipe(recipe, [*common, f"name={case}-before", *BEFORE]))
    after, second = answers(star_rl.load_recipe(recipe, [*common, f"name={case}-after"]))
    assert read_tasks(first) == read_tasks(second), "both columns are of the same tasks"
    rows = {}
    for name, ranks in after.items():
        then, now = metrics.by_task(before[name]), metrics.by_task(ranks)
        pair = metrics.paired(now, then)
        rows[name] = {
            "before": figures(before[name]),
            "after": figures(ranks),
            "difference": [100 * pair.mean, 100 * pair.low, 100 * pair.high],
        }
    return {"recipe": recipe, "n": ranks.shape[1], "methods": rows}


def figures(ranks: np.ndarray) -> dict[str, float]:
    """HR in percent and the interval of HR_avg over tasks."""
    values = [metrics.hits(ranks, k).mean(axis=0) for k in metrics.CUTS]
    average = metrics.bootstrap(np.mean(values, axis=0))[0]
    shown = {f"hr{k}": 100 * float(value.mean()) for k, value in zip(metrics.CUTS, values, strict=True)}
    return shown | {"hr_avg": 100 * average.mean, "low": 100 * average.low, "high": 100 * average.high}


def show(cases: dict[str, Any]) -> str:
    """One table in Markdown."""

    def cells(row: dict[str, float]) -> tuple[str, str]:
        average = f"{row['hr_avg']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
        return " / ".join(f"{row[f'hr{k}']:.1f}" for k in metrics.CUTS), average

    lines = []
    for case, found in cases.items():
        for name, row in found["methods"].items():
            mean, low, high = row["difference"]
            same = row["before"] == row["after"]
            then = ("", "") if same else cells(row["before"])
            change = "" if same else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
            lines.append((case, found["n"], name, *then, *cells(row["after"]), change))
    hits = "HR@" + "/".join(map(str, metrics.CUTS))
    head = (
        "data",
        "n",
        "method",
        f"{hits} before",
        "HR_avg [95 %]",
        f"{hits} after",
        "HR_avg [95 %]",
        "after - before",
    )
    return table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--cases", default="ml-100k,games,cds", help=f"some of {', '.join(CASES)}")
    parser.add_argument("--work", type=Path, default=CACHE / "evidence", help="where the runs go")
    parser.add_argument("--out", type=Path, default=CACHE / "evidence.json")
    options = read_options(parser, work=CACHE / "quick" / "evidence", cases="synthetic")
    data = (options.data or Path(os.environ.get("STAR_RL_DATA") or ROOT.parent / "shared" / "data")).resolve()
    found = {}
    for case in options.cases.split(","):
        if case != "synthetic" and not (data / CASES[case][1]).exists():
            print(f"{case} is not in {data} (set STAR_RL_DATA or --data): left out")
        else:
            found[case] = compare(case, data, options.work)
    shown = show(found)
    print(f"\n{shown}")
    write_json(options.out, {"machine": machine(("numpy", "pyarrow")), "cases": found})
    options.out.with_suffix(".md").write_text(shown + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
