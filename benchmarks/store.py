"""The sealed evidence store beside a dict, LMDB and SQLite: look-up by key, opening, memory shared by readers.

    make bench-store ARGS="--entries 1000000 --out .bench/store.json"

Every engine holds the same entries under the same keys and answers with a ``str``; answers are compared before anything
is timed. Calls are timed one by one (``perf_counter_ns``, its own cost included in every figure), warm, in ``--runs``
rounds, each with the engines in another order. LMDB is timed in its faster form (one read transaction kept open) and
with a new transaction a look-up. A dict is the limit, not a peer: every process would hold its own copy.

Then ``answer`` about one item and about eight, with and without names, at 400 neighbours an item: CPU microseconds a
call, when a question is new, and a sample where the eight samples of one prompt ask the same.
"""

from __future__ import annotations

import functools
import gc
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks import harness
from star_rl.evidence import Catalogue, Template
from star_rl.evidence.build import build_store
from star_rl.evidence.store import EvidenceStore
from star_rl.evidence.writer import EvidenceWriter
from star_rl.records import Item

Get = Callable[[str, str], str | None]
ENGINES = ("dict", "star_rl", "lmdb", "lmdb new txn", "sqlite")
ON_DISK = ("star_rl", "lmdb", "sqlite")
PACKAGES = ("lmdb", "msgpack", "numpy", "pyarrow", "xxhash")


def key_of(number: int) -> tuple[str, str]:
    """Tool and id of an entry: users as 28-character hashes, items as ten-character codes, in no order."""
    mixed = number * 0x9E3779B97F4A7C15 % (1 << 64)
    return ("UserCF", f"AE{mixed:016X}{number:010d}") if number % 2 else ("ItemCF", f"B{mixed % 10**9:09d}")


def texts(seed: int = 0) -> list[str]:
    """2,000 texts of about 840 bytes."""
    source = random.Random(seed)
    words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(3, 9))) for _ in range(5000)]
    return [" ".join(source.choices(words, k=source.randint(80, 160))) for _ in range(2000)]


def entries(count: int) -> Iterator[tuple[str, str, str]]:
    base = texts()
    for number in range(count):
        tool, key = key_of(number)
        yield tool, key, f"{key} {base[number % len(base)]}"


def name_of(tool: str, key: str) -> bytes:
    return f"{tool}\0{key}".encode()


