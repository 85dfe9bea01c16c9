"""Reviews as JSON lines to a sorted Parquet table: the AgentRecBench source beside pandas, time and peak memory.

    make bench-tables ARGS="--lines 1000000 --runs 5 --out .bench/tables.json"

All do the same work on the same files, about 730 bytes a review: read the reviews, keep user, item, time, rating and
text, drop second copies of one (user, item, time), sort by user and time, write Parquet (texts with snappy, pandas'
default); and read the items and users and write them, too. pandas writes the ids of items and users alone. Ours also
reads titles, categories and attributes, checks ids and times, drops reviews of unknown items, counts what it drops,
syncs its files to the disk and hashes them.

pandas stands twice, each time with all that makes it faster: its own reader, spared the guessing of types, as
``read_json(lines=True, dtype=False)``; and Arrow's reader, in as many threads as there are cores,
as ``read_json(lines=True, engine="pyarrow")``. What follows stands in ``run_pandas``.

Each run is a process of its own on the same two cores; the clock starts after the imports. Runs take turns, and the
order turns round; ratios are of medians. ``peak MiB`` is the processes' own memory, looked at from outside
(``benchmarks/memory.py``): mapped files are the system's cache and left out; ours maps what it has spilled to disk.
``with files`` adds them. The second table is one run each at growing sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import read_options
from benchmarks.memory import watched

ENGINES = ("star_rl", "pandas", "pandas-pyarrow")


def generate(folder: Path, lines: int) -> None:
    """Write ``item.json``, ``user.json`` and ``review.json`` in Amazon's form, about 730 bytes a review."""
    import numpy as np

    rng = np.random.default_rng(0)
    words = np.array([f"word{k}" for k in range(3000)])
    users, items = max(1, lines // 8), max(1, lines // 25)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "item.json", "w") as file:
        for k in range(items):
            row = {"item_id": f"B{k:09d}", "main_category": "Games", "title": f"Game {k}", "average_rating": 4.1}
            row |= {"rating_number": 7, "features": ["small"], "description": ["fun"], "price": None, "store": "Shop"}
            row |= {"categories": ["Games", "Board"], "details": {}, "source": "amazon", "type": "product"}
            file.write(json.dumps(row) + "\n")
    with open(folder / "user.json", "w") as file:
        for k in range(users):
            file.write(json.dumps({"user_id": f"A{k:027d}", "source": "amazon", "type": "user"}) + "\n")
    partial, block = folder / "review.part", 10_000
    with open(partial, "w") as file:
        for start in range(0, lines, block):
            count = min(block, lines - start)
            edges = np.cumsum(rng.integers(10, 90, count)).tolist()
            text = words[rng.integers(0, 3000, edges[-1])].tolist()
            who, what = rng.integers(users, size=count).tolist(), rng.integers(items, size=count).tolist()
            stars, when = rng.integers(1, 6, count).tolist(), rng.integers(3 * 10**11, size=count).tolist()
            for k in range(count):
                row = {"stars": float(stars[k]), "title": "Fine", "images": []}
                row["text"] = " ".join(text[edges[k - 1] if k else 0 : edges[k]])
                row |= {"item_id": f"B{what[k]:09d}", "parent_asin": "B0", "user_id": f"A{who[k]:027d}"}
                row |= {"timestamp": 1_300_000_000_000 + when[k], "helpful_vote": 0, "verified_purchase": True}
                row |= {"review_id": f"{start + k:032d}", "source": "amazon", "type": "product"}
                file.write(json.dumps(row) + "\n")
    partial.rename(folder / "review.json")


def run_star_rl(folder: Path, out: Path) -> None:
    from star_rl.sources import write_tables

    write_tables("agentrecbench", folder, out)


def run_pandas(folder: Path, out: Path, engine: str | None) -> None:
    import pandas as pd

    fast = {"engine": engine} if engine else {"dtype": False}
    how: dict[str, Any] = {"lines": True, **fast}
    frame = pd.read_json(folder / "review.json", **how)
    frame = frame[["user_id", "item_id", "timestamp", "stars", "text"]].rename(columns={"stars": "rating"})
    if frame["timestamp"].dtype.kind == "M":
        frame["timestamp"] = frame["timestamp"].astype("datetime64[s]").astype("int64")
    else:
        frame["timestamp"] //= 1000
    frame["rating"] = frame["rating"].astype("float32")
    frame = frame.drop_duplicates(["user_id", "item_id", "timestamp"])
    frame = frame.sort_values(["user_id", "timestamp"], kind="stable")
    out.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(out / "interactions.parquet", index=False)
    for name in ("item", "user"):
        table = pd.read_json(folder / f"{name}.json", **how)
        table.drop_duplicates(f"{name}_id")[[f"{name}_id"]].to_parquet(out / f"{name}s.parquet")


def child(engine: str, folder: Path, out: Path) -> None:
    """One run in this process; prints seconds of wall and of processor."""
    import pyarrow as pa

    pa.array([0])  # imports pandas where it is installed, for all engines before the clock starts
    if engine == "star_rl":
        import star_rl.sources.agentrecbench  # noqa: F401
    else:
        import pandas  # noqa: F401
    wall, cpu = time.perf_counter(), time.process_time()
    if engine == "star_rl":
        run_star_rl(folder, out)
    else:
        run_pandas(folder, out, "pyarrow" if engine == "pandas-pyarrow" else None)
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))


