"""Attention for training on a CPU.

In bf16, the backward pass of PyTorch's fused CPU attention is several times slower than the plain
products it replaces. With gradients this uses batched products, one for each group of query heads
so that keys and values are never repeated; without, it is SDPA.
"""

import math
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "prompt_recovery_cpu"


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention of `transformers`' interface.

    Args:
        module: the layer.
        query: [B, H, T, D].
        key: [B, K, S, D], H a multiple of K.
        value: [B, K, S, D].
        attention_mask: bool (True is visible) or additive, [B, 1, T, S]; None is causal.
        dropout: of the weights; such layers are left to SDPA.
        scaling: of the products; 1/√D if not given.
        options: of SDPA.

    Returns:
        [B, T, H, D] and None.
    """
    if not (torch.is_grad_enabled() and query.requires_grad) or dropout > 0:
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
        return result
    batch, heads, length, size = query.shape
    kinds, width = key.shape[1], key.shape[2]
    scaling = 1 / math.sqrt(size) if scaling is None else scaling
    grouped = (query * scaling).reshape(batch, kinds, heads // kinds * length, size)
    scores = (grouped @ key.transpose(2, 3)).view(batch, kinds, -1, length, width)
    scores = scores + _additive(attention_mask, length, width, query)[:, :, None]
    weights = scores.softmax(-1).view(batch, kinds, -1, width)
    output = (weights @ value).view(batch, heads, length, size)
    return output.transpose(1, 2).contiguous(), None


def _additive(mask: Tensor | None, length: int, width: int, like: Tensor) -> Tensor:
    if mask is None:
        mask = torch.ones(length, width, dtype=torch.bool).tril_(width - length)[None, None]
    if mask.dtype != torch.bool:
        return mask
    additive = torch.zeros(mask.shape, dtype=like.dtype)
    return additive.masked_fill_(~mask, torch.finfo(like.dtype).min)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
