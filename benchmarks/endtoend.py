"""Raw reviews to a sealed store: the first four stages of the chain at 10^7 interactions, time and memory of each.

    .venv/bin/python benchmarks/endtoend.py --interactions 1e7 --out .bench/end-to-end.json

``star-rl run amazon --until evidence``, as a user would start it, over a folder in AgentRecBench's form
that is written first: reviews in Amazon's fields with texts of about 100 characters, with the tail of popularity of
``benchmarks/neighbours.py`` (about 8.5 a user, 15 an item), in random order. Every stage is the chain's own: tables;
tasks (last item is the ground truth, for 20,000 users); neighbours of all items and of the users that some task asks
for (K = 50); their words by template, sealed and verified in the store.

Memory is that of the command and all its processes, looked at from outside every 20 ms (``benchmarks/memory.py``): what
is their own, mapped files left out and told beside. A stage's peak is the largest while it ran. The limit is 4 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from harness import read_options
from memory import watched
from neighbours import synthetic

STAGES = ("tables", "tasks", "neighbours", "evidence")
LIMIT = 4096.0
_BLOCK = 200_000


def generate(folder: Path, wanted: int) -> None:
    """Write ``item.json``, ``user.json`` and ``review.json`` of about ``wanted`` interactions."""
    users, items, n_users, n_items = synthetic(wanted)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(users))
    users, items = users[order], items[order]
    words = np.array([f"word{k}" for k in range(2000)])
    texts = pa.array([" ".join(words[rng.integers(0, 2000, 13)]) for _ in range(5000)])
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, count: int, *parts: Any) -> None:
        with open(folder / f"{name}.part", "wb") as file:
            for low in range(0, count, _BLOCK):
                rows = np.arange(low, min(count, low + _BLOCK))
                made = [part(rows) if callable(part) else pa.scalar(part) for part in parts]
                lines = pc.binary_join_element_wise(*made, "")
                file.write(pc.binary_join(pa.array([lines.to_pylist()]), "\n")[0].as_buffer())
                file.write(b"\n")
        (folder / f"{name}.part").rename(folder / f"{name}.json")

    def number(values: np.ndarray, digits: int) -> pa.Array:
        return pc.utf8_lpad(pa.array(values).cast(pa.string()), digits, "0")

    head = '{"item_id": "B', '", "main_category": "Games", "title": "Game ', '", "categories": ["Games", "Shelf '
    tail = '"], "price": 9.5, "store": "Shop", "source": "amazon", "type": "product"}'
    write("item", n_items, head[0], lambda r: number(r, 9), head[1], lambda r: number(r, 1), head[2],
          lambda r: number(r % 40, 1), tail)  # fmt: skip
    write("user", n_users, '{"user_id": "A', lambda r: number(r, 27), '", "source": "amazon", "type": "user"}')
    stamps = 1_300_000_000_000 + rng.integers(0, 300_000_000, len(users)) * 1000
    stars, chosen = rng.integers(1, 6, len(users)), rng.integers(0, len(texts), len(users))
    write("review", len(users), '{"stars": ', lambda r: number(stars[r], 1), '.0, "title": "Fine", "text": "',
          lambda r: texts.take(pa.array(chosen[r])), '", "images": [], "item_id": "B', lambda r: number(items[r], 9),
          '", "user_id": "A', lambda r: number(users[r], 27), '", "timestamp": ', lambda r: number(stamps[r], 1),
          ', "helpful_vote": 0, "verified_purchase": true, "source": "amazon", "type": "product"}')  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--interactions", type=float, default=1e7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(".bench/end-to-end"))
    parser.add_argument("--out", type=Path, default=Path(".bench/end-to-end.json"))
    parser.add_argument("options", nargs="*", help="options over the recipe's, such as source.options.text=false")
    options = read_options(parser, interactions=2e4)
    raw, runs = options.folder / f"raw-{options.interactions:.0e}", options.folder / "runs"
    if not (raw / "review.json").exists():
        print(f"writing {raw} ..", flush=True)
        generate(raw, int(options.interactions * 1.03))
    shutil.rmtree(runs, ignore_errors=True)
    command = [Path(sys.executable).with_name("star-rl"), "run", "--until", "evidence", "amazon"]
    command += ["name=run", f"out={runs}", f"source.root={raw}", "source.options.domain=all", "split.options.test=last"]
    command += [
        "split.options.scenario=classic",
        "split.options.max_test=1000",
        f"neighbours.threads={options.threads}",
    ]
    command += [f"neighbours.{name}=50" for name in ("items_k", "users_k", "liked_k")] + options.options
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    os.sched_setaffinity(0, cores)
    peaks = dict.fromkeys(STAGES, 0.0)

    def look(_: float, own: float) -> None:
        stage = next((name for name in STAGES if not (runs / "run" / name / "manifest.json").exists()), STAGES[-1])
        peaks[stage] = max(peaks[stage], own)

    found = watched([str(word) for word in command], os.environ | {"OMP_NUM_THREADS": str(options.threads)}, look)
    manifests = {name: json.loads((runs / "run" / name / "manifest.json").read_text()) for name in STAGES}
    kept = manifests["tables"]["figures"]["kept"]
    size = (raw / "review.json").stat().st_size / 2**20
    print(f"{kept['interactions']:,} interactions ({size:,.0f} MiB of reviews), {kept['users']:,} users, "
          f"{kept['items']:,} items; {options.threads} cores\n")  # fmt: skip
    print(f"{'':12}{'seconds':>9}{'peak MiB':>10}")
    for name in STAGES:
        print(
            f"{name:12}{manifests[name]['seconds']:9.1f}{peaks[name]:10,.0f}  {manifests[name]['figures']['summary']}"
        )
    print(
        f"{'all':12}{found['seconds']:9.1f}{found['peak']:10,.0f}  limit {LIMIT:,.0f}; "
        f"mapped files beside {found['file']:,.0f}"
    )
    report = {"kept": kept, "seconds": found["seconds"], "peak": found["peak"], "mapped": found["file"], "limit": LIMIT}
    report["stages"] = {name: {"seconds": manifests[name]["seconds"], "peak": peaks[name]} for name in STAGES}
    report |= {"python": platform.python_version(), "machine": platform.platform(), "load": os.getloadavg()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {options.out}")
    shutil.rmtree(runs)
    if found["peak"] > LIMIT and not options.quick:
        raise SystemExit(f"{found['peak']:,.0f} MiB are above the limit of {LIMIT:,.0f}")


if __name__ == "__main__":
    main()
