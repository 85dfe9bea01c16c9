"""Put the stand-ins below transformers and liger; ms-swift loads this as an external plug-in.

- transformers: what asks for a GPU before flash-attention is taken. The attention that it then calls is this folder's
  ``flash_attn``, found only from here on: transformers' own imports ask for its distribution where they see it.
- liger: its Triton kernel of head and cross-entropy, by both in torch and 32 bits, which is what the kernel computes by
  chunks. liger's own ``lce_forward`` and all between the two stay; its norms, rotation and SwiGLU are not taken.
"""

import sys
from pathlib import Path
from types import MethodType

import liger_kernel.transformers
import liger_kernel.transformers.functional as functional
import torch
import transformers.modeling_flash_attention_utils as flash
import transformers.modeling_utils as modeling
from liger_kernel.transformers.model.qwen3 import lce_forward

sys.path.append(str(Path(__file__).parent))
flash.is_flash_attn_2_available = lambda: True
modeling.PreTrainedModel._flash_attn_can_dispatch = lambda self, *_, **__: True


def _apply(model, **_):
    model.forward = MethodType(lce_forward, model)
    print("stand-in: liger's forward")


def _head_and_loss(input, weight, target, reduction="mean", ignore_index=-100, **_):
    logits = input.float() @ weight.float().T
    return torch.nn.functional.cross_entropy(logits, target, reduction=reduction, ignore_index=ignore_index)


liger_kernel.transformers._apply_liger_kernel_to_instance = _apply
functional.liger_fused_linear_cross_entropy = _head_and_loss
