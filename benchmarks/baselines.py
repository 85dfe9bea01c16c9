"""Matrix factorisation and LightGCN beside RecBole and Cornac, and the table of all methods without a language model.

    python -m benchmarks.baselines [--seeds 2] [--table] [--data DIR] [--out FILE]

Beside the peers: MovieLens 100K, everybody's last film among 19 that the user never saw, everything before it visible,
the same tasks and candidates for all. A peer is judged with the best setting of its grid (benchmarks/recommenders.py);
ours have their defaults. The items that choose settings and epochs are visible ones, never a task's. HR is the mean
over seeds of each task; a difference is paired over tasks.

``--table`` adds all methods on MovieLens 100K and amazon-games-6k (2,000 users), and what the same ones score where the
last items of every user were not learnt but are in the history (``later``): a user is then folded in.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import CACHE, ROOT, machine, table, two_cores, write_json
from star_rl import baselines
from star_rl.evaluation import metrics
from star_rl.files import read_json
from star_rl.files import write_json as write_quietly
from star_rl.records import read_table, tasks_from, tasks_to, write_table
from star_rl.scenarios import Histories, Tables, split
from star_rl.sources import write_tables

WORK = CACHE / "baselines-data"
PACKAGES = ("torch", "numpy", "scipy", "recbole", "cornac")
SEED = 7
LAST = {"test": "last", "min_history": 3}
#: Everything before the last item is visible; in ``later`` the last five before it are not (validation, training).
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ml-100k": ("ml-100k", "movielens", {**LAST, "train_per_user": 0, "max_valid": 1}),
    "ml-100k later": ("ml-100k", "movielens", {**LAST, "train_per_user": 4}),
    "amazon-games-6k": (
        "amazon-games-6k",
        "sequences",
        {**LAST, "train_per_user": 0, "max_valid": 1, "max_test": 2000},
    ),
}
METHODS = ("Random", "Popularity", "ItemKNN", "UserKNN", "MF", "LightGCN", "SASRec")
OURS = {"mf": "MF", "lightgcn": "LightGCN"}
AGAINST = {"mf": ("recbole_bpr", "cornac_bpr"), "lightgcn": ("recbole_lightgcn",)}
#: How long everybody trains: 8 epochs without a better ranking of the held-out items end it.
TRAINING = {"epochs": 200, "patience": 8}


def prepare(case: str, data: Path) -> Path:
    """Tables, split and histories of a case in its folder."""
    name, source, options = CASES[case]
    folder = WORK / case.replace(" ", "-")
    tables = WORK / "tables" / name
    write_tables(source, data / name, tables)
    made = Tables.read(tables)
    parts = split(made, options, SEED)
    histories = Histories(made.interactions)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "visible.parquet", parts.visible, "interactions")
    write_table(folder / "tasks.parquet", tasks_to(parts.test), "tasks")
    write_quietly(folder / "histories.json", [[event[0] for event in histories.history(task)] for task in parts.test])
    return folder


def work(name: str, case: str, seed: int, setting: int) -> dict[str, Any]:
    """Train one method, rank every task; ranks of the truths and what the training took."""
    folder = WORK / case.replace(" ", "-")
    visible = read_table(folder / "visible.parquet", "interactions")
    tasks = list(tasks_from(read_table(folder / "tasks.parquet", "tasks")))
    histories = read_json(folder / "histories.json")
    began = time.perf_counter()
    method: Any
    if name in AGAINST["mf"] + AGAINST["lightgcn"]:
        from benchmarks.recommenders import GRIDS, Peer

        method = Peer(visible, name, seed, GRIDS[name][setting], **TRAINING)
    elif name == "Random":
        method = baselines.Random(seed)
    else:
        method = getattr(baselines, name)(visible, seed)
    trained, began = time.perf_counter() - began, time.perf_counter()
    rankings = [method.rank(task, history) for task, history in zip(tasks, histories, strict=True)]
    curve = getattr(method, "curve", [])
    return {
        "ranks": metrics.ranks(rankings, [task.ground_truth for task in tasks]).tolist(),
        "seconds": trained,
        "milliseconds_per_task": 1000 * (time.perf_counter() - began) / len(tasks),
        "epochs": int(np.argmax(curve)) + 1 if curve else None,
        "held_out": max(curve) if curve else None,
    }


def child(name: str, case: str, seed: int, setting: int = 0) -> dict[str, Any]:
    """:func:`work` in a process of its own, since libraries patch what they share."""
    words = [sys.executable, "-m", "benchmarks.baselines", "--worker", name, case, str(seed), str(setting)]
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"{name} on {case} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    held = "" if result["held_out"] is None else f", {result['epochs']} epochs, held out {result['held_out']:.4f}"
    shown = f"{name} [{setting}] seed {seed}, {case}: {time.perf_counter() - began:.0f} s{held}"
    print(f"  {shown}", file=sys.stderr, flush=True)
    return result


def over_seeds(name: str, case: str, seeds: int, setting: int = 0, first: dict[str, Any] | None = None) -> Any:
    """Runs of all seeds; the first may have been made already."""
    return [first if first and not seed else child(name, case, seed, setting) for seed in range(seeds)]


def figures(runs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], np.ndarray]:
    """HR in percent with intervals over tasks, and HR_avg per task (mean over seeds)."""
    found = np.array([run["ranks"] for run in runs])
    values = np.stack([metrics.hits(found, k).mean(axis=0) for k in metrics.CUTS])
    values = np.concatenate([values, values.mean(axis=0, keepdims=True)])
    row: dict[str, Any] = {"n": found.shape[1], "seeds": len(runs)}
    names = (*(f"hr{k}" for k in metrics.CUTS), "hr_avg")
    for name, interval in zip(names, metrics.bootstrap(values), strict=True):
        row |= {name: 100 * interval.mean, f"{name}_low": 100 * interval.low, f"{name}_high": 100 * interval.high}
    spread = [100 * float(metrics.hr_avg(one).mean()) for one in found]
    row |= {"hr_avg_by_seed": spread}
    row |= {key: [run[key] for run in runs] for key in ("seconds", "milliseconds_per_task", "epochs", "held_out")}
    return row, values[-1]


def peers(seeds: int) -> dict[str, Any]:
    """Ours and the peers' on MovieLens 100K, and the paired differences."""
    from benchmarks.recommenders import GRIDS

    rows, per_task = {}, {}
    for name, cls in OURS.items():
        rows[name], per_task[name] = figures(over_seeds(cls, "ml-100k", seeds))
    for name, grid in GRIDS.items():
        tried = [child(name, "ml-100k", 0, setting) for setting in range(len(grid))]
        best = int(np.argmax([run["held_out"] for run in tried]))
        rows[name], per_task[name] = figures(over_seeds(name, "ml-100k", seeds, best, tried[best]))
        rows[name] |= {"setting": grid[best], "grid": [[s, r["held_out"]] for s, r in zip(grid, tried, strict=True)]}
    pairs = []
    for name, others in AGAINST.items():
        for other in others:
            pair = metrics.paired(per_task[name], per_task[other])
            pairs.append({"a": name, "b": other, "difference": [100 * x for x in pair[:3]], "p": pair.p})
    return {"methods": rows, "pairs": pairs}


