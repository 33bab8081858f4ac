"""Attention masks of completion trees."""

from typing import Any

import torch
from torch import Tensor

from prompt_recovery.kernels import attention
from prompt_recovery.kernels.linear import activation_dtype
from prompt_recovery.trees.pack import TreeBatch


def trees_share_rows(causal_lm: Any) -> bool:
    """Whether the model's attention skips hidden keys, so that all trees can share one row."""
    return bool(causal_lm.config._attn_implementation == attention.NAME)


def attention_mask(causal_lm: Any, batch: TreeBatch) -> Any:
    """The `attention_mask` argument of `transformers` for a batch of trees.

    A token sees itself and the earlier tokens of its own completion and its prompt. In layers with
    a sliding window, it sees those whose distance is less than the window, where distances are
    between positions, not columns.

    Returns:
        None if the tree mask is the plain causal mask, which the model makes itself. Otherwise an
        additive mask [R, 1, L, L] or, for this package's attention, a plan on a CPU and a
        `BlockMask` on a GPU. If the model has two kinds of layers, a dict with one for each kind.
    """
    if batch.is_causal and not _planned(causal_lm, batch):
        return None
    window, kinds = windows(causal_lm)
    if window is None:
        return _mask(causal_lm, batch, None)
    if kinds == {"sliding_attention"}:
        return _mask(causal_lm, batch, window)
    return {
        "full_attention": _mask(causal_lm, batch, None),
        "sliding_attention": _mask(causal_lm, batch, window),
    }


def windows(causal_lm: Any) -> tuple[int | None, set[str]]:
    """The sliding window in tokens (None if no layer has one) and the kinds of layers."""
    config = causal_lm.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    return (window if "sliding_attention" in kinds else None), kinds


def _planned(causal_lm: Any, batch: TreeBatch) -> bool:
    on_cpu = batch.input_ids.device.type == "cpu"
    return on_cpu and len(batch.input_ids) == 1 and trees_share_rows(causal_lm)


def _mask(causal_lm: Any, batch: TreeBatch, window: int | None) -> Any:
    dtype = activation_dtype(causal_lm)
    if _planned(causal_lm, batch):
        return attention.planned_mask(
            attention.plan(
                batch.until[0],
                batch.position_ids[0],
                batch.tree[0],
                window,
                dtype,
            ),
            batch.input_ids.shape[1],
            dtype,
        )
    if trees_share_rows(causal_lm) and batch.input_ids.device.type == "cuda":
        return block_mask(batch, window)
    return attention.additive(visible(batch, window), dtype)


def visible(batch: TreeBatch, window: int | None) -> Tensor:
    """Whether a query (first L) sees a key (second L), bool [R, L, L]."""
    column = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    seen = (column[:, None] >= column) & (column[:, None] < batch.until[:, None, :])
    if window is not None:
        distance = batch.position_ids[:, :, None] - batch.position_ids[:, None, :]
        seen &= distance < window
    return seen


def block_mask(batch: TreeBatch, window: int | None) -> Any:
    """The mask for FlexAttention, which skips blocks that no query sees."""
    from torch.nn.attention.flex_attention import create_block_mask

    until, position = batch.until, batch.position_ids

    def seen(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        result = (query >= key) & (query < until[row, key])
        if window is not None:
            result = result & (position[row, query] - position[row, key] < window)
        return result

    rows, length = batch.input_ids.shape
    return create_block_mask(seen, rows, None, length, length, device=batch.input_ids.device)
