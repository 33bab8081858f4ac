"""Log-probabilities of completions from one forward pass over packed trees."""

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
    """The log-probabilities of C completions under a model.

    Attributes:
        log_probability: log p(completion | prompt), the sum over the tokens, fp32 [C].
        length: The number of tokens of each completion, fp32 [C].
        tokens: The log-probability of each of the N completion tokens, in the order of
            `TreeBatch.targets`, fp32 [N].
    """

    log_probability: Tensor
    length: Tensor
    tokens: Tensor

    @property
    def mean_log_probability(self) -> Tensor:
        """The mean log-probability per token, fp32 [C]."""
        return self.log_probability / self.length


def causal_lm_of(model: Any) -> Any:
    """The `transformers` causal LM itself or inside a `PeftModel`; its adapter stays active."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def score_completions(model: Any, batch: TreeBatch) -> CompletionScores:
    """Scores every completion of a batch of trees; differentiable.

    Each value equals that of a separate forward pass over the prompt and the completion: a
    completion sees its prompt and itself but not its siblings, and has the positions that it would
    have alone. Logits are computed only where they predict a completion token.

    Args:
        model: A `transformers` causal LM, or a `PeftModel` around one.
        batch: The trees, on the model's device.
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
        tokens=values,
    )


@contextmanager
def _last_layer_at(causal_lm: Any, rows: Tensor) -> Iterator[None]:
    """Lets the last layer's feed-forward part compute only some tokens, and give 0 for the others.

    The others aren't needed: no layer follows, and only the hidden states of these tokens are used.
    With gradient checkpointing, all tokens are computed, because the backward pass computes the
    layer again after this context has ended.

    Args:
        causal_lm: The model.
        rows: The tokens, as indices into the flattened batch, int64 [N].
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
