"""A rewriter that runs a model with `transformers`.

The configuration reads the options of this rewriter, so that what imports torch is imported where
a model is used.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.rewriters.base import Answer, Chat
from prompt_recovery.rewriters.model import TokenizingRewriter
from prompt_recovery.settings import AtLeastOne, Precision, checked


@checked("rewriter.backend")
@dataclass(frozen=True, kw_only=True)
class TransformersRewriter(TokenizingRewriter):
    """A model in this process, on the GPU if there is one. It is loaded when first used.

    Attributes:
        rows: The number of chats that are answered at a time.
        precision: "auto", "bf16", "fp32" or "int8".
    """

    rows: AtLeastOne = 32
    precision: Precision = "auto"

    @property
    def identity(self) -> str:
        """A hash of the weights, the chat template and the sampling."""
        return self._identity("transformers", self.precision)

    def card(self) -> dict[str, str]:
        """The model, its licence and chat template, the sampling, and the library's version."""
        import transformers

        return self._card(f"transformers {transformers.__version__}")

    def answers(self, chats: Sequence[Chat], seeds: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        """Yields answers in the order in which they are finished."""
        import torch

        from prompt_recovery.backbones.load import end_token_ids
        from prompt_recovery.rewriters.rows import Prompt, decode

        tokenizer = self._tokenizer
        within, beyond = self._within_limit(chats, seeds)
        yield from beyond
        if not within:
            return
        prompts = []
        for index, tokens, seed in within:
            uniforms = np.random.default_rng(seed).random(self.sampling.max_new_tokens)
            prompts.append(Prompt(index, tokens, torch.from_numpy(uniforms)))
        for written in decode(
            self._model,
            prompts,
            self.rows,
            self.sampling.temperature,
            self.sampling.max_new_tokens,
            end_token_ids(self._model, tokenizer),
            int(tokenizer.pad_token_id),
        ):
            yield (
                written.prompt.key,
                Answer(
                    text=tokenizer.decode(written.tokens, skip_special_tokens=True),
                    finished=written.finished,
                    prompt_tokens=len(written.prompt.tokens),
                    completion_tokens=len(written.tokens) + written.finished,
                ),
            )

    def close(self) -> None:
        """Frees the model."""
        import torch

        if self.__dict__.pop("_model", None) is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    @cached_property
    def _model(self) -> Any:
        import torch

        from prompt_recovery.backbones.load import load_model
        from prompt_recovery.backbones.precision import choose_precision

        device = "cuda" if torch.cuda.is_available() else "cpu"
        chosen = choose_precision(self.precision, device)
        model = load_model(self.model, self._location, chosen.dtype, eight_bit=chosen.eight_bit).to(
            device
        )
        limit = model.config.get_text_config().max_position_embeddings
        asked = self.sampling.max_prompt_tokens + self.sampling.max_new_tokens
        if asked > limit:
            raise PromptRecoveryError(
                f"rewriter '{self.model.name}' reads {limit} tokens at most: lower "
                "rewriter.sampling.max_prompt_tokens or max_new_tokens"
            )
        return model
