"""Who sees whom in a completion tree."""

from typing import Any

import torch
from torch import Tensor

from prompt_recovery.kernels import attention
from prompt_recovery.trees.pack import TreeBatch


def trees_share_rows(causal_lm: Any) -> bool:
    """Whether the model's attention skips what a tree hides, so that one row serves all trees."""
    return bool(causal_lm.config._attn_implementation == attention.NAME)


def attention_mask(causal_lm: Any, batch: TreeBatch) -> Any:
    """What `transformers` takes as `attention_mask` for a batch of trees.

    A token sees the tokens before it from which it grows: its own completion's and its prompt's; in
    layers with a sliding window, those less than the window away. Distances are of positions, not
    of columns.

    Returns:
        None where the plain causal mask, which the model makes itself, is the tree mask. Otherwise
        an additive mask [R, 1, L, L], or what our attention reads in its place: a plan on a CPU, a
        `BlockMask` on a GPU. In a dict by kind of layer where a model has two kinds.
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
    if _planned(causal_lm, batch):
        return attention.planned_mask(
            attention.plan(
                batch.until[0], batch.position_ids[0], batch.tree[0], window, causal_lm.dtype
            ),
            batch.input_ids.shape[1],
            causal_lm.dtype,
        )
    if trees_share_rows(causal_lm) and batch.input_ids.device.type == "cuda":
        return block_mask(batch, window)
    return attention.additive(visible(batch, window), causal_lm.dtype)


def visible(batch: TreeBatch, window: int | None) -> Tensor:
    """bool [R, L, L]: whether a query (first L) sees a key (second L)."""
    column = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    seen = (column[:, None] >= column) & (column[:, None] < batch.until[:, None, :])
    if window is not None:
        distance = batch.position_ids[:, :, None] - batch.position_ids[:, None, :]
        seen &= distance < window
    return seen


def block_mask(batch: TreeBatch, window: int | None) -> Any:
    """The same for FlexAttention, which skips blocks that nobody sees."""
    from torch.nn.attention.flex_attention import create_block_mask

    until, position = batch.until, batch.position_ids

    def seen(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        result = (query >= key) & (query < until[row, key])
        if window is not None:
            result = result & (position[row, query] - position[row, key] < window)
        return result

    rows, length = batch.input_ids.shape
    return create_block_mask(seen, rows, None, length, length, device=batch.input_ids.device)
