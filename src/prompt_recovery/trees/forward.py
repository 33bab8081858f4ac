"""Log-probabilities of completions, from one pass over packed trees."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from prompt_recovery.trees.pack import TreeBatch

_LOGIT_ROWS = 512  # completion tokens whose fp32 logits exist at one time


@dataclass(frozen=True)
class CompletionScores:
    """What a model says of C completions.

    Attributes:
        log_probability: fp32 [C], log p(completion | prompt), the sum over its tokens.
        length: fp32 [C], the number of tokens of each completion.
    """

    log_probability: Tensor
    length: Tensor

    @property
    def mean_log_probability(self) -> Tensor:
        """fp32 [C], per token."""
        return self.log_probability / self.length


def score_completions(model: Any, batch: TreeBatch) -> CompletionScores:
    """Scores every completion of a batch of trees; differentiable.

    Each value equals the one-by-one forward pass over prompt + completion: a completion sees its
    prompt and itself, never its siblings, at the positions it would have alone. The vocabulary
    projection runs at completion tokens only.

    Args:
        model: a `transformers` causal LM, or a `PeftModel` around one.
        batch: the trees, on the model's device.
    """
    causal_lm = model.get_base_model() if hasattr(model, "peft_config") else model
    hidden = causal_lm.get_decoder()(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=_attention_mask(causal_lm, batch),
        use_cache=False,
    ).last_hidden_state
    hidden = hidden.flatten(0, 1).index_select(0, batch.predictors)
    values = [
        _checkpointed(causal_lm, h, t)
        if len(batch.targets) > _LOGIT_ROWS
        else _token(causal_lm, h, t)
        for h, t in zip(hidden.split(_LOGIT_ROWS), batch.targets.split(_LOGIT_ROWS), strict=True)
    ]
    token_values = torch.cat(values)
    count = len(batch.tree_of_completion)
    zeros = torch.zeros(count, device=token_values.device)
    return CompletionScores(
        log_probability=zeros.index_add(0, batch.completion, token_values),
        length=zeros.index_add(0, batch.completion, torch.ones_like(token_values)),
    )


def _token(causal_lm: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """fp32 [n]: log p of each target token."""
    logits = causal_lm.get_output_embeddings()(hidden).float()
    cap = getattr(causal_lm.config.get_text_config(), "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    chosen = logits.gather(1, targets[:, None]).squeeze(1)
    return chosen - logits.logsumexp(dim=1)


def _checkpointed(causal_lm: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """As `_token`, but the logits are made again in the backward pass instead of kept."""
    if not torch.is_grad_enabled():
        return _token(causal_lm, hidden, targets)
    result: Tensor = checkpoint(_token, causal_lm, hidden, targets, use_reentrant=False)
    return result


def _attention_mask(causal_lm: Any, batch: TreeBatch) -> Tensor | dict[str, Tensor] | None:
    """Additive masks [R, 1, L, L]; one for each kind of layer where a model has two kinds.

    Distances inside sliding windows are those of positions, not of columns. None stands for the
    plain causal mask, which the model makes itself.
    """
    if batch.is_causal:
        return None
    config = causal_lm.config.get_text_config()
    column = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    visible = column[:, None] >= column
    visible = visible & (batch.tree[:, :, None] == batch.tree[:, None, :])
    key_branch = batch.branch[:, None, :]
    visible &= (key_branch == 0) | (key_branch == batch.branch[:, :, None])
    full = _additive(visible, causal_lm.dtype)
    window = getattr(config, "sliding_window", None)
    layers = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    if window is None or "sliding_attention" not in layers:
        return full
    distance = batch.position_ids[:, :, None] - batch.position_ids[:, None, :]
    windowed = _additive(visible & (distance < window), causal_lm.dtype)
    if layers == {"sliding_attention"}:
        return windowed
    return {"full_attention": full, "sliding_attention": windowed}


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
