"""Reviews as JSON lines to a sorted Parquet table: the AgentRecBench source beside pandas, time and peak memory.

    python3.11 -m venv .bench/tables && .bench/tables/bin/pip install pandas pyarrow orjson
    .bench/tables/bin/python -m benchmarks.tables --lines 1000000 --runs 5 --out .bench/tables.json

All do the same work on the same files: read the reviews, keep five columns, drop second copies of one (user, item,
time), sort by user and time, write Parquet with zstd; and read the items and users. Ours also checks ids and times,
counts what it drops and hashes what it writes. Each run is a process of its own; runs alternate; ratios are of medians.
pandas stands twice: with its own JSON reader, and with Arrow's (``engine="pyarrow"``), its fastest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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
    partial = folder / "review.part"
    with open(partial, "w") as file:
        for k in range(lines):
            text = " ".join(words[rng.integers(0, 3000, int(rng.integers(10, 90)))])
            row = {"stars": float(rng.integers(1, 6)), "title": "Fine", "text": text, "images": []}
            row |= {
                "item_id": f"B{rng.integers(items):09d}",
                "parent_asin": "B0",
                "user_id": f"A{rng.integers(users):027d}",
            }
            row |= {"timestamp": int(1.3e12 + rng.integers(3e11)), "helpful_vote": 0, "verified_purchase": True}
            row |= {"review_id": f"{k:032d}", "source": "amazon", "type": "product"}
            file.write(json.dumps(row) + "\n")
    partial.rename(folder / "review.json")


def run_star_rl(folder: Path, out: Path) -> None:
    from star_rl.sources import write_tables

    write_tables("agentrecbench", folder, out)


def run_pandas(folder: Path, out: Path, engine: str | None) -> None:
    import pandas as pd

    how: dict[str, Any] = {"lines": True, "engine": engine} if engine else {"lines": True, "dtype": False}
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
    frame.to_parquet(out / "interactions.parquet", compression="zstd", index=False)
    for name in ("item", "user"):
        table = pd.read_json(folder / f"{name}.json", **how)
        table.drop_duplicates(f"{name}_id")[[f"{name}_id"]].to_parquet(out / f"{name}s.parquet", compression="zstd")


def child(engine: str, folder: Path, out: Path) -> None:
    """One run in this process; prints seconds of wall and of processor, and the peak of resident memory."""
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak_mib": peak}))


def same(folder: Path) -> None:
    """The tables of all engines hold the same rows in the same order (rows of one user and second may swap)."""
    import pyarrow.parquet as pq

    names = ["user_id", "item_id", "timestamp", "rating"]
    tables = [pq.read_table(folder / f"out-{engine}" / "interactions.parquet", columns=names) for engine in ENGINES]
    order = [("user_id", "ascending"), ("timestamp", "ascending"), ("item_id", "ascending")]
    first, *others = (table.select(names).sort_by(order) for table in tables)
    for engine, other in zip(ENGINES[1:], others, strict=True):
        if not first.equals(other.cast(first.schema)):
            raise SystemExit(f"the table of {engine} differs from that of star_rl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(".bench/tables-data"))
    parser.add_argument("--out", type=Path, default=Path(".bench/tables.json"))
    parser.add_argument("--child", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder / str(options.lines)
    if options.child:
        child(options.child, folder, folder / f"out-{options.child}")
        return
    if not (folder / "review.json").exists():
        generate(folder, options.lines)
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    results: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
    for number in range(options.runs):
        for k in range(len(ENGINES)):
            engine = ENGINES[(number + k) % len(ENGINES)]
            command = [sys.executable, "-m", "benchmarks.tables", "--child", engine, "--lines", str(options.lines)]
            command += ["--folder", str(options.folder)]
            if hasattr(os, "sched_setaffinity"):
                command = [
                    "taskset",
                    "-c",
                    ",".join(map(str, sorted(os.sched_getaffinity(0))[: options.threads])),
                    *command,
                ]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{engine} failed:\n{done.stderr[-2000:]}")
            results[engine].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"run {number + 1}/{options.runs} {engine:15} {results[engine][-1]}", flush=True)
    same(folder)
    medians = {
        engine: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for engine, runs in results.items()
    }
    ratios = {
        engine: {name: medians[engine][name] / medians["star_rl"][name] for name in medians[engine]}
        for engine in ENGINES[1:]
    }
    size = (folder / "review.json").stat().st_size / 2**20
    print(f"\n{options.lines:,} reviews, {size:,.0f} MiB, {options.threads} cores")
    print(f"{'':16}{'seconds':>9}{'CPU s':>9}{'peak MiB':>10}{'ratio':>8}{'CPU':>7}{'memory':>8}")
    for engine, row in medians.items():
        tail = (
            "".join(f"{ratios[engine][n]:{w}.1f}" for n, w in (("wall", 8), ("cpu", 7), ("peak_mib", 8)))
            if engine in ratios
            else ""
        )
        print(f"{engine:16}{row['wall']:9.2f}{row['cpu']:9.2f}{row['peak_mib']:10,.0f}{tail}")
    report = {"lines": options.lines, "runs": results, "medians": medians, "ratios": ratios}
    report |= {"python": platform.python_version(), "machine": platform.platform(), "load": os.getloadavg()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
