"""Check the GPUs of a node or of a cluster, and hold GPUs of a cluster.

``python -m star_rl.integrations.gpus N`` prints what a node's GPUs answer, as JSON. :func:`look` asks so on every node
of a cluster, and times an all-reduce between them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from star_rl.errors import StarError

_SECONDS = 120
_REDUCE_SECONDS = 60
_REDUCE_MIB = {"cuda": 256, "cpu": 4}
_FREE_SHARE = 0.9
#: A stage's engines that have just ended hand their memory back within seconds.
_FREEING_SECONDS = 20
SHM_GIB = 16
#: CUDA's major version -> the oldest driver that runs it (NVIDIA's compatibility table 1).
_DRIVERS = {"13": 580, "12": 525}
#: vLLM's compiled kernels, as its vllm/platforms/cuda.py imports them.
VLLM_KERNELS = "vllm._C_stable_libtorch"
_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
_INSTALL = "make install EXTRA=gpu"


def _driver() -> str:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return (subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split() or [""])[0]


def _device(index: int) -> dict[str, Any]:
    import torch

    for _ in range(_FREEING_SECONDS):
        free, total = torch.cuda.mem_get_info(index)
        if free >= _FREE_SHARE * total:
            break
        time.sleep(1)
    matrix = torch.ones(1024, 1024, dtype=torch.bfloat16, device=f"cuda:{index}")
    if float((matrix @ matrix)[0, 0]) != 1024:
        raise ArithmeticError("a bf16 product is wrong")
    return {"name": torch.cuda.get_device_name(index), "free": free / total}


def _flash_attn() -> None:
    import torch
    from flash_attn import flash_attn_varlen_func

    q, k, v = (torch.ones(8, 2, 128, dtype=torch.bfloat16, device="cuda", requires_grad=True) for _ in range(3))
    ends = torch.tensor([0, 3, 8], dtype=torch.int32, device="cuda")
    flash_attn_varlen_func(q, k, v, ends, ends, 5, 5, causal=True).sum().backward()
    torch.cuda.synchronize()


def _tried(what: Callable[[], Any]) -> Any:
    """Return what it gives, or ``{"error": ...}``."""
    try:
        return what()
    except Exception as error:  # an answer about this node, whatever is wrong there
        return {"error": (str(error).strip().splitlines() or [type(error).__name__])[0][:200]}


def answer(count: int) -> dict[str, Any]:
    """Return what this node's first ``count`` GPUs and the libraries for them say."""
    said: dict[str, Any] = {"wanted": count, "driver": _tried(_driver), "alloc": ""}
    said["alloc"] = next((f"{name}={os.environ[name]}" for name in _ALLOCATOR if os.environ.get(name)), "")
    said["shm"] = _tried(lambda: os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize)

    def cuda() -> dict[str, Any]:
        import torch

        found = {"torch": torch.__version__, "cuda": torch.version.cuda}
        if torch.cuda.is_available():
            return {**found, "count": torch.cuda.device_count()}
        return {**found, **_tried(lambda: torch.cuda.init() or {"error": "torch sees no GPU"})}

    said["cuda"] = _tried(cuda)
    if "error" not in said["cuda"]:
        said["devices"] = [_tried(partial(_device, at)) for at in range(min(count, said["cuda"]["count"]))]
        said["flash_attn"] = _tried(_flash_attn)
    else:
        said["flash_attn"] = _tried(lambda: __import__("flash_attn") and None)
    said["liger_kernel"] = _tried(lambda: __import__("liger_kernel") and None)
    said["vllm"] = _tried(lambda: __import__(VLLM_KERNELS) and None)
    return said


