"""``star-rl ablate``: the runs of the paper's table 2, one after the other, and the table filled from them.

A variant is the same recipe with another ``sft_set.setting``: its teacher and its student lack the part. What comes
before the teacher is the same for all, so variants share the first run's files. Each run resumes as any run does.
"""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch import chain, local, recipe
from star_rl.errors import StarError
from star_rl.evaluation import paper
from star_rl.files import read_json, write_json, write_text
from star_rl.stage import manifest_of

#: Variant -> what the rows of its teacher, its student after GRPO and, for the whole one, before GRPO are called.
VARIANTS: dict[str, dict[str, str]] = {
    "full": {"teacher": "MARS", "star": "STAR", "sft": "STAR w/o GRPO"},
    "no_tools": {"teacher": "MARS w/o Tools", "star": "STAR w/o Tools"},
    "no_planner": {"teacher": "MARS w/o Planner", "star": "STAR w/o Planner"},
    "no_reflector": {"teacher": "MARS w/o Reflector", "star": "STAR w/o Reflector"},
}
#: Stages before the teacher.
_SHARED = ("tables", "tasks", "neighbours", "evidence")
_DASH = "\u2013"

#: Runs a recipe with overrides as ``launch.local.run`` does.
Runner = Callable[[Any], Any]


def ablate(arguments: Namespace) -> int:
    """``star-rl ablate``."""
    wanted = arguments.only or list(VARIANTS)
    for name in wanted:
        if name not in VARIANTS:
            raise StarError(f"there is no variant {name!r}", f"one of {', '.join(VARIANTS)}")
    folders = run_variants(
        arguments.recipe, arguments.overrides, wanted, lambda loaded: local.run(loaded, chain.STAGES)
    )
    from star_rl.report.evaluation import write_evaluation

    made = table(folders)
    out = folders[wanted[0]].parent / f"{folders[wanted[0]].name.removesuffix(f'-{wanted[0]}')}-table2"
    write_text(f"{out}.md", markdown(made))
    write_json(f"{out}.json", made)
    page = write_evaluation([folder / "evaluate" for folder in folders.values()], Path(f"{out}.html"), made)
    print(f"{markdown(made)}\n{out}.md\n{out}.json\n{page}")
    return 0


def run_variants(path: str, overrides: Sequence[str], wanted: Sequence[str], run: Runner) -> dict[str, Path]:
    """Run the variants; returns their folders.

    Raises:
        StarError: the recipe is at fault, or it names a setting of its own.
    """
    if any(pair.startswith(("sft_set.setting", "name=", "sft_set=")) for pair in overrides):
        raise StarError("the variants set name and sft_set.setting themselves", "leave these overrides out")
    base = recipe.load(path, overrides)
    folders: dict[str, Path] = {}
    for name in wanted:
        loaded = recipe.load(path, [*overrides, f"name={base.name}-{name}", f"sft_set.setting={name}"])
        folder = Path(loaded.out) / loaded.name
        for earlier in folders.values():
            _share(earlier, folder)
        run(loaded)
        folders[name] = folder
    return folders


def _share(source: Path, target: Path) -> None:
    """Finished stages before the teacher as hard links; a stage whose configuration differs is run again anyway."""
    for name in _SHARED:
        if manifest_of(source / name) is not None and not (target / name).exists():
            part = target / f".{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source / name, part, copy_function=_link)
            part.replace(target / name)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def table(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Rows of table 2 by sub-task and on average, ours and the paper's.

    Raises:
        StarError: the runs were judged on different tasks.
    """
    rows: dict[str, Any] = {}
    sets: dict[str, Path] = {}
    official = False
    for variant, folder in folders.items():
        judged = read_json(folder / "evaluate" / "metrics.json")
        sets.setdefault(judged["tasks"]["fingerprint"], folder)
        if len(sets) > 1:
            raise StarError(f"{' and '.join(map(str, sets.values()))} were judged on different tasks", "run them again")
        official = judged["tasks"]["official"]
        whole = {row["name"]: row for row in judged["methods"]}
        for method, name in VARIANTS[variant].items():
            cells = [row for row in judged["cells"] if row["name"] == method]
            rows[name] = {
                "overall": {key: whole[method][key] for key in ("n", "hr_avg", "hr_avg_low", "hr_avg_high")},
                "cells": {f"{row['source']} {row['scenario']}": row["hr_avg"] for row in cells},
                "average": sum(row["hr_avg"] for row in cells) / len(cells),
            }
    return {"reference": paper.PAPER, "table": "table 2", "official": official, "rows": rows}


def markdown(made: Mapping[str, Any]) -> str:
    """The table in the paper's order; rows that were not run have a dash."""
    heads = list(dict.fromkeys(cell for row in made["rows"].values() for cell in row["cells"]))
    lines = [["method", *heads, "Avg.", "overall [95 %]", "paper (Goodreads Avg.)"]]
    lines.append(["---", *("---:" for _ in lines[0][1:])])
    for name, printed in paper.TABLE2_AVERAGE.items():
        row = made["rows"].get(name)
        if row is None:
            cells = [_DASH] * (len(heads) + 2)
        else:
            whole = row["overall"]
            cells = [f"{row['cells'].get(head, float('nan')):.1f}" for head in heads]
            cells += [
                f"{row['average']:.1f}",
                f"{whole['hr_avg']:.1f} [{whole['hr_avg_low']:.1f}, {whole['hr_avg_high']:.1f}]",
            ]
        lines.append([name, *cells, f"{printed:.1f}"])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n"
    if not made["official"]:
        text += f"Not comparable with the paper's column ({made['reference']}, {made['table']}): other tasks.\n"
    if "MARS-Planner" not in made["rows"]:
        text += "MARS-Planner needs a served model: star-rl evaluate mars:endpoint=..:planner_endpoint=..\n"
    return text
