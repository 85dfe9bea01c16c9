"""Training engines and rollout replica for the CPU, loaded by ``actor_rollout_ref.model.external_lib``.

verl imports this module in the trainer and in every training worker (verl/workers/config/model.py), before it looks up
engines. With an accelerator the import changes nothing, so that one recipe serves both.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from verl.utils.device import get_device_name
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.rollout.replica import RolloutReplicaRegistry


class CpuPolicyEngine(FSDPEngineWithLMHead):
    """FSDP2 language model on gloo, on this machine's share of the cores.

    Ray gives each actor one thread (``OMP_NUM_THREADS``), which suits all others: they wait while the trainer computes.
    verl offloads a reference model's FSDP2 modules to pinned CPU memory
    (verl/workers/engine/fsdp/transformer_impl.py:460); pinning needs an accelerator, so the modules stay in place.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        ranks = int(os.environ.get("RAY_LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))
        super().__init__(*args, **kwargs)

    def _build_fsdp_module(self, module: Any) -> Any:
        config, forward_only = self.engine_config, self.engine_config.forward_only
        object.__setattr__(config, "forward_only", False)  # verl freezes its dataclasses
        try:
            return super()._build_fsdp_module(module)
        finally:
            object.__setattr__(config, "forward_only", forward_only)


def _load_vllm_replica() -> type:
    from star_rl.integrations.verl.replica import CpuVllmReplica

    return CpuVllmReplica


_ROWS = 2048


def logprobs_of(logits: torch.Tensor, labels: torch.Tensor, inplace_backward: bool = True) -> torch.Tensor:
    """Return the log-probabilities of ``labels`` under ``logits``, shapes (tokens,) and (tokens, vocabulary).

    verl's own (verl/utils/torch_functional.py:197) goes row by row without flash attention. A packed batch has a row a
    token: tens of thousands of Python calls a step, and as many nodes for the backward pass.
    """
    picked = torch.gather(logits, -1, labels.unsqueeze(-1)).squeeze(-1)
    return picked - torch.cat([torch.logsumexp(rows, -1) for rows in logits.split(_ROWS)])


def register_cpu_engines() -> None:
    """Register the engines above for device ``cpu`` and the vLLM replica that can reload weights. Idempotent."""
    for backend in ("fsdp", "fsdp2"):
        if "cpu" not in EngineRegistry._engines.get("language_model", {}).get(backend, {}):
            EngineRegistry.register(model_type="language_model", backend=backend, device="cpu")(CpuPolicyEngine)
    RolloutReplicaRegistry.register("vllm", _load_vllm_replica)
    transformer_impl.logprobs_from_logits = logprobs_of  # patches verl


if get_device_name() == "cpu":
    register_cpu_engines()
