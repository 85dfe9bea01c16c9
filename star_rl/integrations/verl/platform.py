"""A CPU platform for verl 0.9.1 (verl/plugin/platform/platform_base.py), selected by ``VERL_PLATFORM=cpu``.

verl ships CUDA, ROCm and NPU platforms. On a CPU the trainer needs three things they take for granted: a device
module with the names of ``torch.cuda``, a process group for one device type, and a Ray resource that counts workers
(Ray's logical GPUs, given to ``ray.init`` as a number).
"""

from __future__ import annotations

import functools
import os
import resource
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

_KIB = 1024
_ROLLOUT_VARIABLES = ("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND", "OMP_WAIT_POLICY", "VLLM_PLUGINS")
#: Threads of the rollout server, where ``OMP_NUM_THREADS`` speaks for the trainer: sampling of small models gains none.
ROLLOUT_THREADS = "STAR_RL_ROLLOUT_THREADS"


def _resident_bytes(*_: Any, **__: Any) -> int:
    return psutil.Process().memory_info().rss


def _peak_resident_bytes(*_: Any, **__: Any) -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def _memory_info(*_: Any, **__: Any) -> tuple[int, int]:
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def _nothing(*_: Any, **__: Any) -> None:
    return None


class CpuDeviceModule(types.ModuleType):
    """``torch.cpu`` with the further names verl calls on ``get_torch_device()``.

    Memory figures are those of the process, in bytes. Equal to ``torch.cpu``, because verl compares the two
    (verl/utils/flops_counter.py:77, verl/utils/profiler/performance.py:45).
    """

    empty_cache = ipc_collect = synchronize = set_device = reset_peak_memory_stats = staticmethod(_nothing)
    memory_allocated = memory_reserved = staticmethod(_resident_bytes)
    max_memory_allocated = max_memory_reserved = staticmethod(_peak_resident_bytes)
    mem_get_info = staticmethod(_memory_info)
    manual_seed = manual_seed_all = staticmethod(torch.manual_seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def __eq__(self, other: object) -> bool:
        return other is self or other is torch.cpu

    __hash__ = types.ModuleType.__hash__

    @staticmethod
    def is_available() -> bool:
        """False: verl asks this to find out whether there is an accelerator."""
        return False

    @staticmethod
    def current_device() -> str:
        return "cpu"

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def get_device_name(*_: Any, **__: Any) -> str:
        return "CPU"

    @staticmethod
    def get_rng_state(*_: Any, **__: Any) -> torch.Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, *_: Any, **__: Any) -> None:
        torch.set_rng_state(state)


_DEVICE_MODULE = CpuDeviceModule("star_rl_cpu_device")


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """One CPU device per worker; workers are counted by Ray's logical ``GPU`` resource."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _DEVICE_MODULE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return not torch.cuda.is_available()

    def current_device(self) -> str:  # type: ignore[override]  # only ever handed to `.to()` and `device=`
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        # What Ray sets for its logical GPUs, and what verl's vLLM server therefore copies.
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

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

    def cudart(self) -> None:
        return None


def use_single_backend_process_group() -> None:
    """A patch of verl: give its Ray process group the backend ``cpu:gloo``.

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
