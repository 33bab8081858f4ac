"""What every objective sees, and what all of them share.

An objective is a frozen dataclass of its options, which the configuration reads before torch is
imported: torch is imported where it computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ScoredCompletions:
    """C completions of T prompts: what the model says of them, and what is known of them.

    Completions of one prompt stand together, the best first (for a pair: chosen, rejected).

    Attributes:
        log_probability: fp32 [C], log p(completion | prompt), the sum over its tokens.
        length: fp32 [C], tokens of each completion, its end-of-text token included.
        tree: int64 [C], the prompt each completion belongs to, 0 … T-1, ascending.
        reference: fp32 [C], log-probabilities under the reference model; None where the objective
            needs none.
        score: fp32 [C], SCS against the truth, in [-1, 1]; None where it is unknown.
    """

    log_probability: Tensor
    length: Tensor
    tree: Tensor
    reference: Tensor | None = None
    score: Tensor | None = None

    @property
    def mean_log_probability(self) -> Tensor:
        """fp32 [C], per token."""
        return self.log_probability / self.length

    @property
    def log_ratio(self) -> Tensor:
        """fp32 [C]: log p − log p of the reference.

        Raises:
            ValueError: there is no reference.
        """
        if self.reference is None:
            raise ValueError("this objective needs reference log-probabilities")
        return self.log_probability - self.reference

    @property
    def first(self) -> Tensor:
        """int64 [T]: the index of each prompt's first completion, its best."""
        import torch

        changed = torch.ones_like(self.tree, dtype=torch.bool)
        changed[1:] = self.tree[1:] != self.tree[:-1]
        return changed.nonzero().squeeze(1)


def pairs(values: Tensor) -> tuple[Tensor, Tensor]:
    """Splits [2P] values of chosen, rejected, chosen, … into [P] and [P]."""
    chosen, rejected = values.view(-1, 2).unbind(1)
    return chosen, rejected


class Objective:
    """A loss over completions: the mean over prompts of `losses`, plus an SFT term.

    Attributes:
        name: in records.
        completions: what it needs of a prompt: its "truth", a preference "pair", or a "group" of
            two or more.
        uses_reference: whether it needs reference log-probabilities.
        sft_weight: α of the added α·SFT, the mean negative log-probability per token of each
            prompt's best completion. It keeps DPO and its relatives from lowering the probability
            of what they prefer (Pang et al., arXiv 2404.19733).
    """

    name: ClassVar[str] = ""
    completions: ClassVar[Literal["truth", "pair", "group"]] = "pair"
    uses_reference: ClassVar[bool] = True
    sft_weight: float = 0.0

    def losses(self, completions: ScoredCompletions) -> Tensor:
        """fp32 [T], one loss a prompt."""
        raise NotImplementedError

    def __call__(self, completions: ScoredCompletions) -> Tensor:
        """fp32 [], the mean over prompts."""
        loss = self.losses(completions).mean()
        if self.sft_weight:
            best = completions.mean_log_probability[completions.first]
            loss = loss - self.sft_weight * best.mean()
        return loss