def measure(engine: str, options: argparse.Namespace, lines: int) -> dict[str, float]:
    """One run in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.tables", "--child", engine, "--lines", str(lines)]
    command += ["--folder", str(options.folder)]
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))[: options.threads]
        command = ["taskset", "-c", ",".join(map(str, cores)), *command]
    found = watched(command, os.environ | {"OMP_NUM_THREADS": str(options.threads)})
    times = json.loads(found["out"].splitlines()[-1])
    return {**times, "peak": found["peak"], "with_files": found["peak"] + found["file"]}


def same(folder: Path) -> None:
    """The tables of all engines hold the same rows in the same order (rows of one user and second may swap)."""
    import pyarrow.parquet as pq

    names = ["user_id", "item_id", "timestamp", "rating", "text"]
    tables = [pq.read_table(folder / f"out-{engine}" / "interactions.parquet", columns=names) for engine in ENGINES]
    order = [("user_id", "ascending"), ("timestamp", "ascending"), ("item_id", "ascending")]
    first, *others = (table.select(names).sort_by(order) for table in tables)
    for engine, other in zip(ENGINES[1:], others, strict=True):
        if not first.equals(other.cast(first.schema)):
            raise SystemExit(f"the table of {engine} differs from that of star_rl")


def prepared(options: argparse.Namespace, lines: int) -> Path:
    """The folder of the raw files of so many reviews; they are written if they are absent."""
    folder: Path = options.folder / str(lines)
    if not (folder / "review.json").exists():
        generate(folder, lines)
    return folder


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All engines at one size, in turns."""
    folder = prepared(options, options.lines)
    runs: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
    for number in range(options.runs):
        for k in range(len(ENGINES)):
            engine = ENGINES[(number + k) % len(ENGINES)]
            runs[engine].append(measure(engine, options, options.lines))
            told = ", ".join(f"{name} {value:,.2f}" for name, value in runs[engine][-1].items())
            print(f"run {number + 1}/{options.runs} {engine:15} {told}", flush=True)
    same(folder)
    medians = {e: {name: statistics.median(run[name] for run in rows) for name in rows[0]} for e, rows in runs.items()}
    ratios = {
        engine: {name: medians[engine][name] / medians["star_rl"][name] for name in medians[engine]}
        for engine in ENGINES[1:]
    }
    size = (folder / "review.json").stat().st_size / 2**20
    print(f"\n{options.lines:,} reviews, {size:,.0f} MiB, {options.threads} cores, medians of {options.runs} runs")
    print(f"{'':16}{'seconds':>9}{'CPU s':>9}{'peak MiB':>10}{'with files':>12}{'times':>8}{'CPU':>7}{'memory':>8}")
    for engine, row in medians.items():
        line = f"{engine:16}{row['wall']:9.2f}{row['cpu']:9.2f}{row['peak']:10,.0f}{row['with_files']:12,.0f}"
        if engine in ratios:
            line += "".join(f"{ratios[engine][n]:{w}.1f}" for n, w in (("wall", 8), ("cpu", 7), ("peak", 8)))
        print(line)
    return {"lines": options.lines, "runs": runs, "medians": medians, "ratios": ratios}


def growth(options: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """One run each at growing sizes."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    print(f"\n{'peak MiB':16}" + "".join(f"{engine:>16}" for engine in ENGINES))
    for lines in (int(float(size)) for size in options.growth.split(",")):
        prepared(options, lines)
        found[str(lines)] = {engine: measure(engine, options, lines) for engine in ENGINES}
        print(f"{lines:<16,}" + "".join(f"{found[str(lines)][e]['peak']:16,.0f}" for e in ENGINES), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(".bench/tables-data"))
    parser.add_argument("--out", type=Path, default=Path(".bench/tables.json"))
    parser.add_argument("--growth", default="1e5,3e5,9e5", help="sizes of the table of peak memory; '' leaves it out")
    parser.add_argument("--child", choices=ENGINES, help=argparse.SUPPRESS)
    options = read_options(parser, lines=5_000, runs=1, growth="2e3,4e3")
    if options.child:
        folder = options.folder / str(options.lines)
        child(options.child, folder, folder / f"out-{options.child}")
        return
    report = compare(options)
    if options.growth:
        report["growth"] = growth(options)
    report |= {"python": platform.python_version(), "machine": platform.platform(), "load": os.getloadavg()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
