"""Who sees whom in a completion tree."""

from typing import Any

import torch
from torch import Tensor

from prompt_recovery.trees.pack import TreeBatch

FLEX = "flex_attention"


def attention_mask(causal_lm: Any, batch: TreeBatch) -> Any:
    """What `transformers` takes as `attention_mask` for a batch of trees.

    A token sees the tokens before it of its own tree that are the prompt's or its own completion's;
    in layers with a sliding window, those less than the window away. Distances are of positions,
    not of columns.

    Returns:
        None where the plain causal mask, which the model makes itself, is the tree mask. Otherwise
        an additive mask [R, 1, L, L] or, for FlexAttention, a `BlockMask` that names the empty
        blocks; in a dict by kind of layer where a model has two kinds.
    """
    if batch.is_causal:
        return None
    make = _block_mask if causal_lm.config._attn_implementation == FLEX else _dense_mask
    window, kinds = windows(causal_lm)
    if window is None:
        return make(batch, None, causal_lm.dtype)
    if kinds == {"sliding_attention"}:
        return make(batch, window, causal_lm.dtype)
    return {
        "full_attention": make(batch, None, causal_lm.dtype),
        "sliding_attention": make(batch, window, causal_lm.dtype),
    }


def windows(causal_lm: Any) -> tuple[int | None, set[str]]:
    """The sliding window in tokens (None if no layer has one) and the kinds of layers."""
    config = causal_lm.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    return (window if "sliding_attention" in kinds else None), kinds


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """bool [R, T, S] → [R, 1, T, S] with 0 where visible and the lowest number elsewhere."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def _dense_mask(batch: TreeBatch, window: int | None, dtype: torch.dtype) -> Tensor:
    column = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    visible = column[:, None] >= column
    visible = visible & (batch.tree[:, :, None] == batch.tree[:, None, :])
    key_branch = batch.branch[:, None, :]
    visible &= (key_branch == 0) | (key_branch == batch.branch[:, :, None])
    if window is not None:
        distance = batch.position_ids[:, :, None] - batch.position_ids[:, None, :]
        visible &= distance < window
    return additive(visible, dtype)


def _block_mask(batch: TreeBatch, window: int | None, _dtype: torch.dtype) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    tree, branch, position = batch.tree, batch.branch, batch.position_ids

    def visible(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same_tree = tree[row, query] == tree[row, key]
        own = (branch[row, key] == 0) | (branch[row, key] == branch[row, query])
        seen = (query >= key) & same_tree & own
        if window is not None:
            seen = seen & (position[row, query] - position[row, key] < window)
        return seen

    rows, length = batch.input_ids.shape
    return create_block_mask(visible, rows, None, length, length, device=batch.input_ids.device)