def problems(said: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with an :func:`answer`, one line each with its remedy."""
    if "error" in said:
        return [
            f"the GPU probe failed ({said['error']}): run python -m star_rl.integrations.gpus {said['wanted']} there"
        ]
    wrong, driver, cuda = [], said["driver"], said["cuda"]
    version = "" if isinstance(driver, dict) else str(driver)
    major = str(cuda.get("cuda") or "").partition(".")[0]
    oldest = _DRIVERS.get(major)
    old = oldest and version.partition(".")[0].isdigit() and int(version.partition(".")[0]) < oldest
    if isinstance(driver, dict):
        wrong.append(f"nvidia-smi gives no driver version ({driver['error']}): install NVIDIA's driver on the host")
    elif old:
        wrong.append(
            f"driver {version} is too old for torch {cuda['torch']} (CUDA {cuda['cuda']}): install driver >= {oldest}, "
            "or the cu129 builds, or NVIDIA's forward-compat package (VLLM_ENABLE_CUDA_COMPATIBILITY=1)"
        )
    if "cuda" in cuda and not cuda["cuda"]:
        wrong.append(f"torch {cuda['torch']} is built without CUDA: {_INSTALL}")
    elif "error" in cuda and not old:
        wrong.append(f"CUDA does not start ({cuda['error']}): mend the driver or torch ({_INSTALL})")
    elif cuda.get("count", said["wanted"]) < said["wanted"]:
        wrong.append(
            f"torch sees {cuda['count']} of {said['wanted']} GPUs: look at nvidia-smi and CUDA_VISIBLE_DEVICES there"
        )
    for index, device in enumerate(said.get("devices", ())):
        if "error" in device:
            wrong.append(f"GPU {index} fails in a product ({device['error']}): reset it or leave the node out")
        elif device["free"] < _FREE_SHARE:
            wrong.append(
                f"GPU {index} ({device['name']}) has {device['free']:.0%} of its memory free: end what holds it "
                "(nvidia-smi)"
            )
    for name, part in (("flash_attn", "flash-attn"), ("liger_kernel", "liger-kernel"), ("vllm", "vLLM's kernels")):
        if said[name]:
            wrong.append(f"{part} cannot be used ({said[name]['error']}): {_INSTALL}")
    if isinstance(said["shm"], dict) or said["shm"] < SHM_GIB * 2**30:
        size = "absent" if isinstance(said["shm"], dict) else f"{said['shm'] / 2**30:.1f} GiB"
        wrong.append(
            f"/dev/shm is {size}, {SHM_GIB} GiB are wanted: --shm-size={SHM_GIB}g, or an emptyDir of medium Memory"
        )
    if re.search(r"expandable_segments:\s*true", said["alloc"], re.IGNORECASE):
        wrong.append(f"{said['alloc']} breaks vLLM's sleep mode: unset it")
    return wrong


def _child(arguments: Sequence[str], seconds: int, env: Mapping[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "star_rl.integrations.gpus", *arguments]
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, **env},
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer in {seconds} s"}
    try:
        found: dict[str, Any] = json.loads(ended.stdout.strip().rsplit("\n", 1)[-1])
    except ValueError:  # it crashed
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1][:200]
        return {"error": f"exit code {ended.returncode}: {last}"}
    return found


def ask(count: int, env: Mapping[str, str]) -> dict[str, Any]:
    """Return :func:`answer` as a child process gives it."""
    return {"wanted": count, **_child([str(count)], _SECONDS, env)}


def reduce(rank: int, world: int, host: str, port: int, device: str) -> dict[str, Any]:
    """Return the GB/s of an all-reduce between ``world`` processes, one a node, as nccl-tests reckons (bus)."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    limit = timedelta(seconds=_REDUCE_SECONDS // 2)
    store = dist.TCPStore(host, port, world, is_master=False, timeout=limit)
    # both, as verl's own group
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=limit)
    dist.all_reduce(torch.ones(1))
    data = torch.ones(_REDUCE_MIB[device] * 2**18, device=device)
    size = data.numel() * data.element_size()
    spent = 0.0
    for _ in range(3):  # the last: connections are made in the first
        data.fill_(1.0)
        dist.all_reduce(torch.ones(1))  # all begin together
        began = time.monotonic()
        dist.all_reduce(data)
        if float(data[0]) != world:
            raise ArithmeticError("the sum is wrong")
        spent = time.monotonic() - began
    dist.destroy_process_group()
    return {"speed": 2 * (world - 1) / world * size / spent / 1e9}


def ask_reduce(rank: int, world: int, host: str, port: int, device: str, env: Mapping[str, str]) -> dict[str, Any]:
    """Return :func:`reduce` as a child process gives it."""
    return _child(["reduce", *map(str, (rank, world, host, port)), device], _REDUCE_SECONDS, env)


