"""Matrix factorisation and LightGCN beside RecBole and Cornac, and the table of all methods without a language model.

    python -m benchmarks.baselines [--only peers|table] [--seeds 3] [--student FOLDER ..] [--data DIR] [--out FILE]

Beside the peers: MovieLens 100K, everybody's last film among 19 that the user never has, everything before it visible;
the same interactions, tasks and candidates for all. A peer is scored with the best setting of its grid
(benchmarks/recommenders.py), ours with their defaults; embeddings have 64 numbers everywhere, and the rule that ends a
training is one (star_rl.baselines.learning): no task chooses a setting or an epoch. HR is the mean over seeds of each
task; a difference is paired over tasks.

The table: ``star-rl evaluate`` over the test tasks of a run, MovieLens 100K and amazon-games-6k. Without ``--student``
the runs are made here as far as the evidence. ``--student`` names a run, whose tables and tasks are then taken, and
whose evaluation's further methods get a row; or a folder of ``star-rl evaluate``, which has to hold answers to the same
tasks. MovieLens and games are told apart by what the run's source is.

Two processes of one thread at a time, on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import CACHE, ROOT, machine, read_options, table, two_cores, write_json
from star_rl import baselines
from star_rl.evaluation import metrics, results
from star_rl.evaluation.methods import TaskContext
from star_rl.evaluation.tasks import fingerprint_of, read_tasks
from star_rl.files import read_json
from star_rl.files import write_json as write_quietly
from star_rl.records import Task, read_table, tasks_from, tasks_to, write_table
from star_rl.scenarios import Histories, Tables, split
from star_rl.sources import write_tables

PACKAGES = ("torch", "numpy", "scipy", "recbole", "cornac")
COMMAND = ROOT / ".venv" / "bin" / "star-rl"
PEERS = ROOT / ".bench" / "baselines" / "bin" / "python"
WORK = CACHE / "baselines-data"
SEED = 7
#: Everything before the last item is visible.
SPLIT = {"test": "last", "min_history": 3, "train_per_user": 0, "max_valid": 1}
OURS = {"mf": "MF", "lightgcn": "LightGCN"}
AGAINST = {"mf": ("recbole_bpr", "cornac_bpr"), "lightgcn": ("recbole_lightgcn",)}
#: Epochs without a better ranking of the held-out items after which everybody's training ends.
PATIENCE = 8

#: Runs of the table: the recipe, and how many test tasks (0: everybody's).
RUNS = {
    "ml-100k": ("movielens", 0),
    "amazon-games-6k": ("sequences", 2000),
    "synthetic": ("quickstart", 40),  # with --quick: a clean clone has no other data
}
#: Which of the runs a given one belongs to, by its tables' source.
SOURCES = {"movielens": "ml-100k", "sequences": "amazon-games-6k"}
#: Methods of the table and whether a seed changes more than ties. Each row is one of two processes, about as long.
METHODS: tuple[dict[str, bool], ...] = (
    {"random": True, "popularity": False, "item_knn": False, "user_knn": False, "mf": True, "lightgcn": True}
    | {"teacher": False},  # its seed is the run's
    {"sasrec": True},
)
CUTS = tuple(f"hr{k}" for k in metrics.CUTS)


def prepare(data: Path, quick: bool) -> Path:
    """Write visible interactions, tasks and histories for the peers; MovieLens 100K, or a synthetic world if quick."""
    tables, folder = WORK / "tables", WORK / "peers"
    if quick:
        write_tables("synthetic", None, tables, {"users": 200})
    else:
        write_tables("movielens", data / "ml-100k", tables)
    made = Tables.read(tables)
    parts = split(made, SPLIT, SEED)
    histories = Histories(made.interactions)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "visible.parquet", read_table(tables, "interactions").take(parts.shown), "interactions")
    write_table(folder / "tasks.parquet", tasks_to(parts.test), "tasks")
    write_quietly(folder / "histories.json", [[event[0] for event in histories.history(task)] for task in parts.test])
    return folder


def work(name: str, seed: int, setting: int, epochs: int) -> dict[str, Any]:
    """Train one method, rank every task; ranks of the truths and what the training took."""
    folder = WORK / "peers"
    visible = read_table(folder / "visible.parquet", "interactions")
    tasks = list(tasks_from(read_table(folder / "tasks.parquet", "tasks")))
    histories = read_json(folder / "histories.json")
    began = time.perf_counter()
    if name in OURS:
        method = getattr(baselines, OURS[name])(seed=seed, epochs=epochs, patience=PATIENCE).fit(visible)
    else:
        from benchmarks.recommenders import GRIDS, Peer

        peer = Peer(name=name, setting=GRIDS[name][setting], seed=seed, epochs=epochs, patience=PATIENCE)
        method = peer.fit(visible)
    trained = time.perf_counter() - began
    contexts = [TaskContext.of_ids(task, history) for task, history in zip(tasks, histories, strict=True)]
    rankings = [method.rank(context) for context in contexts]
    return {
        "ranks": metrics.ranks(rankings, [task.ground_truth for task in tasks]).tolist(),
        "seconds": trained,
        "epochs": int(np.argmax(method.curve)) + 1,
        "held_out": max(method.curve),
    }


def child(python: Path, name: str, seed: int, setting: int, epochs: int) -> dict[str, Any]:
    """:func:`work` in a process of its own, since libraries patch what they share."""
    words = [str(python), "-m", "benchmarks.baselines", "--worker", name, *map(str, (seed, setting, epochs))]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=WORK, env=env)  # RecBole logs to it
    if done.returncode != 0:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    shown = f"{result['seconds']:.0f} s, {result['epochs']} epochs, held out {100 * result['held_out']:.2f}"
    shown += f", tasks {100 * float(metrics.hr_avg(np.array(result['ranks'])).mean()):.2f}"
    print(f"  {name} [{setting}] seed {seed}: {shown}", file=sys.stderr, flush=True)
    return result


def figures(found: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """HR in percent with intervals over tasks, and HR_avg per task (mean over seeds). Shape of found: (seeds, n)."""
    values = np.stack([metrics.hits(found, k).mean(axis=0) for k in metrics.CUTS])
    values = np.concatenate([values, values.mean(axis=0, keepdims=True)])
    row: dict[str, Any] = {"n": found.shape[1], "seeds": len(found)}
    for name, interval in zip((*CUTS, "hr_avg"), metrics.bootstrap(values), strict=True):
        row |= {name: 100 * interval.mean, f"{name}_low": 100 * interval.low, f"{name}_high": 100 * interval.high}
    row["hr_avg_by_seed"] = [100 * float(metrics.hr_avg(one).mean()) for one in found]
    return row, values[-1]


def peers(python: Path, seeds: int, epochs: int) -> dict[str, Any]:
    """Ours and the peers' on MovieLens 100K, and the paired differences."""
    from benchmarks.recommenders import GRIDS

    with ThreadPoolExecutor(2) as pool:

        def start(name: str, seed: int, setting: int = 0) -> Future[dict[str, Any]]:
            return pool.submit(child, Path(sys.executable) if name in OURS else python, name, seed, setting, epochs)

        tried = {name: [start(name, 0, at) for at in range(len(grid))] for name, grid in GRIDS.items()}
        running = {name: [start(name, seed) for seed in range(seeds)] for name in OURS}
        best = {}
        for name, first in tried.items():
            best[name] = int(np.argmax([run.result()["held_out"] for run in first]))
            more = [start(name, seed, best[name]) for seed in range(1, seeds)]
            running[name] = [first[best[name]], *more]
        done = {name: [run.result() for run in runs] for name, runs in running.items()}
    rows, per_task = {}, {}
    for name, runs in done.items():
        rows[name], per_task[name] = figures(np.array([run["ranks"] for run in runs]))
        rows[name] |= {key: [run[key] for run in runs] for key in ("seconds", "epochs", "held_out")}
    for name, grid in GRIDS.items():
        held = [run.result()["held_out"] for run in tried[name]]
        rows[name] |= {"setting": grid[best[name]], "grid": [[s, h] for s, h in zip(grid, held, strict=True)]}
    pairs = []
    for name, others in AGAINST.items():
        for other in others:
            pair = metrics.paired(per_task[name], per_task[other])
            scaled = {"difference": 100 * pair.mean, "low": 100 * pair.low, "high": 100 * pair.high}
            pairs.append({"a": name, "b": other, **scaled, "p": pair.p, "n": len(per_task[name]), "seeds": seeds})
    return {"methods": {name: rows[name] for ours in OURS for name in (ours, *AGAINST[ours])}, "pairs": pairs}


