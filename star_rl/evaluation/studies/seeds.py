"""Seeds: the same recipe with several seeds, one run each, and the mean, spread and paired differences over them.

Runs share the finished stages before the first one that a seed changes. Each run resumes as any run does.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from star_rl.errors import StarError
from star_rl.evaluation import metrics
from star_rl.evaluation.compare import TEACHERS, too_deep
from star_rl.evaluation.console import plain
from star_rl.evaluation.methods.registry import parse_spec
from star_rl.evaluation.metrics import NDCG_CUTS, Floats
from star_rl.evaluation.scores import pair
from star_rl.evaluation.stages import METHODS, STUDENTS
from star_rl.files import write_json
from star_rl.pipeline import recipe
from star_rl.pipeline.options import Recipe
from star_rl.pipeline.runner import share
from star_rl.pipeline.stage import Stage
from star_rl.report import grid as grids
from star_rl.report.findings import Findings, gather, key_of
from star_rl.report.grid import fixed, signed, spread

#: ``training``: data, tasks and teacher are those of the recipe's seed; ``all``: they change with the seed too.
Vary = Literal["training", "all"]
#: Paired differences, as stage ``evaluate`` names the methods.
PAIRS = (("star", "sft"), ("star", "teacher"), ("sft", "popularity"))
#: Options that fix what a seed should change.
_FIXED = (
    "student.shape.seed",
    "sft.overrides.seed",
    "sft.overrides.data_seed",
    "grpo.overrides.verl.data.seed",
    "grpo.overrides.verl.actor_rollout_ref.actor.data_loader_seed",
    "grpo.overrides.verl.actor_rollout_ref.rollout.seed",
    "engine.options.seed",
)

#: Figures of a method -> title of their table, factor to what the title says.
_FIGURES = {
    "hr_avg": ("HR_avg, % [95 %]", 1.0),
    "hr1": ("HR@1 = NDCG@1, %", 1.0),
    **{f"ndcg{k}": (f"NDCG@{k}, %", 1.0) for k in NDCG_CUTS[1:]},
    "valid_rate": ("Valid rankings, %", 100.0),
}
#: Further figures in the JSON.
_MORE = ("hr3", "hr5", "format_rate", "tokens", "n")

#: Runs these stages of a recipe.
Runner = Callable[[Recipe, Sequence[Stage]], Any]


def pairs_of(words: Iterable[str], further: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Return :data:`PAIRS` and those written as ``A:B``.

    Args:
        further: the recipe's ``evaluate.methods``; one with options can be named if it has a ``name=``.

    Raises:
        StarError: one is not of this form, or names a method that the stage ``evaluate`` does not have.
    """
    named = [spec.options.get("name", spec.text) for spec in map(parse_spec, further)]
    found, known = list(PAIRS), (*METHODS, *STUDENTS, *(name for name in named if ":" not in name))
    for word in words:
        a, _, b = word.partition(":")
        if a not in known or b not in known or a == b:
            raise StarError(f"--pairs {word} is not a pair A:B of two methods", f"methods are {', '.join(known)}")
        found.append((a, b))
    return list(dict.fromkeys(found))


def run_seeds(
    path: str, overrides: Sequence[str], count: int, vary: Vary, stages: Sequence[Stage], run: Runner
) -> dict[int, Path]:
    """Run a recipe with ``count`` seeds, one after the other; return seed -> folder, in that order.

    Raises:
        StarError: the recipe is wrong, or fixes the seed of a stage that the seeds should change.
    """
    from omegaconf import OmegaConf

    base = recipe.load(path, overrides)
    tree = OmegaConf.create(asdict(base))
    for option in _FIXED:
        if (value := OmegaConf.select(tree, option)) is not None:
            raise StarError(f"{option}={value} is the same for every seed", "leave it out: the recipe's seed sets it")
    changed = ("train_seed",) if vary == "training" else ("seed", "train_seed")
    shared = list(takewhile(lambda stage: stage.seed not in changed, stages))
    folders: dict[int, Path] = {}
    for seed in range(base.seeds[changed[0]], base.seeds[changed[0]] + count):
        pairs = [f"name={base.name}-seed{seed}", *(f"{option}={seed}" for option in changed)]
        loaded = recipe.load(path, [*overrides, *pairs])
        folder = Path(loaded.out) / loaded.name
        if folders:
            share(next(iter(folders.values())), folder, shared)
        run(loaded, stages[len(shared) :] if folders else stages)
        folders[seed] = folder
    return folders


def table(
    folders: Mapping[int, Path], pairs: Sequence[tuple[str, str]] = PAIRS, further: Sequence[Path] = ()
) -> dict[str, Any]:
    """Return each method's figures by seed with mean and spread, and the paired differences by seed and over all.

    Over all seeds a task counts once, with a method's mean over the runs that have the task.

    Args:
        folders: seed -> run.
        further: evaluations on the same tasks, of methods that are the same for every seed.

    Raises:
        StarError: a run has no evaluation, or lacks a method of a pair.
    """
    runs = {str(seed): gather([folder, *further]) for seed, folder in folders.items()}
    ones = {seed: found.compared.folders[0] for seed, found in runs.items()}
    rows, scores = dict[str, dict[str, Any]](), dict[str, dict[str, Floats]]()
    for seed, found in runs.items():
        rows[seed], scores[seed] = _answers(found)
    first = rows[next(iter(rows))]
    names = [name for name in first if all(name in own and not own[name].get("missing") for own in rows.values())]
    scores = {seed: {name: own[name] for name in names} for seed, own in scores.items()}
    scores["all"] = _pooled([([key_of(task) for task in found.tasks], scores[seed]) for seed, found in runs.items()])
    draws = {seed: one.figures.get("seed", 0) for seed, one in ones.items()}
    teacher = next((name for name in TEACHERS if name in names), "teacher")
    made = []
    for asked in pairs:
        a, b = (teacher if name == "teacher" else name for name in asked)
        if missing := [name for name in (a, b) if name not in names]:
            raise StarError(f"not every run has answers of {missing[0]}", "give the same command again")
        own = {seed: {"n": len(each[a]), **pair(a, b, each, draws.get(seed, 0))} for seed, each in scores.items()}
        made.append({"a": a, "b": b, "seeds": own})
    return {
        "runs": {str(seed): str(folder) for seed, folder in folders.items()},
        "methods": {
            name: {
                figure: _spread({seed: own[name].get(figure) for seed, own in rows.items()})
                for figure in (*_FIGURES, *_MORE)
            }
            | {"intervals": _intervals({seed: own[name] for seed, own in rows.items()}, scores["all"][name])}
            for name in names
        },
        "pairs": made,
        "caveats": list(dict.fromkeys(words for found in runs.values() for words in found.compared.caveats)),
    }