def look(each: int, env: Mapping[str, str]) -> tuple[list[str], str]:
    """Ask all nodes of the joined cluster that have ``each`` GPUs free; 0 asks every node for the all-reduce alone.

    Returns:
        What is wrong, and what the all-reduce gave.
    """
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    nodes = [node for node in ray.nodes() if node["Alive"] and free.get(node["NodeID"], {}).get("GPU", 0) >= each]
    wrong = []
    if each:
        said = on_each_node(nodes, ask, each, lambda _: (each, env), _SECONDS + 30)
        wrong = [
            f"{node['NodeManagerHostname']}: {line}" for node, one in said for line in problems({"wanted": each, **one})
        ]
    if wrong or len(nodes) < 2:
        return wrong, ""
    from torch.distributed import TCPStore

    device, host = "cuda" if each else "cpu", ray.util.get_node_ip_address()
    store = TCPStore(host, 0, len(nodes), is_master=True, wait_for_workers=False)
    said = on_each_node(
        nodes,
        ask_reduce,
        min(each, 1),
        lambda at: (at, len(nodes), host, store.port, device, env),
        _REDUCE_SECONDS + 30,
    )
    failed = [f"{node['NodeManagerHostname']}: {one['error']}" for node, one in said if "error" in one]
    if failed:
        return [
            f"an all-reduce between the nodes fails ({'; '.join(failed)}): name the network's interface in "
            "NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME (grpo.overrides.env), and open the ports between the nodes"
        ], ""
    speed = min(one["speed"] for _, one in said)
    return [], f"all-reduce between the nodes {speed:.2g} GB/s"


def on_each_node(
    nodes: Sequence[Mapping[str, Any]], function: Any, gpus: int, given: Callable[[int], Sequence[Any]], seconds: float
) -> list[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Run a function on each node, with ``gpus`` GPUs and the arguments ``given(at)``; return (node, its answer).

    The answer of a node that fails, or has none within ``seconds`` (the start of a worker included), is ``error``.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, num_gpus=gpus, max_retries=0)(function)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(*given(at))
        for at, node in enumerate(nodes)
    ]
    until, said = time.monotonic() + seconds, []
    for node, one in zip(nodes, asked, strict=True):
        try:
            said.append((node, ray.get(one, timeout=max(1.0, until - time.monotonic()))))
        except ray.exceptions.GetTimeoutError:
            ray.cancel(one, force=True)
            said.append((node, {"error": f"no answer in {seconds:.0f} s"}))
        except ray.exceptions.RayError as error:
            said.append((node, {"error": str(error).strip().splitlines()[-1][:200]}))
    return said


@contextlib.contextmanager
def hold(count: int, address: str = "auto", seconds: float = 60.0) -> Iterator[None]:
    """Hold ``count`` GPUs of this node in the running cluster for a process that Ray did not start; 0 holds nothing.

    Raises:
        StarError: they do not become free in time.
    """
    if not count:
        yield
        return
    import ray
    from ray.util import placement_group, remove_placement_group

    joined = not ray.is_initialized()
    if joined:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        here = f"node:{ray.util.get_node_ip_address()}"
        group = placement_group([{"GPU": 1}] * (count - 1) + [{"GPU": 1, here: 0.001}], "STRICT_PACK")
        try:
            if not group.wait(seconds):
                raise StarError(
                    f"SFT runs on {count} GPUs of this node, and other jobs hold some of them",
                    "wait for these jobs or stop them (star-rl status), then star-rl resume",
                )
            yield
        finally:
            remove_placement_group(group)
    finally:
        if joined:
            ray.shutdown()


if __name__ == "__main__":
    os.environ.setdefault("VLLM_PLUGINS", "none")
    if sys.argv[1] == "reduce":
        _rank, _world, _host, _port, _kind = sys.argv[2:]
        print("\n" + json.dumps(_tried(lambda: reduce(int(_rank), int(_world), _host, int(_port), _kind))))
    else:
        print("\n" + json.dumps(answer(int(sys.argv[1]))))
