"""Bytes that a forward and backward pass holds besides weights, gradients and optimizer.

Counted from what autograd saves in transformers' Qwen3 (bf16, attention kernels that keep no score matrix), per token
of a micro-batch; a test counts the saved tensors of the real model. H hidden, I intermediate, Q and K width of
queries and of keys, V vocabulary, L layers:

* a norm saves its input in 32 bits (4H), the normalised input (2H) and its result, which the next projection needs
  (2H);
* the norms of queries and keys save 6 (Q + K); the attention saves queries, keys, values and its result: 2 (2Q + 2K);
* the MLP saves gate, its activation, the other branch and their product: 8I.
"""

from __future__ import annotations

from star_rl.plan.shapes import Shape

#: Bytes a logit at the peak of verl's log-probabilities: the logits, the scaled copy and its gradient, 16 bits each
#: (flash-attention's cross-entropy overwrites the scaled copy; verl/utils/torch_functional.py).
VERL_LOGIT = 6
#: Megatron keeps logits and their gradient in 32 bits beside the 16-bit ones.
MEGATRON_LOGIT = 10
#: transformers' loss: 16-bit logits, their 32-bit copy, its log-softmax and the gradient.
TRANSFORMERS_LOGIT = 14


def layer_saved(shape: Shape) -> int:
    """Bytes a token that one layer keeps for its backward pass."""
    norms = 2 * 8 * shape.hidden + 6 * (shape.query + shape.kv)
    return norms + 2 * (2 * shape.query + 2 * shape.kv) + 8 * shape.intermediate


def layers(shape: Shape, tokens: float, checkpointing: bool) -> float:
    """Bytes of all layers at the peak of the backward pass.

    With checkpointing: every layer's input, and one layer computed again with the gradients of its MLP.
    """
    working = layer_saved(shape) + 6 * shape.intermediate
    if checkpointing:
        return tokens * (2 * shape.hidden * shape.layers + working)
    return tokens * (layer_saved(shape) * shape.layers + 6 * shape.intermediate)


def logits(shape: Shape, tokens: float, width: float, fused: bool) -> float:
    """Bytes of the output projection's result at its peak; ``width`` bytes a logit.

    Fused kernels (Liger, verl's) go over chunks of about ``tokens * H / V`` rows, whose logits take ``H`` values a
    token.
    """
    return tokens * shape.hidden * width if fused else tokens * shape.vocab * width


def served(shape: Shape, tokens: float, sequences: int, tensor_parallel: int) -> float:
    """Bytes of one batch of ``tokens`` in vLLM, the last of each sequence sampled.

    In 16 bits: states and residual (4H), queries, keys and values, and of the MLP both branches, their product and its
    copy (8I). Logits of a sequence: 32 bits, scaled, and as probabilities. Held against vLLM's CPU engine
    (``benchmarks/plan.py``).
    """
    token = 4 * shape.hidden + (2 * shape.query + 4 * shape.kv + 8 * shape.intermediate) / tensor_parallel
    return tokens * token + 12 * shape.vocab * sequences
