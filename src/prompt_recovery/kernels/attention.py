"""Attention that skips what a completion tree hides.

On a CPU, a row of trees is cut into pieces of queries, and a piece multiplies with just the keys
that some of its queries can see: no product with a sibling tree is made, whatever the row's length.
The products are plain ones, one for each group of query heads (keys and values are never repeated):
in bf16, the backward pass of PyTorch's fused CPU attention is several times slower than they are,
and so is its decoding step. On a GPU, FlexAttention does the skipping. Where there is no tree, this
is SDPA.
"""

import logging
import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

log = logging.getLogger(__name__)

NAME = "prompt_recovery"
_QUERIES = 128  # the most of one piece
_GAP = 64  # hidden keys between visible ones that are multiplied with rather than left out

Ranges = tuple[tuple[int, int], ...]  # (start, end) of columns, in order


@dataclass(frozen=True)
class Piece:
    """Some neighbouring queries and the keys that they see.

    Attributes:
        start: the first query.
        end: the last query + 1.
        keys: which of the run's columns, counted from its first.
        clear: so many of the keys, from the first, are seen by all queries.
        mask: [end - start, keys - clear], -inf where a query doesn't see a key and 0 elsewhere.
    """

    start: int
    end: int
    keys: Ranges
    clear: int
    mask: Tensor


@dataclass(frozen=True)
class Run:
    """Neighbouring queries of one tree.

    Attributes:
        columns: what some of them see; its keys and values are brought together once.
        pieces: the queries.
    """

    columns: Ranges
    pieces: tuple[Piece, ...]


class PlannedMask(Tensor):
    """Stands where `transformers` wants a mask; its values are NaN, so that whoever reads them
    instead of the plan spoils the result for all to see."""

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
    """Cuts a row of L tokens into runs of one tree, and these into pieces.

    Args:
        until: int64 [L]; token k is seen by the tokens k … until[k] - 1.
        position: int64 [L].
        tree: int64 [L]; a run has one value.
        window: tokens that far away or farther, in positions, are not seen; None is no limit.
        dtype: of the scores.
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
    """A piece that begins `start` queries after a run's first; bool `seen` [queries, columns]."""
    keys = _ranges(seen.any(0).nonzero().flatten(), _GAP)
    hidden = ~torch.cat([seen[:, a:b] for a, b in keys], 1)
    partly = hidden.any(0).nonzero().flatten()
    clear = int(partly[0]) if len(partly) else hidden.shape[1]
    mask = torch.zeros(hidden[:, clear:].shape, dtype=dtype)
    mask.masked_fill_(hidden[:, clear:], -math.inf)
    return Piece(first + start, first + start + len(seen), keys, clear, mask)


def _ranges(columns: Tensor, gap: int) -> Ranges:
    """Ascending columns as ranges, with the gaps between them that are no longer than `gap`."""
    breaks = ((columns[1:] - columns[:-1]) > 1 + gap).nonzero().flatten()
    starts = [int(columns[0]), *columns[breaks + 1].tolist()]
    ends = [*(columns[breaks] + 1).tolist(), int(columns[-1]) + 1]
    return tuple(zip(starts, ends, strict=True))


def suits(model: Any) -> bool:
    """Whether a freshly loaded model can use this module's attention."""
    config = model.config.get_text_config()
    chosen = model.config._attn_implementation
    capped = getattr(config, "attn_logit_softcapping", None)  # SDPA can't, and isn't chosen
    if not (chosen == "sdpa" or (chosen == "eager" and capped)):
        return False
    if getattr(config, "attention_dropout", 0.0):
        return False
    return not torch.cuda.is_available() or (model._supports_flex_attn and _flex_works())


@cache
def _flex_works() -> bool:
    """Whether FlexAttention's kernels compile on this GPU."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    x = torch.ones(1, 1, 128, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    try:
        mask = create_block_mask(lambda b, h, q, k: q >= k, 1, None, 128, 128, device="cuda")
        torch.compile(flex_attention)(x, x, x, block_mask=mask).sum().backward()
    except Exception as error:  # whatever a compiler says
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.warning("FlexAttention does not work here (%s): trees get dense masks", reason)
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
    """The attention of `transformers`' interface.

    Args:
        module: the layer.
        query: [B, H, T, D].
        key: [B, K, S, D], H a multiple of K, S ≥ T; query t stands at position S − T + t.
        value: [B, K, S, D].
        attention_mask: a `PlannedMask` (B is 1 then), a `BlockMask`, bool (True is visible) or
            additive [B, 1, T, S]; None is causal.
        dropout: of the weights; there is none where there is a plan.
        scaling: of the products; 1/√D if not given.
        softcap: c in c·tanh(product / c), before the mask (Gemma 2); None is without.
        options: of SDPA.

    Returns:
        [B, T, H, D] and None.
    """
    scaling = 1 / math.sqrt(query.shape[3]) if scaling is None else scaling
    if isinstance(attention_mask, PlannedMask):
        runs = attention_mask.runs
        output: Tensor = _PlannedAttention.apply(query, key, value, runs, scaling, softcap)
        return output, None
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
    result: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout, scaling, **options
    )
    return result


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """bool [R, T, S] → [R, 1, T, S] with 0 where visible and the lowest number elsewhere."""
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
    """softmax(mask(s·Q Kᵀ)) V without repeating keys and values; [B, T, H, D]."""
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
    """softmax(mask(s·Q Kᵀ)) V, run by run of one row, piece by piece of a run.

    Inside, queries and outputs are [K, L · H/K, D]: a piece of them is a view.
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
    """[H, L, D] → a copy [K, L · H/K, D]."""
    heads, length, size = values.shape
    copy = values.new_empty(groups, length, heads // groups, size)
    copy.copy_(values.view(groups, -1, length, size).transpose(1, 2))
    return copy.view(groups, -1, size)


def _taken(values: Tensor, ranges: Ranges) -> Tensor:
    """Some columns of [K, L, D]."""
    parts = [values[:, start:end] for start, end in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _give(gradient: Tensor, ranges: Ranges, left: Tensor, right: Tensor) -> None:
    """Adds leftᵀ right to some columns of a gradient [K, L, D]."""
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


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
