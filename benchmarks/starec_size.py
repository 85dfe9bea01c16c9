"""STARec's data at full size: a world as large as MovieLens 1M through the chain's first stages, time of each.

    python -m benchmarks.starec_size [--users 6040] [--items 3883] [--interactions 1000209] [--out FILE]

The synthetic source draws the world, which is written in the layout of MovieLens 1M (``ratings.dat``, ``movies.dat``,
``users.dat`` with gender, age and occupation). Then the command runs as a user would start it, with STARec's protocol:
the 10-core, truths rated 4 or higher, each user's last 40 interactions, 1,000 users to train and 1,000 others to test.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import harness
from benchmarks.harness import CACHE, machine, read_options, write_json
from benchmarks.memory import watched
from star_rl.pipeline.stage import manifest_of
from star_rl.records import read_table
from star_rl.sources import write_tables

STAGES = ("tables", "tasks")


def generate(folder: Path, users: int, items: int, interactions: int) -> None:
    """Write ``ratings.dat``, ``movies.dat`` and ``users.dat``; as in the original, a user has at least 20 ratings."""
    size = {"users": users, "items": items, "shortest": 20, "longest": max(20, 2 * interactions // users - 20)}
    # The slowest users' last dates lie in the future, and are dropped.
    write_tables("synthetic", None, folder / "world", {**size, "categories": 18, "max_bad_share": 0.05})
    rng = np.random.default_rng(0)

    def write(name: str, *columns: Any) -> None:
        lines = pc.binary_join_element_wise(*(pa.array(column).cast(pa.string()) for column in columns), "::")
        (folder / name).write_text("\n".join(lines.to_pylist()) + "\n", encoding="latin-1")

    rows, films, people = (
        {name: column.combine_chunks() for name, column in zip(table.column_names, table.columns, strict=True)}
        for table in (read_table(folder / "world", name) for name in ("interactions", "items", "users"))
    )
    years = rng.integers(1920, 2001, items)
    titles = [f"{title} ({year})" for title, year in zip(films["title"].to_pylist(), years, strict=True)]
    write("ratings.dat", rows["user_id"], rows["item_id"], rows["rating"].cast(pa.int32()), rows["timestamp"])
    write("movies.dat", films["item_id"], titles, ["|".join(names) for names in films["categories"].to_pylist()])
    ages, work = rng.choice([1, 18, 25, 35, 45, 50, 56], users), rng.integers(0, 21, users)
    write("users.dat", people["user_id"], rng.choice(["F", "M"], users), ages, work, ["48067"] * users)
    shutil.rmtree(folder / "world")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=6040)
    parser.add_argument("--items", type=int, default=3883)
    parser.add_argument("--interactions", type=int, default=1_000_209)
    parser.add_argument("--out", type=Path, default=CACHE / "starec-size.json")
    options = read_options(parser, users=300, items=200, interactions=12_000)
    folder, drawn = CACHE / "starec-size", min(1000, options.users // 4)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.perf_counter()
    generate(folder, options.users, options.items, options.interactions)
    rows: list[list[object]] = [["files", time.perf_counter() - began, "", "written in the layout of MovieLens 1M"]]
    protocol = f"core: 10, positive: 4, max_history: 40, train_users: {drawn}, test_users: {drawn}, train_per_user: 1"
    command = [str(Path(sys.executable).with_name("star-rl")), "run", "movielens", "--until", STAGES[-1], "name=run"]
    command += [f"out={folder}", f"source.root={folder}", f"split.options={{test: users, {protocol}}}"]
    run, peaks = folder / "run", dict.fromkeys(STAGES, 0.0)

    def look(_: float, own: float) -> None:
        stage = next((name for name in STAGES if manifest_of(run / name) is None), STAGES[-1])
        peaks[stage] = max(peaks[stage], own)

    found = watched(command, None, look)
    for name in STAGES:
        made = manifest_of(run / name) or {}
        rows.append([name, made["seconds"], round(peaks[name]), made["figures"]["summary"]])
    print(harness.table(["stage", "seconds", "peak MiB", "what"], rows))
    print(f"\nthe command: {found['seconds']:.1f} s")
    write_json(options.out, {"rows": rows, "seconds": found["seconds"], "machine": machine(["numpy", "pyarrow"])})
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
