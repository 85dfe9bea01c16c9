"""Keep vLLM's linear weights reloadable on a CPU: the extension that verl loads into vLLM's worker process.

vLLM's CPU build packs a linear weight for oneDNN and then drops it: ``layer.weight`` becomes an empty parameter
without a weight loader (vllm/model_executor/layers/linear.py:198), and the first weight synchronisation fails. vLLM's
own argument ``remove_weight=False`` keeps it; verl's loader copies into it and packs again. This doubles the memory of
the linear weights.
"""

from __future__ import annotations

import functools
from typing import Any

from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


def keep_unpacked_weights() -> None:
    """Patch vLLM to pack linear weights without dropping them. Idempotent."""
    import vllm.model_executor.layers.utils as layers

    original = layers.dispatch_cpu_unquantized_gemm
    if getattr(original, "star_rl_patched", False):
        return

    @functools.wraps(original)
    def dispatch(layer: Any, remove_weight: bool) -> None:
        original(layer, remove_weight=False)

    dispatch.star_rl_patched = True  # type: ignore[attr-defined]
    layers.dispatch_cpu_unquantized_gemm = dispatch


class ReloadableWeights(vLLMColocateWorkerExtension):
    """verl's worker extension, with the patch applied before the model is built."""

    def __new__(cls, **kwargs: Any) -> ReloadableWeights:
        keep_unpacked_weights()
        return super().__new__(cls, **kwargs)
