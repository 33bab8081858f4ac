"""Attention on a CPU.

In bf16, the backward pass of PyTorch's fused CPU attention is several times slower than the plain
products it replaces, and its decoding step repeats keys and values for every query head. This
module uses batched products: one for each group of query heads, so that keys and values are never
repeated, and in pieces of queries, so that the half of the scores that causality hides is mostly
not computed. Prefilling without gradients is left to SDPA, which is faster there.
"""

import math
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "prompt_recovery_cpu"
_QUERIES = 128  # of one piece


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
        key: [B, K, S, D], H a multiple of K, S ≥ T; query t stands at position S − T + t.
        value: [B, K, S, D].
        attention_mask: bool (True is visible) or additive, [B, 1, T, S], never showing a later
            position; None is causal.
        dropout: of the weights; such layers are left to SDPA.
        scaling: of the products; 1/√D if not given.
        options: of SDPA.

    Returns:
        [B, T, H, D] and None.
    """
    length, width = query.shape[2], key.shape[2]
    differentiable = torch.is_grad_enabled() and query.requires_grad
    if dropout > 0 or options.get("softcap") or not (differentiable or length < width):
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
        return result
    scaling = 1 / math.sqrt(query.shape[3]) if scaling is None else scaling
    mask = _additive(attention_mask, length, width, query)
    output: Tensor = _GroupedAttention.apply(query, key, value, mask, scaling)
    return output, None


class _GroupedAttention(torch.autograd.Function):
    """softmax(s·Q Kᵀ + mask) V, piece by piece of the queries."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float
    ) -> Tensor:
        batch, heads, length, size = query.shape
        groups, width = key.shape[1], key.shape[2]
        query = (query * scaling).view(batch, groups, heads // groups, length, size)
        key, value = (x.reshape(batch * groups, width, -1) for x in (key, value))
        output = query.new_empty(batch, length, groups, heads // groups, value.shape[2])
        saved = []
        for start, end, seen in _pieces(length, width):
            rows = query[:, :, :, start:end].reshape(batch * groups, -1, size)
            scores = torch.bmm(rows, key[:, :seen].transpose(1, 2))
            scores.view(batch, groups, -1, end - start, seen).add_(
                mask[:, :, None, start:end, :seen]
            )
            weights = scores.softmax(-1)
            piece = torch.bmm(weights, value[:, :seen])
            output[:, start:end] = piece.view(
                batch, groups, -1, end - start, value.shape[2]
            ).permute(0, 3, 1, 2, 4)
            saved.append(weights)
        ctx.save_for_backward(query, key, value, *saved)
        ctx.scaling = scaling
        return output.view(batch, length, heads, -1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        query, key, value, *saved = ctx.saved_tensors
        batch, groups, _, length, size = query.shape
        width = key.shape[1]
        gradient = outputs[0].view(batch, length, groups, -1, value.shape[2])
        d_query = torch.empty_like(query)
        d_key, d_value = torch.zeros_like(key), torch.zeros_like(value)
        for weights, (start, end, seen) in zip(saved, _pieces(length, width), strict=True):
            rows = query[:, :, :, start:end].reshape(batch * groups, -1, size)
            g = gradient[:, start:end].permute(0, 2, 3, 1, 4).reshape(batch * groups, -1, size)
            d_value[:, :seen].baddbmm_(weights.transpose(1, 2), g)
            d_weights = torch.bmm(g, value[:, :seen].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_query[:, :, :, start:end] = torch.bmm(d_scores, key[:, :seen]).view(
                batch, groups, -1, end - start, size
            )
            d_key[:, :seen].baddbmm_(d_scores.transpose(1, 2), rows)
        return (
            d_query.mul_(ctx.scaling).view(batch, -1, length, size),
            d_key.view(batch, groups, width, size),
            d_value.view(batch, groups, width, -1),
            None,
            None,
        )


def _pieces(length: int, width: int) -> list[tuple[int, int, int]]:
    """(first query, last query + 1, keys that the last of them can see), piece by piece."""
    ends = [min(start + _QUERIES, length) for start in range(0, length, _QUERIES)]
    return [(start * _QUERIES, end, width - length + end) for start, end in enumerate(ends)]


def _additive(mask: Tensor | None, length: int, width: int, like: Tensor) -> Tensor:
    if mask is None:
        mask = torch.ones(length, width, dtype=torch.bool).tril_(width - length)[None, None]
    if mask.dtype != torch.bool:
        return mask
    additive = torch.zeros(mask.shape, dtype=like.dtype)
    return additive.masked_fill_(~mask, torch.finfo(like.dtype).min)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
