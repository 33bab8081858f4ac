"""How a model's answer is chosen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prompt_recovery.errors import PromptRecoveryError


@dataclass(frozen=True)
class Decoding:
    """Greedy decoding.

    Attributes:
        max_new_tokens: most tokens of an answer.
        batch_size: prompts decoded together.
    """

    max_new_tokens: int = 40
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise PromptRecoveryError(f"decoding.{name}={getattr(self, name)}: must be ≥ 1")


def generate(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], decoding: Decoding
) -> list[list[int]]:
    """The greedy continuations of tokenised prompts, without the end-of-text token.

    Prompts are padded on the left to the longest; order is kept.
    """
    width = max(map(len, prompts))
    pad, end = int(tokenizer.pad_token_id), int(tokenizer.eos_token_id)
    input_ids = torch.full((len(prompts), width), pad, device=model.device)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.as_tensor(prompt)
        attention_mask[row, width - len(prompt) :] = 1
    output = model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        num_beams=1,
        # The backbone's own generation config may ask for sampling; greedy has no such settings.
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=pad,
        eos_token_id=end,
    )
    answers = output[:, width:].tolist()
    return [row[: row.index(end)] if end in row else row for row in answers]
