"""A CPU platform for verl 0.9.1 (verl/plugin/platform/platform_base.py), selected by ``VERL_PLATFORM=cpu``.

Every verl process imports this module through ``VERL_USE_EXTERNAL_MODULES``. An entry point of the group
``verl.plugins`` would do, but verl logs a failing one at debug level only (verl/__init__.py:72).

verl ships CUDA, ROCm and NPU platforms. On a CPU the trainer needs three things that they take for granted: a device
module with the names of ``torch.cuda``, a process group for one device type, and a Ray resource that counts workers
(Ray's logical GPUs, given to ``ray.init`` as a number).
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import types
from typing import Any

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

_ROLLOUT_VARIABLES = ("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND", "OMP_WAIT_POLICY", "VLLM_PLUGINS")
#: Threads of the rollout server; ``OMP_NUM_THREADS`` is the trainer's. Small models gain nothing from more.
ROLLOUT_THREADS = "STAR_RL_ROLLOUT_THREADS"


def _do_nothing(*_: Any, **__: Any) -> Any:
    return None


class CpuDeviceModule(types.ModuleType):
    """``torch.cpu`` with the further names verl calls on ``get_torch_device()``.

    Memory is that of the process, in bytes. The module equals ``torch.cpu``, because verl compares the two
    (verl/utils/flops_counter.py:77, verl/utils/profiler/performance.py:45).
    """

    empty_cache = ipc_collect = synchronize = set_device = reset_peak_memory_stats = staticmethod(_do_nothing)
    manual_seed = manual_seed_all = staticmethod(torch.manual_seed)
    is_available = staticmethod(lambda: False)  # verl asks this to find out whether there is an accelerator
    current_device = staticmethod(lambda: "cpu")
    device_count = staticmethod(lambda: 1)
    get_device_name = staticmethod(lambda *_: "CPU")
    get_rng_state = staticmethod(lambda *_: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, *_: torch.set_rng_state(state))

    @staticmethod
    def memory_allocated(*_: Any) -> int:
        return psutil.Process().memory_info().rss

    @staticmethod
    def max_memory_allocated(*_: Any) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    @staticmethod
    def mem_get_info(*_: Any) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    memory_reserved, max_memory_reserved = memory_allocated, max_memory_allocated

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def __eq__(self, other: object) -> bool:
        return other is self or other is torch.cpu

    __hash__ = types.ModuleType.__hash__


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """One CPU device per worker; workers are counted by Ray's logical ``GPU`` resource."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = CpuDeviceModule("star_rl_cpu_device")
    set_device = synchronize = set_allocator_settings = empty_cache = cudart = _do_nothing
    profiler_start = profiler_stop = _do_nothing

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return not torch.cuda.is_available()

    def current_device(self) -> str:  # only ever handed to `.to()` and `device=`
        return "cpu"

    def device_count(self) -> int:
        return 1

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        # What Ray sets for its logical GPUs, and what verl's vLLM server therefore copies.
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, msg: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def ray_resource_name(self) -> str:
        # verl's resource check knows GPU and NPU only (verl/single_controller/ray/base.py).
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        # Sends weights to the rollout server through shared memory instead of CUDA IPC handles.
        return False

    def rollout_env_vars(self) -> dict[str, str]:
        found = {name: os.environ[name] for name in _ROLLOUT_VARIABLES if name in os.environ}
        return {**found, "OMP_NUM_THREADS": os.environ.get(ROLLOUT_THREADS, "1")}


def use_single_backend_process_group() -> None:
    """Patch verl: give its Ray process group the backend ``cpu:gloo``.

    verl composes ``cpu:gloo,<device>:<backend>`` (verl/utils/distributed.py:90), on a CPU ``cpu:gloo,cpu:gloo``,
    which torch refuses as a duplicate. ``backend`` is a parameter of the function, so only its default changes.
    Idempotent.
    """
    import verl.utils.distributed as distributed

    original = distributed.initialize_global_process_group_ray
    if getattr(original, "star_rl_patched", False):
        return

    @functools.wraps(original)
    def initialize(timeout_second: float | None = None, backend: str | None = None) -> None:
        original(timeout_second=timeout_second, backend=backend or "cpu:gloo")

    initialize.star_rl_patched = True  # type: ignore[attr-defined]
    distributed.initialize_global_process_group_ray = initialize


if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
    use_single_backend_process_group()
