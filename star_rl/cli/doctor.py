"""``star-rl doctor``: is this machine ready? One line a check, and the remedy where something is wrong."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from star_rl.integrations import gpus
from star_rl.pins import installed_extra, pins, same_release

#: Module to import -> what is printed after it. Each runs in a process of its own: one broken engine hides no other.
_IMPORTS = {
    "torch": "import torch; print(torch.__version__)",
    "ray": "import ray; print(ray.__version__)",
    "vllm": "import vllm; print(vllm.__version__)",
    "ms-swift": "import swift; from swift import SftArguments; print(swift.__version__)",
    "verl": "import verl; from verl.trainer.main_ppo import main; print(verl.__version__)",
    # As every verl process of a CPU run loads it: through the variable, so that a failure is loud.
    "plug-in": "import verl; from verl.plugin.platform import get_platform as p; print('platform', p().device_name)",
}
_IMPORT_SECONDS = 180
#: GiB of memory and disk that are wanted; a GPU's host holds what is offloaded, and checkpoints.
_MEMORY_GIB = {"cpu": 8, "gpu": 256}
_DISK_GIB = {"cpu": 4, "gpu": 500}


@dataclass(frozen=True, slots=True)
class Check:
    """One line: ``state`` is ``ok``, ``note`` (worth knowing) or ``wrong`` (exit code 1)."""

    name: str
    state: str
    value: str
    remedy: str = ""


def _check(name: str, good: bool, value: str, remedy: str, otherwise: str = "wrong") -> Check:
    """Return a check whose remedy is shown where it is not good."""
    return Check(name, "ok" if good else otherwise, value, "" if good else remedy)


def _versions(extra: str) -> Iterator[Check]:
    for name, wanted in pins(extra).items():
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            remedy = "make install EXTRA=gpu" if extra == "gpu" else f"pip install -e '.[{extra}]' (or: make install)"
            yield Check(name, "wrong", f"absent, pinned {wanted}", remedy)
            continue
        yield _check(name, same_release(have, wanted), f"{have}, pinned {wanted}", f"pip install {name}=={wanted}")


def _import(item: tuple[str, str]) -> Check:
    name, code = item
    environment = os.environ | {"VLLM_PLUGINS": "none", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    if name == "plug-in":
        environment |= {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "star_rl.integrations.verl.platform"}
    try:
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_IMPORT_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        return Check(f"import {name}", "wrong", f"no answer in {_IMPORT_SECONDS} s", "try again on a quieter machine")
    if result.returncode == 0:
        return Check(f"import {name}", "ok", (result.stdout.strip().splitlines() or [""])[-1])
    last = (result.stderr.strip().splitlines() or ["no message"])[-1]
    return Check(f"import {name}", "wrong", last[:160], "make install (or reinstall the extra named in the README)")


def _machine(extra: str) -> Iterator[Check]:
    import psutil

    cores = len(os.sched_getaffinity(0))
    yield _check("cores", cores >= 2, str(cores), "two cores are advised", "note")
    memory, low = psutil.virtual_memory(), "note" if extra == "gpu" else "wrong"
    free, wanted = memory.available / 2**30, _MEMORY_GIB[extra]
    what = "8B on 8 GPUs" if extra == "gpu" else "the quickstart"
    remedy = f"{what} wants {wanted} GiB: close something, or use a larger machine"
    yield _check("memory", free >= wanted, f"{free:.1f} GiB free of {memory.total / 2**30:.1f}", remedy, low)
    disk, wanted = shutil.disk_usage(".").free / 2**30, _DISK_GIB[extra]
    remedy = f"free {wanted} GiB, or work in another folder (out=)"
    yield _check("disk", disk >= wanted, f"{disk:.0f} GiB free here", remedy, low)
    seen = _gpus()
    yield seen
    if extra == "gpu":
        yield from _probe(seen.value.count(";") + 1)
        return
    shared = shutil.disk_usage("/dev/shm").free / 2**30 if os.path.isdir("/dev/shm") else 0.0
    remedy = "Ray keeps its objects there: in a container, start it with --shm-size=2g"
    yield _check("shared memory", shared >= 1, f"{shared:.1f} GiB free in /dev/shm", remedy)


def _probe(count: int) -> Iterator[Check]:
    """What the GPUs and the libraries for them say; the size of /dev/shm is among it."""
    wrong = gpus.problems(gpus.ask(count, {}))
    for line in wrong:
        what, _, remedy = line.rpartition(": ")
        yield Check("GPU probe", "wrong", what, remedy)
    if not wrong:
        yield Check("GPU probe", "ok", f"{count} GPU(s): products, flash-attn, liger, vLLM's kernels")
    root = os.environ.get("CUDA_HOME") or "/usr/local/cuda"  # where DeepSpeed looks
    if shutil.which("nvcc") or Path(root, "bin", "nvcc").exists():
        yield Check("nvcc", "ok", "found")
    else:
        value = "absent: SFT with deepspeed zero3_offload compiles its optimizer"
        yield Check("nvcc", "note", value, "use an image with CUDA's compiler for that recipe")


def _gpus() -> Check:
    if shutil.which("nvidia-smi") is None:
        return Check("GPUs", "note", "none: recipes run on the CPU")
    result = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"], capture_output=True, text=True
    )
    names = [line.strip() for line in result.stdout.splitlines() if line.strip()] if result.returncode == 0 else []
    return Check("GPUs", "ok" if names else "note", "; ".join(names) or "driver answers, but no GPU is visible")


def _ray() -> Check:
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        return Check("Ray", "ok", "no RAY_ADDRESS: a run starts a Ray of its own on this machine")
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False); print(ray.cluster_resources())"
    said = ""
    with contextlib.suppress(subprocess.TimeoutExpired):
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        said = result.stdout.strip() if result.returncode == 0 else ""
    value = said or f"RAY_ADDRESS={address} does not answer"
    return _check("Ray", bool(said), value, "unset RAY_ADDRESS or start that cluster")


def _kernel() -> Check:
    from star_rl.errors import StarError
    from star_rl.neighbours import kernel

    try:
        kernel.library()
    except StarError as error:
        return Check("neighbour kernel", "wrong", error.what, error.remedy)
    return Check("neighbour kernel", "ok", "compiled")


def _scanner() -> Check:
    from star_rl.sources.scan import scanner_available

    if scanner_available():
        return Check("line scanner", "ok", "compiled")
    return Check(
        "line scanner", "note", "not compiled: Python reads the lines, several times slower", "apt install gcc"
    )


def checks(extra: str | None = None) -> Iterator[Check]:
    """Every check in order; the imports run side by side."""
    extra = extra or installed_extra()
    version = sys.version_info
    good = (3, 11) <= version[:2] < (3, 13)
    yield _check("python", good, sys.version.split()[0], "use Python 3.11 or 3.12")
    yield from _versions(extra)
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(_import, [item for item in _IMPORTS.items() if (extra, item[0]) != ("gpu", "plug-in")])
    yield _kernel()
    yield _scanner()
    yield from _machine(extra)
    yield _ray()


def run(extra: str | None = None) -> int:
    """Print the checks; returns the exit code."""
    wrong = 0
    for check in checks(extra):
        mark = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}[check.state]
        tail = f"  -> {check.remedy}" if check.remedy else ""
        print(f"{mark} {check.name:<18} {check.value}{tail}", flush=True)
        wrong += check.state == "wrong"
    print("ready" if not wrong else f"{wrong} thing(s) to mend", flush=True)
    return 1 if wrong else 0
