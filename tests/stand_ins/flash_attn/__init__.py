"""Stand for flash-attn 2.8.3 on a CPU: the two functions that transformers calls, in torch's arithmetic.

Attention is exact and in 32 bits, each packed sequence by itself, backward by autograd: what differs from the kernels
is their rounding. Windows, soft caps and dropout are not there; transformers asks the signatures and passes none.
"""

from itertools import pairwise

import torch
from torch.nn.functional import scaled_dot_product_attention


def _attend(q, k, v, scale, causal):
    """One sequence, (tokens, heads, head_dim); fewer heads of keys than of queries are grouped."""
    q, k, v = (x.transpose(0, 1)[None].float() for x in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1)


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
    """Return the attention of a batch of equally long sequences."""
    return torch.stack([_attend(*row, softmax_scale, causal) for row in zip(q, k, v, strict=True)]).to(q.dtype)


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False
):
    """Return the attention of packed sequences, none of which sees another."""
    ends = cu_seqlens_q.tolist()
    print("stand-in: attention over", len(ends) - 1, "packed sequences")
    parts = [_attend(q[a:b], k[a:b], v[a:b], softmax_scale, causal) for a, b in pairwise(ends)]
    return torch.cat(parts).to(q.dtype)


def flash_attn_with_kvcache(*_, **__):
    """Stand for what only generation calls."""
    raise NotImplementedError
