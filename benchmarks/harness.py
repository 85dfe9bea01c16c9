"""What the benchmarks share: contenders in processes of their own, taken in turns; medians, ratios, tables and JSON.

A script that uses this answers ``--worker NAME CASE`` by running one contender once and printing one JSON object as its
last line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".bench"

#: Seconds after which a contender is not run again.
PATIENCE = 90.0

#: Linux counts ru_maxrss in KiB.
MIB = 1024.0


def two_cores(threads: int) -> None:
    """Hold this process to as many cores as threads, and keep libraries' own pools out of the measurement."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # implicit asks for it; no contender multiplies dense matrices


def calibration() -> float:
    """Milliseconds of CPU of a fixed loop, best of five: how fast this machine is at this moment."""
    seconds = []
    for _ in range(5):
        began, total = time.process_time(), 0
        for number in range(100_000):
            total += number * number
        seconds.append(time.process_time() - began)
    return min(seconds) * 1e3


def stolen() -> Callable[[], float]:
    """Starts to watch this process's cores; what is returned tells the share of their time since then, in %, that the
    hypervisor gave to others. No program can tell it from a slow machine."""
    cores = sorted(os.sched_getaffinity(0))

    def clock() -> tuple[float, float]:
        times = [psutil.cpu_times(percpu=True)[core] for core in cores]
        return sum(each.steal for each in times), sum(map(sum, times))

    began = clock()

    def share() -> float:
        taken, passed = (now - then for now, then in zip(clock(), began, strict=True))
        return 100 * taken / max(passed, 1e-9)

    return share


def peak() -> float:
    """Peak resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def _status(field: str) -> float:
    """One field of this process's status, MiB."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / MIB


@contextlib.contextmanager
def measured(result: dict[str, Any]) -> Iterator[None]:
    """Fill ``result`` with what a block takes.

    ``seconds`` (wall), ``cpu`` (seconds), ``peak`` (MiB of the whole process at its highest), ``start`` (MiB resident
    when the block begins: interpreter, libraries, input) and ``above`` (highest in the block less ``start``).
    """
    Path("/proc/self/clear_refs").write_text("5")  # sets the kernel's high-water mark back to what is resident now
    start, cpu, wall = _status("VmRSS"), time.process_time(), time.perf_counter()
    yield
    result.update(seconds=time.perf_counter() - wall, cpu=time.process_time() - cpu)
    result.update(start=start, above=_status("VmHWM") - start, peak=peak())


def child(script: str, *words: str, timeout: float = 3600.0) -> dict[str, Any]:
    """Run ``script --worker words..`` in a new interpreter; its last line of output is the result."""
    import subprocess  # here and below: what a contender does not need must not weigh on its memory

    done = subprocess.run(
        [sys.executable, script, "--worker", *words], capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def in_turns(script: str, contenders: Sequence[str], case: str, runs: int) -> dict[str, list[dict[str, Any]]]:
    """``runs`` rounds in which every contender runs once; the order turns round every time.

    A contender that takes longer than :data:`PATIENCE` is not run again: its single figure shows as ``runs`` = 1.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for number in range(runs):
        for name in contenders if number % 2 == 0 else list(reversed(contenders)):
            if results[name] and results[name][-1]["seconds"] > PATIENCE:
                continue
            results[name].append(child(script, name, case))
            seconds = results[name][-1]["seconds"]
            print(f"  {case} {number + 1}/{runs} {name}: {seconds:.3f} s", file=sys.stderr, flush=True)
    return results


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Medians of the measured figures, the range of the seconds, and the number of runs."""
    import statistics

    seconds = [run["seconds"] for run in runs]
    medians = {
        name: statistics.median(run[name] for run in runs) for name in ("seconds", "cpu", "peak", "start", "above")
    }
    return {**medians, "min": min(seconds), "max": max(seconds), "runs": len(runs)}


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats with three significant digits."""
    shown = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in shown
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """Where and with what the figures were taken."""
    import platform
    from importlib import metadata

    versions = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        **versions,
    }


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "CASE"), help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=5, help="alternating runs of every contender (default 5)")
    parser.add_argument("--out", type=Path, help="where the JSON goes (default .bench/<name>.json)")
    return parser


def read_options(parser: argparse.ArgumentParser, **small: Any) -> argparse.Namespace:
    """Parse the command line; with ``--quick`` the defaults are ``small``, and the JSON goes to ``.bench/quick``."""
    parser.add_argument("--quick", action="store_true", help="small sizes, no bounds held: shows only that it works")
    if "--quick" in sys.argv:
        parser.set_defaults(**small, out=CACHE / "quick" / f"{Path(sys.argv[0]).stem}.json")
    return parser.parse_args()


def write_json(path: Path, value: object) -> None:
    """Write the result file and say where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten: {path}")
