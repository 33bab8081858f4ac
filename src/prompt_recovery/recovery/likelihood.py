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
from prompt_recovery.templates import Template, prompt_tokens, text_tokens
from prompt_recovery.trees import Tree, causal_lm_of, pack, score_completions, trees_share_rows


@dataclass
class RewriteLikelihood:
    """log p(rewritten text | original text, candidate) under a rewriter model.

    Attributes:
        model: A `transformers` causal LM.
        tokenizer: The tokenizer of the model.
        template: The rewrite template.
        max_text_tokens: The largest number of tokens of either text.
    """

    model: Any
    tokenizer: Any
    template: Template
    max_text_tokens: int

    @torch.inference_mode()
    def __call__(self, pair: Pair, prompts: Sequence[str]) -> list[float]:
        """The log-probability per token of a usable pair's rewritten text, for each prompt."""
        written = self._tokens(pair.rewritten_text)
        original = self.tokenizer.decode(self._tokens(pair.original_text))
        trees = [
            Tree(
                prompt_tokens(
                    self.template, self.tokenizer, original_text=original, rewrite_prompt=prompt
                ),
                [written],
            )
            for prompt in prompts
        ]  # fmt: skip
        together = trees_share_rows(causal_lm_of(self.model))
        batch = pack(trees, int(self.tokenizer.pad_token_id), together).to(self.model.device)
        values: list[float] = score_completions(self.model, batch).mean_log_probability.tolist()
        return values

    def _tokens(self, text: str) -> list[int]:
        # No text has more than 16 characters a token on average.
        cut = text.strip()[: 16 * self.max_text_tokens]
        return text_tokens(cut, self.tokenizer)[: self.max_text_tokens]


def load_likelihood(settings: ChannelSettings, precision: str = "auto") -> RewriteLikelihood:
    """Loads the rewriter model, on the GPU if there is one.

    Raises:
        PromptRecoveryError: The model cannot be found or loaded.
    """
    location = locate(settings.backbone)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(settings.backbone, location, choose_precision(precision, device).dtype)
    tokenizer = load_tokenizer(settings.backbone, location)
    return RewriteLikelihood(
        model.to(device), tokenizer, settings.template, settings.max_text_tokens
    )
