"""Ablation: the runs of the paper's table 2, one after the other, and the table filled from them.

A variant is the same recipe with another ``sft_set.setting``: its teacher and its student lack the part. The stages
before the teacher are the same for all, so variants share the first run's files. Each run resumes as any run does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from star_rl.errors import StarError
from star_rl.evaluation import paper
from star_rl.files import write_json
from star_rl.pipeline import recipe
from star_rl.pipeline.chain import STAGES
from star_rl.pipeline.runner import share
from star_rl.report import grid as grids
from star_rl.report.findings import difference, gather, key_of
from star_rl.report.grid import DASH, fixed, signed, spread

#: Variant -> method -> row of table 2: its teacher, its student after GRPO and, for the whole one, before GRPO.
VARIANTS: dict[str, dict[str, str]] = {
    "full": {"teacher": "MARS", "star": "STAR", "sft": "STAR w/o GRPO"},
    "no_tools": {"teacher": "MARS w/o Tools", "star": "STAR w/o Tools"},
    "no_planner": {"teacher": "MARS w/o Planner", "star": "STAR w/o Planner"},
    "no_reflector": {"teacher": "MARS w/o Reflector", "star": "STAR w/o Reflector"},
}
#: Stages before the teacher.
_SHARED = ("tables", "tasks", "neighbours", "evidence", "summaries")

#: Runs a recipe.
Runner = Callable[[Any], Any]


def show(folders: Mapping[str, Path]) -> None:
    """Write and print the table and the page of the variants that have been run, beside the runs."""
    from star_rl.report.evaluation import write_evaluation

    made = table(folders)
    variant, folder = next(iter(folders.items()))
    stem = f"{folder.name.removesuffix(f'-{variant}')}-table2"
    paths = grids.write(folder.parent, stem, [grid(made)])
    write_json(folder.parent / f"{stem}.json", made)
    page = write_evaluation([one / "evaluate" for one in folders.values()], folder.parent / f"{stem}.html", made)
    print(grids.markdown(grid(made)), *paths, folder.parent / f"{stem}.json", page, sep="\n")


def run_variants(
    path: str,
    overrides: Sequence[str],
    wanted: Sequence[str],
    run: Runner,
    after: Callable[[Mapping[str, Path]], None] = lambda folders: None,
) -> dict[str, Path]:
    """Run the variants; returns their folders.

    Args:
        after: called with the folders so far after each variant, so that no table is lost with the next variant.

    Raises:
        StarError: the recipe is wrong, a variant is unknown, or the overrides set what the variants set.
    """
    for name in wanted:
        if name not in VARIANTS:
            raise StarError(f"there is no variant {name!r}", f"one of {', '.join(VARIANTS)}")
    if any(pair.startswith(("sft_set.setting", "name=", "sft_set=")) for pair in overrides):
        raise StarError("the variants set name and sft_set.setting themselves", "leave these overrides out")
    base = recipe.load(path, overrides)
    folders: dict[str, Path] = {}
    for name in wanted:
        loaded = recipe.load(path, [*overrides, f"name={base.name}-{name}", f"sft_set.setting={name}"])
        folder = Path(loaded.out) / loaded.name
        if folders:  # a stage whose configuration differs is run again anyway
            share(next(iter(folders.values())), folder, [stage for stage in STAGES if stage.name in _SHARED])
        run(loaded)
        folders[name] = folder
        after(folders)
    return folders


def table(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Return the rows of table 2 by sub-task and on average, each compared with STAR, paired by task.

    Raises:
        StarError: the runs were evaluated on different tasks, or a run lacks a method.
    """
    found = gather([folder / "evaluate" for folder in folders.values()])
    sets = {one.figures["tasks"]["fingerprint"]: one.folder for one in found.compared.folders}
    if len(sets) > 1:
        raise StarError(f"{' and '.join(map(str, sets.values()))} were evaluated on different tasks", "run them again")
    rows: dict[str, Any] = {}
    values: dict[str, dict[Any, float]] = {}
    for variant, evaluation in zip(folders, found.compared.folders, strict=True):
        whole = {row["name"]: row for row in evaluation.figures["methods"]}
        for method, label in VARIANTS[variant].items():
            here = paper.RULES if method == "teacher" and paper.RULES in whole else method
            if here not in whole:
                raise StarError(f"{evaluation.folder} holds no answers of {here}", "run the variant again")
            name = label.replace("MARS", here, 1) if here == paper.RULES else label
            cells = [row for row in evaluation.figures["cells"] if row["name"] == here]
            rows[name] = {
                "overall": {key: whole[here][key] for key in ("n", "hr_avg", "hr_avg_low", "hr_avg_high")},
                "cells": {f"{row['source']} {row['scenario']}": row["hr_avg"] for row in cells},
                "average": sum(row["hr_avg"] for row in cells) / len(cells),
                "against_star": None,
            }
            scores = found.scores[evaluation.label, here]
            values[name] = {key_of(task): float(score) for task, score in zip(evaluation.tasks, scores, strict=True)}
    star = values.get("STAR", {})
    for name, own in values.items():
        if star and name != "STAR":
            both = np.array([(value, star[key]) for key, value in own.items()])
            rows[name]["against_star"] = difference(both[:, 0], both[:, 1])._asdict()
    official = found.compared.folders[0].figures["tasks"]["official"]
    caveats = found.compared.caveats
    return {"reference": paper.PAPER, "table": "table 2", "official": official, "rows": rows, "caveats": caveats}


def grid(made: Mapping[str, Any]) -> grids.Grid:
    """Return the table in the paper's order; rows that were not run have a dash."""
    heads = list(dict.fromkeys(cell for row in made["rows"].values() for cell in row["cells"]))
    lines = []
    for theirs, printed in paper.TABLE2_AVERAGE.items():
        known = ((name, row) for name, row in made["rows"].items() if paper.row_of(name) == theirs)
        name, row = next(known, (theirs, None))
        cells: list[grids.Cell] = [(None, DASH)] * (len(heads) + 3)
        if row is not None:
            whole, apart = row["overall"], row["against_star"]
            shown = spread(whole["hr_avg"], whole["hr_avg_low"], whole["hr_avg_high"])
            cells = [(value, fixed(value)) for value in (row["cells"].get(head) for head in heads)]
            cells += [(row["average"], fixed(row["average"])), (whole["hr_avg"], shown), (None, DASH)]
            if apart:
                cells[-1] = apart["mean"], spread(apart["mean"], apart["low"], apart["high"], signed)
        lines.append(grids.Row(name, [*cells, (printed, f"{printed:.1f}")], ruled=theirs == "STAR"))
    notes = [*made["caveats"]]
    if not made["official"]:
        notes.append(f"Not comparable with the paper's column ({made['reference']}, {made['table']}): other tasks.")
    if paper.RULES in made["rows"]:
        notes.append(f"Rows of {paper.RULES} are no rows of the paper's MARS, whose figures stand beside them.")
    if "MARS-Planner" not in made["rows"]:
        notes.append("MARS-Planner needs a served model: star-rl evaluate mars:endpoint=..:planner_endpoint=..")
    last = ["Avg.", "overall [95 %]", "minus STAR [95 %]", "paper (Goodreads Avg.)"]
    return grids.Grid("Table 2: HR_avg, %", ["method", *heads, *last], lines, notes=notes)
