"""Log-probabilities of completions, from one pass over packed trees."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prompt_recovery.kernels.vocabulary import token_log_probabilities
from prompt_recovery.trees.masks import attention_mask
from prompt_recovery.trees.pack import TreeBatch


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


def causal_lm_of(model: Any) -> Any:
    """The `transformers` causal LM itself or inside a `PeftModel`; its adapter stays in force."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def score_completions(model: Any, batch: TreeBatch) -> CompletionScores:
    """Scores every completion of a batch of trees; differentiable.

    Each value equals the one-by-one forward pass over prompt + completion: a completion sees its
    prompt and itself, never its siblings, at the positions it would have alone. The vocabulary
    projection runs at completion tokens only.

    Args:
        model: a `transformers` causal LM, or a `PeftModel` around one.
        batch: the trees, on the model's device.
    """
    causal_lm = causal_lm_of(model)
    with _last_layer_at(causal_lm, batch.predictors):
        hidden = causal_lm.get_decoder()(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=attention_mask(causal_lm, batch),
            use_cache=False,
        ).last_hidden_state
    hidden = hidden.flatten(0, 1).index_select(0, batch.predictors)
    values = token_log_probabilities(causal_lm, hidden, batch.targets)
    zeros = torch.zeros(len(batch.tree_of_completion), device=values.device)
    return CompletionScores(
        log_probability=zeros.index_add(0, batch.completion, values),
        length=zeros.index_add(0, batch.completion, torch.ones_like(values)),
    )


@contextmanager
def _last_layer_at(causal_lm: Any, rows: Tensor) -> Iterator[None]:
    """Has the last layer's feed-forward part compute only some tokens, and give 0 for the others.

    Nothing reads the others: no layer follows, and only these tokens' hidden states are used. With
    gradient checkpointing the backward pass computes the layer again, when this is over, so that
    there it computes all.

    Args:
        causal_lm: the model.
        rows: int64 [N], tokens of the flattened batch.
    """
    mlp = getattr(causal_lm.get_decoder().layers[-1], "mlp", None)
    if not isinstance(mlp, nn.Module) or causal_lm.is_activation_checkpointing:
        yield
        return
    rows, forward = rows.unique(), mlp.forward  # a prompt's last token predicts several

    def at_rows(x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        some = forward(flat.index_select(0, rows)[None])[0]
        return torch.zeros_like(flat, dtype=some.dtype).index_copy(0, rows, some).view(x.shape)

    had_own = "forward" in vars(mlp)
    mlp.forward = at_rows
    try:
        yield
    finally:
        if had_own:
            mlp.forward = forward
        else:
            del mlp.forward
