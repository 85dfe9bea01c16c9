"""verl's vLLM rollout server with the worker extension of :mod:`star_rl.integrations.verl.worker`.

Subclasses through the hook verl provides (verl/workers/rollout/vllm_rollout/vllm_async_server.py:1273).
"""

from typing import Any

import ray
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica


class CpuVllmServer(vLLMHttpServer):
    """A vLLM server whose linear layers keep their weights."""

    def _get_worker_extension_cls(self) -> str:
        return "star_rl.integrations.verl.worker.ReloadableWeights"


class CpuVllmReplica(vLLMReplica):
    """One replica of :class:`CpuVllmServer`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(CpuVllmServer)
