"""How a model's answer is chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.trees.sample import sample_completions


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


def end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends an answer: the tokenizer's, and those of the model's chat format."""
    theirs = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    theirs = theirs if isinstance(theirs, list) else [] if theirs is None else [theirs]
    return sorted({int(tokenizer.eos_token_id), *map(int, theirs)})


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    all_done: Callable[[bool], bool] = bool,
) -> list[list[int]]:
    """The greedy continuations of tokenised prompts, in order, without the end-of-text token."""
    rows = sample_completions(
        model,
        prompts,
        temperatures=[0.0],
        draws=None,
        max_new_tokens=decoding.max_new_tokens,
        end_token_ids=end_token_ids(model, tokenizer),
        pad_token_id=int(tokenizer.pad_token_id),
        all_done=all_done,
    )
    return [row[0].tokens for row in rows]