def make_run(case: str, data: Path) -> Path:
    """A run as far as the evidence; what is done already is not done again."""
    recipe, tasks = RUNS[case]
    source = "source.options.users=200" if case == "synthetic" else f"source.root={data / case}"
    options = (source, f"split.options.max_test={tasks}", f"out={CACHE / 'runs'}")
    _command("run", recipe, *options, f"name=baselines-{case}", "--until", "evidence", log=WORK / f"{case}-run.log")
    return CACHE / "runs" / f"baselines-{case}"


def _command(*words: str, log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as out:
        done = subprocess.run([str(COMMAND), *words], stdout=out, stderr=out, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"star-rl {words[0]} failed, see {log}:\n{log.read_text(encoding='utf-8')[-2000:]}")


def answers(folder: Path) -> tuple[pa.Table, list[Task]]:
    """What an evaluation holds: its answers and its tasks."""
    return results.read(folder / "answers.parquet"), read_tasks(folder / "tasks.parquet")


def over_run(case: str, run: Path, seeds: int, students: Sequence[Path]) -> dict[str, Any]:
    """The table of one run: a row a method, and one for every further method of the students' evaluations."""
    began = time.perf_counter()
    folders = [WORK / f"{case}-{part}" for part in range(len(METHODS))]
    with ThreadPoolExecutor(len(METHODS)) as pool:
        waiting = []
        for folder, methods in zip(folders, METHODS, strict=True):
            shutil.rmtree(folder, ignore_errors=True)  # answers are kept by name, not by the code that gave them
            words = [
                f"{m}:seed={seed}:name={m}~{seed}" if varies else f"{m}:name={m}"
                for m, varies in methods.items()
                for seed in range(seeds if varies else 1)
            ]
            ask = ("evaluate", *words, "--tasks", str(run), "--out", str(folder))
            waiting.append(pool.submit(_command, *ask, log=folder.with_suffix(".log")))
        for one in waiting:
            one.result()
    seconds = time.perf_counter() - began
    rows: dict[str, Any] = {}
    given = [(folder, *answers(folder)) for folder in (*folders, *students)]
    tasks = given[0][2]
    for folder, found, own in given:
        if fingerprint_of(own) != fingerprint_of(tasks):
            raise SystemExit(f"{folder} holds answers to other tasks than {run}")
        runs: dict[str, list[str]] = {}
        for label in dict.fromkeys(found["method"].to_pylist()):
            runs.setdefault(label.partition("~")[0], []).append(label)
        for name, labels in runs.items():
            if name in rows:
                continue
            ranks = np.concatenate([results.ranks_by_task(found, label, tasks) for label in labels])
            rows[name], _ = figures(ranks)
            took = found.filter(pc.is_in(found["method"], pa.array(labels)))["seconds"].drop_null().to_numpy()
            rows[name] |= {
                "failed": int((ranks == metrics.FAILED).sum()),
                "milliseconds": 1000 * float(np.median(took)) if len(took) else None,
            }
    return {"run": str(run), "seconds": seconds, "methods": rows}


def worlds(options: argparse.Namespace, data: Path) -> dict[str, tuple[Path, list[Path]]]:
    """The runs of the table and the evaluations with students, by case.

    Runs that are made here are no slower for the students that are not there: their tasks are not a student's.
    """
    found: dict[str, tuple[Path, list[Path]]] = {}
    for folder in options.student:
        if (folder / "recipe.yaml").is_file():
            source = read_json(folder / "tables" / "tables.json")["source"]
            if source not in SOURCES:
                raise SystemExit(f"{folder} is a run on {source}; the table is of {', '.join(SOURCES)}")
            scored = folder / "evaluate"
            found[SOURCES[source]] = (folder, [scored] if (scored / "answers.parquet").is_file() else [])
    for case in options.cases.split(","):
        if case not in found and case != "synthetic" and not (data / case).is_dir():
            print(f"{case} is not in {data} (set STAR_RL_DATA or --data): left out")
        elif case not in found:
            found[case] = (make_run(case, data), [])
    loose = [folder for folder in options.student if not (folder / "recipe.yaml").is_file()]
    for folder in loose:
        print_of = fingerprint_of(answers(folder)[1])
        own = [run for run, _ in found.values() if print_of == fingerprint_of(read_tasks(run / "tasks/test.parquet"))]
        if not own:
            raise SystemExit(f"{folder} holds answers to the test tasks of none of the runs; name its run too")
        next(students for run, students in found.values() if run == own[0]).append(folder)
    return found


def show(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A table in Markdown; HR in percent."""
    columns = [("epochs", "epochs"), ("fit s", "seconds"), ("ms a task", "milliseconds"), ("failed", "failed")]
    columns = [(title, key) for title, key in columns if any(row.get(key) is not None for row in rows.values())]
    lines = []
    for name, row in rows.items():
        more = []
        for _, key in columns:
            value = row.get(key)
            one = float(np.median(value)) if key == "seconds" and value else value
            listed = isinstance(value, list) and key != "seconds"
            more.append("-" if value is None else " ".join(map(str, value)) if listed else f"{one:.3g}")
        lines.append(
            (
                name,
                row["n"],
                *(f"{row[k]:.1f} [{row[f'{k}_low']:.1f}, {row[f'{k}_high']:.1f}]" for k in (*CUTS, "hr_avg")),
                " ".join(f"{value:.1f}" for value in row["hr_avg_by_seed"]) if row["seeds"] > 1 else "-",
                *more,
            )
        )
    head = ("method", "n", *(f"HR@{k}" for k in metrics.CUTS), "HR_avg", "by seed", *(title for title, _ in columns))
    return table(head, lines)


def words_of(report: Mapping[str, Any]) -> str:
    """The report in Markdown."""
    parts = ["HR in percent; [95 % interval, bootstrap over tasks]. Where there are seeds, a task has their mean."]
    if "peers" in report:
        parts += ["## MovieLens 100K, everybody's last film, everything before it visible"]
        parts += [show(report["peers"]["methods"])]
        rows = [
            (
                pair["a"],
                pair["b"],
                pair["n"],
                f"{pair['difference']:+.2f} [{pair['low']:+.2f}, {pair['high']:+.2f}]",
                "yes" if pair["high"] >= 0 else "no",
            )
            for pair in report["peers"]["pairs"]
        ]
        parts += [table(("ours", "peer", "n", "difference of HR_avg, paired", "at least as good"), rows)]
        settings = [(n, json.dumps(row["setting"])) for n, row in report["peers"]["methods"].items() if "grid" in row]
        parts += [table(("peer", "its best setting on the held-out items"), settings)]
    for case, found in report.get("table", {}).items():
        parts += [f"## {case} (tasks of {found['run']})", show(found["methods"])]
        parts += [f"All trained and scored in {found['seconds'] / 60:.1f} min."]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", nargs=4, metavar=("NAME", "SEED", "SETTING", "EPOCHS"), help=argparse.SUPPRESS)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of every method beside the peers (default 3)")
    parser.add_argument("--epochs", type=int, default=200, help="at most, of a training beside the peers (default 200)")
    parser.add_argument("--table-seeds", type=int, default=1, help="trainings of every method of the table (default 1)")
    parser.add_argument("--only", choices=("peers", "table"), help="one part alone; the peers are the long one")
    parser.add_argument("--cases", default=",".join(SOURCES.values()), help="of the table (default %(default)s)")
    parser.add_argument("--student", type=Path, nargs="+", default=[], metavar="FOLDER", help="a run or an evaluation")
    parser.add_argument("--data", type=Path, help="folder that holds ml-100k and amazon-games-6k")
    parser.add_argument("--peers", type=Path, default=PEERS, help="Python that has RecBole and Cornac")
    parser.add_argument("--out", type=Path, default=CACHE / "baselines.json", help="a .md is written beside it")
    options = read_options(parser, seeds=1, epochs=2, cases="synthetic")
    two_cores(2)
    os.environ["OMP_NUM_THREADS"] = "1"  # two processes at a time
    if options.worker:
        name, *numbers = options.worker
        print(json.dumps(work(name, *map(int, numbers))))
        return
    options.student = [folder.absolute() for folder in options.student]
    unknown = [case for case in options.cases.split(",") if case not in RUNS]
    if unknown or min(options.seeds, options.table_seeds) < 1:
        parser.error(f"no such case: {', '.join(unknown)}" if unknown else "there is at least one seed")
    data = (options.data or Path(os.environ.get("STAR_RL_DATA") or ROOT.parent / "shared" / "data")).resolve()
    report: dict[str, Any] = {"machine": machine(PACKAGES), "seeds": options.seeds, "table_seeds": options.table_seeds}
    if options.only != "table" and (options.quick or (data / "ml-100k").is_dir()):
        prepare(data, options.quick)
        report["peers"] = peers(options.peers.absolute(), options.seeds, options.epochs)
    if options.only != "peers":
        report["table"] = {
            case: over_run(case, run, options.table_seeds, students)
            for case, (run, students) in worlds(options, data).items()
        }
    shown = words_of(report)
    print(shown)
    write_json(options.out, report)
    options.out.with_suffix(".md").write_text(shown, encoding="utf-8")


if __name__ == "__main__":
    main()
