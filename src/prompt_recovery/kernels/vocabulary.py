"""Log-probabilities of tokens, without keeping the logits of the whole vocabulary."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prompt_recovery.kernels.linear import FrozenProduct, product_of

_LOGITS = 1 << 25  # the largest number of fp32 logits in memory at a time: 128 MiB


def token_log_probabilities(causal_lm: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Computes log p of each target token; differentiable.

    With a vocabulary of 262,144 tokens (Gemma), a thousand completion tokens would need a gigabyte
    of logits, so the logits are computed in chunks. If the output layer is plain and frozen, the
    gradient with respect to `hidden` is computed together with the value: nothing is computed
    twice, and the logits of a chunk are freed with it. Otherwise the backward pass computes the
    logits again.

    Args:
        causal_lm: The model whose output layer (and soft cap) is used.
        hidden: The decoder's outputs that predict the targets, [N, d].
        targets: The token ids, int64 [N].

    Returns:
        The log-probabilities, fp32 [N].
    """
    head = causal_lm.get_output_embeddings()
    cap = _soft_cap(causal_lm)
    rows = max(_LOGITS // head.weight.shape[0], 1)
    frozen = (
        type(head) is nn.Linear
        and getattr(head, "bias", None) is None
        and not head.weight.requires_grad
    )
    differentiable = torch.is_grad_enabled() and hidden.requires_grad
    if differentiable and frozen:
        values: Tensor = _FrozenHead.apply(hidden, product_of(head), targets, cap, rows)
        return values
    pieces = zip(hidden.split(rows), targets.split(rows), strict=True)
    if differentiable and len(targets) > rows:
        parts = [checkpoint(_values, head, h, t, cap, use_reentrant=False) for h, t in pieces]
    else:
        parts = [_values(head, h, t, cap) for h, t in pieces]
    return torch.cat(parts)


def vocabulary_logits(causal_lm: Any, hidden: Tensor) -> Tensor:
    """The logits of hidden states [..., d], with the soft cap, fp32 [..., V]."""
    head = causal_lm.get_output_embeddings()
    return _capped(head(hidden.contiguous()).float(), _soft_cap(causal_lm))


def _soft_cap(causal_lm: Any) -> float | None:
    return getattr(causal_lm.config.get_text_config(), "final_logit_softcapping", None)


def _values(head: Any, hidden: Tensor, targets: Tensor, cap: float | None) -> Tensor:
    """log p of each target, fp32 [n]."""
    logits = _capped(head(hidden).float(), cap)
    return logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1)


def _capped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else torch.tanh(logits / cap) * cap


class _FrozenHead(torch.autograd.Function):
    """log p = z_t − log Σ exp z with z = W h, whose gradient is W_t − Σ_v p_v W_v.

    With a soft cap, each token's term is multiplied by 1 − (z/cap)².
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        product: FrozenProduct,
        targets: Tensor,
        cap: float | None,
        rows: int,
    ) -> Tensor:
        values, gradients = [], []
        for h, t in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = _capped(product.forward(h).float(), cap)
            total = logits.logsumexp(1, keepdim=True)
            values.append(logits.gather(1, t[:, None]) - total)
            slope = None if cap is None else 1 - (logits / cap).square_()
            slopes = logits.sub_(total).exp_().neg_()  # −p, in the logits' place
            slopes.scatter_add_(1, t[:, None], torch.ones_like(total))
            if slope is not None:
                slopes.mul_(slope)
            gradients.append(product.backward(slopes.to(h.dtype)))
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(values).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return (outputs[0][:, None] * gradient).to(gradient.dtype), None, None, None, None