def build(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """Write the three stores; seconds and bytes of each."""
    import lmdb

    facts: dict[str, dict[str, float]] = {}

    def done(name: str, began: float, path: Path) -> None:
        size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
        facts[name] = {"build_s": round(time.perf_counter() - began, 2), "bytes": size}

    began = time.perf_counter()
    with EvidenceWriter(folder / "star_rl", "benchmark", "synthetic") as writer:
        for tool, key, text in entries(count):
            writer.put(tool, key, text)
        writer.seal()
    done("star_rl", began, folder / "star_rl")

    began = time.perf_counter()
    rows = sorted((name_of(tool, key), number) for number, (tool, key) in enumerate(map(key_of, range(count))))
    base = texts()
    environment = lmdb.open(str(folder / "lmdb"), map_size=16 << 30)
    with environment.begin(write=True) as transaction:
        for name, number in rows:
            text = f"{key_of(number)[1]} {base[number % len(base)]}"
            transaction.put(name, text.encode(), append=True)
    environment.close()
    done("lmdb", began, folder / "lmdb")

    began = time.perf_counter()
    connection = sqlite3.connect(folder / "sqlite")
    connection.execute("pragma journal_mode=off")
    connection.execute("create table e(k blob primary key, v text) without rowid")
    connection.executemany(
        "insert into e values(?, ?)",
        ((name, f"{key_of(number)[1]} {base[number % len(base)]}") for name, number in rows),
    )
    connection.commit()
    connection.close()
    done("sqlite", began, folder / "sqlite")
    return facts


@functools.cache
def environment_of(path: Path) -> Any:
    """LMDB allows one environment a process and path."""
    import lmdb

    return lmdb.open(str(path), readonly=True, lock=False, readahead=False)


def opened(engine: str, folder: Path) -> Get:
    """Open one engine's store read-only."""
    if engine == "star_rl":
        return EvidenceStore.inspect(folder / "star_rl").get
    if engine.startswith("lmdb"):
        environment = environment_of(folder / "lmdb")
        if engine == "lmdb":
            transaction = environment.begin(buffers=False)

            def get(tool: str, key: str) -> str | None:
                value = transaction.get(f"{tool}\0{key}".encode())
                return None if value is None else value.decode()

        else:

            def get(tool: str, key: str) -> str | None:
                with environment.begin() as fresh:
                    value = fresh.get(f"{tool}\0{key}".encode())
                return None if value is None else value.decode()

        return get
    connection = sqlite3.connect(f"file:{folder / 'sqlite'}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    connection.execute(f"pragma mmap_size={16 << 30}")

    def select(tool: str, key: str) -> str | None:
        row = connection.execute("select v from e where k = ?", (f"{tool}\0{key}".encode(),)).fetchone()
        return None if row is None else row[0]

    return select


def timed(get: Get, keys: list[tuple[str, str]]) -> list[int]:
    """Nanoseconds of every call, sorted."""
    clock = time.perf_counter_ns
    spent = [0] * len(keys)
    for place, (tool, key) in enumerate(keys):
        began = clock()
        get(tool, key)
        spent[place] = clock() - began
    return sorted(spent)


def reader(engine: str, folder: Path, count: int) -> None:
    """One of the sixteen: open, read 100,000 random keys, report, wait for the word to leave."""
    get = opened(engine, folder) if engine != "none" else (lambda tool, key: "")
    source = random.Random(1)
    for _ in range(100_000):
        get(*key_of(source.randrange(count)))
    print("ready", flush=True)
    sys.stdin.readline()


def shared_memory(engine: str, folder: Path, count: int, readers: int = 16) -> dict[str, float]:
    """Proportional and resident memory of ``readers`` processes that read the same store, in bytes."""
    command = [sys.executable, "-m", "benchmarks.store", "--worker", engine, str(count), "--folder", str(folder)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(readers)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise SystemExit(f"a reader of {engine} failed")
        sums = {"pss": 0, "rss": 0}
        for process in processes:
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                field, _, rest = line.partition(":")
                if field.lower() in sums:
                    sums[field.lower()] += int(rest.split()[0]) * 1024
        return dict(sums)
    finally:
        for process in processes:
            process.communicate("\n")


def open_time(engine: str, folder: Path) -> float:
    """Milliseconds to open and to answer the first key, median of 15."""
    spent = []
    for _ in range(15):
        began = time.perf_counter()
        opened(engine, folder)(*key_of(0))
        environment_of.cache_clear()
        spent.append((time.perf_counter() - began) * 1e3)
        gc.collect()  # a store that is still mapped would be opened without a look at its bytes
    return statistics.median(spent)


def answers(folder: Path, count: int, questions: int, near: int = 400, samples: int = 8) -> list[dict[str, Any]]:
    """Return the microseconds of ``answer`` for new questions, and a sample where all of a prompt ask the same."""
    source = random.Random(3)
    ids = [key_of(2 * number)[1] for number in range(count)]
    kinds = [f"Kind {number}" for number in range(18)]
    films = {key: Item(key, f"Some title of five {key[-4:]}", tuple(source.sample(kinds, 2))) for key in ids}
    columns = {
        "key": ids,
        "neighbours": [source.sample(ids, near) for _ in ids],
        "weights": [sorted((source.random() for _ in range(near)), reverse=True) for _ in ids],
        "support": [[source.randrange(1, 90) for _ in range(near)] for _ in ids],
    }
    rows = []
    for size in ("full", "short"):
        place = folder / f"answers-{size}"
        template = Template(Catalogue(films), size)
        build_store(place, {"ItemCF": pa.table(columns)}, template, scenario="benchmark", fingerprint="synthetic")
        for keys in (1, 8):
            asked = [source.sample(ids, keys) for _ in range(questions)]
            for named in (None, {key: f"c{number}" for number, key in enumerate(source.sample(ids, 20), 1)}.get):
                row: dict[str, Any] = {"size": size, "keys": keys, "names": named is not None}
                for field, times in (("new_us", 1), ("sample_us", samples)):
                    store, spent = EvidenceStore.inspect(place), []
                    for question in asked:
                        began = time.thread_time_ns()
                        for _ in range(times):
                            store.answer("ItemCF", question, named)
                        spent.append((time.thread_time_ns() - began) / times / 1e3)
                    row[field] = round(statistics.median(spent), 1)
                rows.append(row)
    return rows


def run(folder: Path, count: int, runs: int, queries: int, readers: int) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    report: dict[str, Any] = {"entries": count, "runs": runs, "queries": queries}
    report |= {"machine": harness.machine(PACKAGES), "engines": build(folder, count)}
    for engine in ON_DISK:
        report["engines"][engine]["open_ms"] = round(open_time(engine, folder), 3)

    idle = shared_memory("none", folder, count, readers)
    for engine in ON_DISK:
        memory = shared_memory(engine, folder, count, readers)
        report["engines"][engine]["pss_of_readers"] = memory["pss"] - idle["pss"]
        report["engines"][engine]["rss_of_readers"] = memory["rss"] - idle["rss"]
    report["readers"] = readers

    table = {(tool, key): text for tool, key, text in entries(count)}
    gets: dict[str, Get] = {"dict": lambda tool, key: table.get((tool, key))}
    gets |= {engine: opened(engine, folder) for engine in ENGINES[1:]}
    source = random.Random(2)
    keys = [key_of(source.randrange(count)) for _ in range(queries)]
    for engine, get in gets.items():  # warms every page the timing touches, and compares every answer
        for tool, key in keys:
            if get(tool, key) != table[tool, key]:
                raise SystemExit(f"{engine} gives another answer for {tool} {key}")
        assert get("ItemCF", "absent") is None
    p50: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    p99: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for number in range(runs):
        for engine in random.Random(number).sample(ENGINES, len(ENGINES)):  # no engine always follows the same one
            spent = timed(gets[engine], keys)
            p50[engine].append(spent[len(spent) // 2] / 1e3)
            p99[engine].append(spent[len(spent) * 99 // 100] / 1e3)
    for engine in ENGINES:
        row = report["engines"].setdefault(engine, {})
        row |= {"p50_us": statistics.median(p50[engine]), "p99_us": statistics.median(p99[engine])}
        row |= {"p50_runs": p50[engine], "p99_runs": p99[engine]}
    ours = report["engines"]["star_rl"]
    report["ratios"] = {
        engine: {name: round(report["engines"][engine][name] / ours[name], 3) for name in ("p50_us", "p99_us")}
        for engine in ENGINES
        if engine != "star_rl"
    }
    return report


def table_of(report: dict[str, Any]) -> str:
    """The figures of every engine; ratios are the engine's over ours."""
    rows: list[list[object]] = []
    for engine in ENGINES:
        row = report["engines"][engine]
        sizes = [
            f"{row[name] / 1e6:.0f}" if name in row else "-" for name in ("bytes", "pss_of_readers", "rss_of_readers")
        ]
        ratio = report["ratios"].get(engine, {"p50_us": 1, "p99_us": 1})
        spread = f"{min(row['p99_runs']):.3g}..{max(row['p99_runs']):.3g}"
        rows.append([engine, row["p50_us"], row["p99_us"], spread, row.get("open_ms", "-"), *sizes, *ratio.values()])
    count = report["readers"]
    head = ["engine", "p50 us", "p99 us", "range of p99", "open ms", "MB", f"PSS MB x {count}", f"RSS MB x {count}"]
    title = (
        f"{report['entries']:,} entries, {report['queries']:,} warm look-ups by key, median of {report['runs']} rounds"
    )
    return f"{title}\n\n{harness.table([*head, 'p50 / ours', 'p99 / ours'], rows)}"


def main() -> None:
    arguments = harness.arguments(__doc__)
    arguments.set_defaults(runs=7)
    arguments.add_argument("--entries", type=int, default=1_000_000)
    arguments.add_argument("--queries", type=int, default=100_000)
    arguments.add_argument("--readers", type=int, default=16)
    arguments.add_argument("--items", type=int, default=2_000, help="items of the stores that answer about several")
    arguments.add_argument("--folder", type=Path, default=harness.CACHE / "store-data")
    small = harness.CACHE / "quick" / "store-data"
    options = harness.read_options(arguments, entries=20_000, queries=5_000, readers=2, runs=2, items=500, folder=small)
    if options.worker:
        engine, count = options.worker
        reader(engine, options.folder, int(count))
        return
    harness.two_cores(2)
    report = run(options.folder, options.entries, options.runs, options.queries, options.readers)
    print(table_of(report))
    report["answers"] = answers(options.folder, options.items, options.items // 5)
    print(f"\nanswer() at 400 neighbours, CPU time, median of {options.items // 5} questions\n")
    rows = [
        [row["size"], row["keys"], "yes" if row["names"] else "no", row["new_us"], row["sample_us"]]
        for row in report["answers"]
    ]
    print(harness.table(["text", "keys", "names", "new us", "us a sample at 8"], rows))
    harness.write_json(options.out or harness.CACHE / "store.json", report)
    shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
