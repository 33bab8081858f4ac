"""Attention that skips the keys that a completion tree hides.

On a CPU, the queries of a row of trees are cut into pieces, and a piece is multiplied only with
keys that some of its queries can see. No product with a sibling tree is computed, however long the
row is. There is one plain matrix product per group of query heads, and keys and values are never
repeated. In bf16, both the backward pass and the decoding step of PyTorch's fused CPU attention are
several times slower than these products. On a GPU, FlexAttention skips the hidden blocks. Where
there is no tree, the attention is SDPA.
"""

import logging
import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from prompt_recovery.errors import first_line
from prompt_recovery.kernels.linear import bf16_is_native

log = logging.getLogger(__name__)

NAME = "prompt_recovery"
_QUERIES = 128  # the largest number of queries in a piece
_GAP = 64  # up to so many hidden keys between visible ones are computed and masked

Ranges = tuple[tuple[int, int], ...]  # (start, end) of columns, in order


@dataclass(frozen=True)
class Piece:
    """Consecutive queries and the keys that they see.

    Attributes:
        start: The first query.
        end: The last query + 1.
        keys: The ranges of keys, as indices into the run's columns.
        clear: The number of keys, counted from the first, that all of the queries see.
        mask: The mask of the other keys [end - start, keys - clear]: -inf where a query doesn't
            see a key and 0 elsewhere.
    """

    start: int
    end: int
    keys: Ranges
    clear: int
    mask: Tensor


@dataclass(frozen=True)
class Run:
    """Consecutive queries of one tree.

    Attributes:
        columns: The columns that some of the queries see; their keys and values are gathered once.
        pieces: The queries, in pieces.
    """

    columns: Ranges
    pieces: tuple[Piece, ...]


class PlannedMask(Tensor):
    """A plan in the place of the mask that `transformers` expects.

    Its values are NaN, so that code that reads them instead of the plan returns NaN, and not a
    result that is silently wrong.
    """

    runs: tuple[Run, ...]


def planned_mask(runs: tuple[Run, ...], length: int, dtype: torch.dtype) -> PlannedMask:
    """A mask [1, 1, length, length] that takes no memory and carries a plan."""
    values = torch.full((1, 1, 1, 1), math.nan, dtype=dtype).expand(1, 1, length, length)
    mask = values.as_subclass(PlannedMask)
    mask.runs = runs
    return mask