def _answers(found: Findings) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Return each method's row and its HR_avg by task, of the first folder that has it."""
    rows, scores = dict[str, Any](), dict[str, Floats]()
    for one in found.compared.folders:
        for row in one.figures["methods"]:
            if row["name"] not in rows:
                rows[row["name"]] = row | dict.fromkeys(too_deep(row.get("longest")))
                scores[row["name"]] = found.methods[one.names.get(row["name"], row["name"])].values
    return rows, scores


def _pooled(runs: Sequence[tuple[Sequence[Any], Mapping[str, Floats]]]) -> dict[str, Floats]:
    """Return each method's scores by task, averaged over the runs that have the task."""
    place = {key: index for index, key in enumerate(dict.fromkeys(key for keys, _ in runs for key in keys))}
    counts, sums = np.zeros(len(place)), {name: np.zeros(len(place)) for name in runs[0][1]}
    for keys, scores in runs:
        where = [place[key] for key in keys]
        counts[where] += 1
        for name, own in scores.items():
            sums[name][where] += own
    return {name: own / counts for name, own in sums.items()}


def _intervals(rows: Mapping[str, Mapping[str, Any]], pooled: Floats) -> dict[str, list[float]]:
    """Return the intervals of HR_avg by seed, and of the mean over the seeds, as ``all``."""
    found = {seed: [row["hr_avg_low"], row["hr_avg_high"]] for seed, row in rows.items()}
    _, low, high = metrics.bootstrap(pooled)[0]
    return {**found, "all": [100 * low, 100 * high] if len(found) > 1 else next(iter(found.values()))}


def _spread(values: Mapping[str, float | None]) -> dict[str, Any]:
    """Return values by seed with mean, sample standard deviation and range; of one seed there is no deviation."""
    known = [value for value in values.values() if value is not None]
    if len(known) < len(values):
        return {"seeds": values, "mean": None, "sd": None, "min": None, "max": None}
    sd = statistics.stdev(known) if len(known) > 1 else None
    return {"seeds": values, "mean": statistics.mean(known), "sd": sd, "min": min(known), "max": max(known)}


def grids_of(made: Mapping[str, Any]) -> list[grids.Grid]:
    """Return the tables: a figure of every method by seed, and the paired differences."""
    heads = [f"seed {seed}" for seed in made["runs"]]
    several = ["all seeds"] if len(heads) > 1 else []
    found = []
    for figure, (title, factor) in _FIGURES.items():
        lines = []
        for name, figures in made["methods"].items():
            own = figures[figure]
            if own["mean"] is not None:
                ends = figures["intervals"] if figure == "hr_avg" else {}
                numbers = {**own["seeds"], "all": own["mean"], "sd": own["sd"]}
                cells = [
                    (value, spread(None if value is None else factor * value, *ends.get(seed, (None, None))))
                    for seed, value in numbers.items()
                ]
                reach = f"{fixed(factor * own['min'])} .. {fixed(factor * own['max'])}"
                lines.append(grids.Row(name, [*cells, (None, reach)]))
        if lines:
            found.append(grids.Grid(title, ["method", *heads, "mean", "sd", "min .. max"], lines))
    lines = [
        grids.Row(
            f"{one['a']} minus {one['b']}",
            [
                (own["difference"], spread(own["difference"], own["low"], own["high"], signed))
                for own in [*one["seeds"].values()][: len(heads + several)]
            ],
        )
        for one in made["pairs"]
    ]
    sizes = ", ".join(f"{seed}: {own['n']:,}" for seed, own in made["pairs"][0]["seeds"].items())
    notes = [
        f"Pairs are tasks ({sizes}). Over all seeds a task counts once, with its mean over the seeds: the interval is "
        "about other tasks, the spread (sd, the sample standard deviation) about other seeds.",
        *made["caveats"],
    ]
    title = "A minus B, HR_avg in points, paired by task, 95 % interval"
    return [*found, grids.Grid(title, ["A minus B", *heads, *several], lines, notes=notes)]


def show(folders: Mapping[int, Path], stem: Path, pairs: Sequence[tuple[str, str]] = PAIRS) -> None:
    """Write and print the tables of the runs: ``STEM.json``, ``.md`` and ``.tex``."""
    made = table(folders, pairs)
    shown = grids_of(made)
    paths = grids.write(stem.parent, stem.name, shown)
    write_json(stem.with_name(f"{stem.name}.json"), made)
    print(*(plain(grids.markdown(one)) for one in shown), *paths, stem.with_name(f"{stem.name}.json"), sep="\n")