def show(rows: Mapping[str, Mapping[str, Any]]) -> str:
    head = ("method", "n", "HR@1", "HR@3", "HR@5", "HR_avg", "95 %", "by seed", "epochs", "fit s", "ms a task")
    lines = []
    for name, row in rows.items():
        lines.append(
            (
                name,
                row["n"],
                *(f"{row[k]:.1f} ({row[f'{k}_low']:.1f} .. {row[f'{k}_high']:.1f})" for k in ("hr1", "hr3", "hr5")),
                f"{row['hr_avg']:.1f}",
                f"{row['hr_avg_low']:.1f} .. {row['hr_avg_high']:.1f}",
                " ".join(f"{value:.1f}" for value in row["hr_avg_by_seed"]),
                " ".join(str(value) for value in row["epochs"] if value is not None),
                f"{np.median(row['seconds']):.0f}",
                f"{np.median(row['milliseconds_per_task']):.2f}",
            )
        )
    return table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", nargs=4, metavar=("NAME", "CASE", "SEED", "SETTING"), help=argparse.SUPPRESS)
    parser.add_argument("--seeds", type=int, default=2, help="trainings of every method (default 2)")
    parser.add_argument("--table", action="store_true", help="all methods on all data too")
    parser.add_argument("--only", choices=("peers", "table"), help="one part alone")
    parser.add_argument("--cases", default=",".join(CASES), help="cases of the table")
    parser.add_argument("--methods", default=",".join(METHODS), help="methods of the table")
    parser.add_argument("--data", type=Path, help="folder that holds ml-100k and amazon-games-6k")
    parser.add_argument("--out", type=Path, default=CACHE / "baselines.json")
    options = parser.parse_args()
    if options.worker:
        two_cores(2)
        name, case, seed, setting = options.worker
        print(json.dumps(work(name, case, int(seed), int(setting))))
        return
    data = (options.data or Path(os.environ.get("STAR_RL_DATA") or ROOT.parent / "shared" / "data")).resolve()
    report: dict[str, Any] = {"machine": machine(PACKAGES), "seeds": options.seeds}
    if options.only != "table":
        prepare("ml-100k", data)
        report["peers"] = peers(options.seeds)
        print("\nMovieLens 100K, everybody's last film among 20; HR in percent (95 % over tasks)\n")
        print(show(report["peers"]["methods"]))
        print("\nPaired differences of HR_avg, points\n")
        rows = [
            (p["a"], p["b"], "{:+.1f} ({:+.1f} .. {:+.1f})".format(*p["difference"])) for p in report["peers"]["pairs"]
        ]
        print(table(("ours", "peer", "difference (95 %)"), rows))
    if options.table or options.only == "table":
        report["table"] = {}
        for case in options.cases.split(","):
            if not (data / CASES[case][0]).is_dir():
                print(f"{CASES[case][0]} is not here (set STAR_RL_DATA): left out")
                continue
            prepare(case, data)
            rows = {}
            for name in options.methods.split(","):
                once = name in ("Popularity", "ItemKNN", "UserKNN")  # the seed breaks ties, and no more
                rows[name], _ = figures(over_seeds(name, case, 1 if once else options.seeds))
            report["table"][case] = rows
            print(f"\n{case}; HR in percent (95 % over tasks)\n")
            print(show(rows))
    write_json(options.out, report)


if __name__ == "__main__":
    main()