def plan(
    until: Tensor, position: Tensor, tree: Tensor, window: int | None, dtype: torch.dtype
) -> tuple[Run, ...]:
    """Cuts a row of L tokens into runs of one tree each, and the runs into pieces.

    Args:
        until: Token k is seen by the tokens k … until[k] - 1; int64 [L].
        position: The position of each token, int64 [L].
        tree: The tree of each token, int64 [L].
        window: The sliding window: a token at this distance in positions or farther isn't seen.
            None is no limit.
        dtype: The dtype of the attention scores.
    """
    length = len(until)
    column = torch.arange(length)
    edges = [0, *((tree[1:] != tree[:-1]).nonzero().flatten() + 1).tolist(), length]
    runs = []
    for first, last in pairwise(edges):
        query = column[first:last, None]
        seen = (query >= column[:last]) & (query < until[:last])
        if window is not None:
            seen &= position[first:last, None] - position[:last] < window
        columns = seen.any(0).nonzero().flatten()
        seen = seen[:, columns]
        count = -(-(last - first) // _QUERIES)
        cuts = [(last - first) * i // count for i in range(count + 1)]
        pieces = tuple(_piece(first, a, seen[a:b], dtype) for a, b in pairwise(cuts))
        runs.append(Run(_ranges(columns, 0), pieces))
    return tuple(runs)


def _piece(first: int, start: int, seen: Tensor, dtype: torch.dtype) -> Piece:
    """The piece that begins `start` queries into a run; `seen` is bool [queries, columns]."""
    keys = _ranges(seen.any(0).nonzero().flatten(), _GAP)
    hidden = ~torch.cat([seen[:, a:b] for a, b in keys], 1)
    partly = hidden.any(0).nonzero().flatten()
    clear = int(partly[0]) if len(partly) else hidden.shape[1]
    mask = torch.zeros(hidden[:, clear:].shape, dtype=dtype)
    mask.masked_fill_(hidden[:, clear:], -math.inf)
    return Piece(first + start, first + start + len(seen), keys, clear, mask)


def _ranges(columns: Tensor, gap: int) -> Ranges:
    """Ranges that cover ascending columns and the gaps of at most `gap` between them."""
    breaks = ((columns[1:] - columns[:-1]) > 1 + gap).nonzero().flatten()
    starts = [int(columns[0]), *columns[breaks + 1].tolist()]
    ends = [*(columns[breaks] + 1).tolist(), int(columns[-1]) + 1]
    return tuple(zip(starts, ends, strict=True))


def suits(model: Any) -> bool:
    """Whether a freshly loaded model can use this module's attention."""
    config = model.config.get_text_config()
    chosen = model.config._attn_implementation
    capped = getattr(config, "attn_logit_softcapping", None)  # then SDPA isn't chosen
    if not (chosen == "sdpa" or (chosen == "eager" and capped)):
        return False
    if getattr(config, "attention_dropout", 0.0):
        return False
    return not torch.cuda.is_available() or (model._supports_flex_attn and _flex_works())


@cache
def register() -> None:
    """Makes this module's attention known to `transformers`, by its `NAME`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


@cache
def _flex_works() -> bool:
    """Whether FlexAttention's kernels compile on this GPU."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    x = torch.ones(1, 1, 128, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    try:
        mask = create_block_mask(lambda b, h, q, k: q >= k, 1, None, 128, 128, device="cuda")
        torch.compile(flex_attention)(x, x, x, block_mask=mask).sum().backward()
    except Exception as error:  # whatever a compiler says
        log.warning(
            "FlexAttention does not work here (%s): trees get dense masks", first_line(error)
        )
        return False
    return True


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention function, with the interface that `transformers` defines.

    Args:
        module: The attention layer.
        query: The queries [B, H, T, D].
        key: The keys [B, K, S, D], where H is a multiple of K and S ≥ T; query t is at position
            S − T + t.
        value: The values [B, K, S, D].
        attention_mask: A `PlannedMask` (with B = 1), a `BlockMask`, or a mask [B, 1, T, S] that is
            additive or bool (True is visible). None is the causal mask.
        dropout: The dropout of the attention weights; ignored if there is a plan.
        scaling: The factor of the products; 1/√D by default.
        softcap: c in c·tanh(product / c), which is applied before the mask (Gemma 2). None applies
            none.
        options: Further arguments of SDPA.

    Returns:
        The outputs [B, T, H, D] and None in place of the attention weights.
    """
    scaling = 1 / math.sqrt(query.shape[3]) if scaling is None else scaling
    if isinstance(attention_mask, PlannedMask):
        runs, dtype = attention_mask.runs, query.dtype
        if query.dtype == torch.bfloat16 and not bf16_is_native():
            query, key, value = query.float(), key.float(), value.float()
        output: Tensor = _PlannedAttention.apply(query, key, value, runs, scaling, softcap)
        return output.to(dtype), None
    if not (isinstance(attention_mask, Tensor) or attention_mask is None):
        from transformers.integrations.flex_attention import flex_attention_forward

        output, _ = flex_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, softcap=softcap, **options
        )
        return output, None
    on_cpu = query.device.type == "cpu"
    decoding = on_cpu and not torch.is_grad_enabled() and query.shape[2] < key.shape[2]
    if dropout == 0 and (softcap or (decoding and attention_mask is not None)):
        return _products(query, key, value, attention_mask, scaling, softcap), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    result: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout, scaling, **options
    )
    return result


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """An additive mask [R, 1, T, S] of bool [R, T, S]: 0 where visible, else the lowest number."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def _products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """softmax(mask(s·Q Kᵀ)) V as [B, T, H, D], without repeating keys and values."""
    (batch, heads, length, size), (groups, width) = query.shape, key.shape[1:3]
    rows = (query * scaling).reshape(batch, groups, -1, size)
    scores = (rows @ key.transpose(2, 3)).view(batch, groups, -1, length, width)
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is None:
        mask = torch.ones(length, width, dtype=torch.bool, device=query.device)
        mask = mask.tril_(width - length)[None, None]
    if mask.dtype == torch.bool:
        mask = additive(mask[:, 0], query.dtype)
    weights = (scores + mask[:, :, None, :, :width]).softmax(-1).to(value.dtype)
    output = weights.flatten(2, 3) @ value
    return output.view(batch, heads, length, -1).transpose(1, 2)


class _PlannedAttention(torch.autograd.Function):
    """softmax(mask(s·Q Kᵀ)) V for the runs of one row, one piece at a time.

    Queries and outputs have the inner shape [K, L · H/K, D], in which a piece is a view.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        runs: tuple[Run, ...],
        scaling: float,
        softcap: float | None,
    ) -> Tensor:
        (_, heads, length, _), groups = query.shape, key.shape[1]
        share = heads // groups
        query = _by_group(query[0], groups).mul_(scaling)
        key, value = key[0].contiguous(), value[0].contiguous()
        output = query.new_empty(groups, length * share, value.shape[2])
        saved = []
        for run in runs:
            keys, values = _taken(key, run.columns), _taken(value, run.columns)
            for piece in run.pieces:
                rows = slice(piece.start * share, piece.end * share)
                scores = torch.bmm(query[:, rows], _taken(keys, piece.keys).transpose(1, 2))
                if softcap:
                    scores = scores.div_(softcap).tanh_().mul_(softcap)
                lines = scores.view(groups, -1, share, scores.shape[2])
                lines[..., piece.clear :].add_(piece.mask[:, None])
                weights = scores.softmax(-1)
                output[:, rows] = torch.bmm(weights, _taken(values, piece.keys))
                saved.append(weights)
        ctx.save_for_backward(query, key, value, *saved)
        ctx.runs, ctx.scaling, ctx.softcap, ctx.share = runs, scaling, softcap, share
        return output.view(groups, length, share, -1).transpose(0, 1).reshape(1, length, heads, -1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        query, key, value, *saved = ctx.saved_tensors
        groups, share = len(key), ctx.share
        gradient = _by_group(outputs[0][0].transpose(0, 1), groups)
        d_query = torch.empty_like(query)
        d_key, d_value = torch.zeros_like(key), torch.zeros_like(value)
        of_pieces = iter(saved)
        for run in ctx.runs:
            keys, values = _taken(key, run.columns), _taken(value, run.columns)
            d_keys, d_values = torch.zeros_like(keys), torch.zeros_like(values)
            for piece in run.pieces:
                weights = next(of_pieces)
                rows = slice(piece.start * share, piece.end * share)
                q, g = query[:, rows], gradient[:, rows]
                k, v = _taken(keys, piece.keys), _taken(values, piece.keys)
                _give(d_values, piece.keys, weights, g)
                d_weights = torch.bmm(g, v.transpose(1, 2))
                d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
                if ctx.softcap:
                    capped = torch.bmm(q, k.transpose(1, 2)).div_(ctx.softcap).tanh_()
                    d_scores = d_scores * (1 - capped.square_())
                d_query[:, rows] = torch.bmm(d_scores, k)
                _give(d_keys, piece.keys, d_scores, q)
            _spread(d_key, run.columns, d_keys)
            _spread(d_value, run.columns, d_values)
        lines = d_query.mul_(ctx.scaling).view(groups, -1, share, key.shape[2])
        return (
            lines.transpose(1, 2).reshape(1, groups * share, -1, key.shape[2]),
            d_key[None],
            d_value[None],
            None,
            None,
            None,
        )


def _by_group(values: Tensor, groups: int) -> Tensor:
    """Copies [H, L, D] to [K, L · H/K, D]."""
    heads, length, size = values.shape
    copy = values.new_empty(groups, length, heads // groups, size)
    copy.copy_(values.view(groups, -1, length, size).transpose(1, 2))
    return copy.view(groups, -1, size)


def _taken(values: Tensor, ranges: Ranges) -> Tensor:
    """Gathers some columns of [K, L, D]."""
    parts = [values[:, start:end] for start, end in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _give(gradient: Tensor, ranges: Ranges, left: Tensor, right: Tensor) -> None:
    """Adds leftᵀ · right to some columns of a gradient [K, L, D]."""
    if len(ranges) == 1:
        gradient[:, ranges[0][0] : ranges[0][1]].baddbmm_(left.transpose(1, 2), right)
    else:
        _spread(gradient, ranges, torch.bmm(left.transpose(1, 2), right))


def _spread(gradient: Tensor, ranges: Ranges, values: Tensor) -> None:
    """Adds [K, n, D] to some columns of a gradient [K, L, D]."""
    column = 0
    for start, end in ranges:
        gradient[:, start:end] += values[:, column : column + end - start]
        column += end - start
