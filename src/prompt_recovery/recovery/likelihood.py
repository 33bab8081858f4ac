"""The likelihood of a rewritten text under a rewriter model, given the original and a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prompt_recovery.backbones.load import load_model, load_tokenizer
from prompt_recovery.backbones.locate import locate
from prompt_recovery.backbones.precision import choose_precision
from prompt_recovery.recovery.channel import ChannelSettings
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.storage import fingerprint
from prompt_recovery.templates import Template, prompt_tokens, text_tokens
from prompt_recovery.trees import Tree
from prompt_recovery.trees.cached import cached_log_probabilities

_BATCH_TOKENS = 16384


@dataclass
class RewriteLikelihood:
    """log p(rewritten text | original text, candidate) under a rewriter model.

    The candidates of a pair are nested trees in one row: what their inputs begin with, such as the
    original text, is computed once, and only the tokens of the rewritten text are scored. Values
    are kept in the cache, where they are found when they are needed again.

    Attributes:
        model: A `transformers` causal LM.
        tokenizer: The tokenizer of the model.
        template: The rewrite template. If the original text comes before the prompt, the candidates
            of a pair share it.
        max_text_tokens: The largest number of tokens of either text.
        identity: A digest of the model's weights and its data type.
    """

    model: Any
    tokenizer: Any
    template: Template
    max_text_tokens: int
    identity: str

    def __call__(self, pair: Pair, prompts: Sequence[str]) -> list[float]:
        """The log-probability of a usable pair's rewritten text, given each of n ≥ 1 prompts.

        It is the sum over the tokens, in nats.
        """
        trees = self.trees(pair, prompts)
        pad = int(self.tokenizer.pad_token_id)
        rows = cached_log_probabilities(self.model, trees, self.identity, pad, _BATCH_TOKENS)
        return [value for row in rows for value in row]

    def trees(self, pair: Pair, prompts: Sequence[str]) -> list[Tree]:
        """A tree for each prompt, whose only completion is the rewritten text."""
        written = self._tokens(pair.rewritten_text)
        original = self.tokenizer.decode(self._tokens(pair.original_text))
        return [
            Tree(
                prompt_tokens(
                    self.template, self.tokenizer, original_text=original, rewrite_prompt=prompt
                ),
                [written],
            )
            for prompt in prompts
        ]

    def _tokens(self, text: str) -> list[int]:
        # No text has more than 16 characters a token on average.
        cut = text.strip()[: 16 * self.max_text_tokens]
        return text_tokens(cut, self.tokenizer)[: self.max_text_tokens]


def load_likelihood(settings: ChannelSettings, precision: str = "auto") -> RewriteLikelihood:
    """Loads the rewriter model, on the GPU if there is one.

    Args:
        settings: The settings, which name a backbone.
        precision: auto, bf16, fp32 or int8.

    Raises:
        PromptRecoveryError: If the model cannot be found or loaded.
    """
    assert settings.backbone is not None  # see `with_rewriter`
    location = locate(settings.backbone)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = choose_precision(precision, device)
    model = load_model(settings.backbone, location, chosen.dtype, eight_bit=chosen.eight_bit)
    return RewriteLikelihood(
        model.to(device),
        load_tokenizer(settings.backbone, location),
        settings.template,
        settings.max_text_tokens,
        fingerprint(location.identity, chosen.identity),
    )
