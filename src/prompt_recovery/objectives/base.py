"""The input of every objective, and their base class.

An objective is a frozen dataclass of its options. The configuration reads it before torch is
imported, so torch is imported only in the functions that compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ScoredCompletions:
    """C completions of T prompts, with their log-probabilities and scores.

    The completions of a prompt are consecutive, the best first (for a pair: chosen, rejected).

    Attributes:
        log_probability: log p(completion | prompt), the sum over the tokens, fp32 [C].
        length: The number of tokens including the end-of-text token, fp32 [C].
        tree: The index of each completion's prompt, 0 … T-1 and ascending, int64 [C].
        reference: The log-probabilities under the reference model, fp32 [C]; None if the objective
            needs none.
        score: The SCS against the truth in [-1, 1], fp32 [C]; None if it is unknown.
    """

    log_probability: Tensor
    length: Tensor
    tree: Tensor
    reference: Tensor | None = None
    score: Tensor | None = None

    @property
    def mean_log_probability(self) -> Tensor:
        """The mean log-probability per token, fp32 [C]."""
        return self.log_probability / self.length

    @property
    def log_ratio(self) -> Tensor:
        """log p − log p_ref, fp32 [C].

        Raises:
            ValueError: If there are no reference log-probabilities.
        """
        if self.reference is None:
            raise ValueError("this objective needs reference log-probabilities")
        return self.log_probability - self.reference

    @property
    def first(self) -> Tensor:
        """The index of each prompt's first completion, which is its best, int64 [T]."""
        import torch

        changed = torch.ones_like(self.tree, dtype=torch.bool)
        changed[1:] = self.tree[1:] != self.tree[:-1]
        return changed.nonzero().squeeze(1)


def pairs(values: Tensor) -> tuple[Tensor, Tensor]:
    """Splits values [2P] of alternately chosen and rejected completions into [P] and [P]."""
    chosen, rejected = values.view(-1, 2).unbind(1)
    return chosen, rejected


class Objective:
    """A loss over completions: the mean of `losses` over the prompts, plus an SFT term.

    A subclass is a frozen dataclass with `@checked("objective")`. Its annotated fields are settings
    of `conf/objective/<name>.yaml`, and a `ClassVar` is a constant of the method. `sft_weight` is a
    setting if a subclass annotates it again; otherwise it is a constant, which is 0 unless the
    subclass assigns another value.

    Attributes:
        name: The name in records.
        completions: The completions of each prompt that it needs: the "truth", a preference
            "pair", or a "group" of two or more.
        uses_reference: Whether it needs reference log-probabilities.
        sft_weight: The weight α of the SFT term, which is the mean negative log-probability per
            token of each prompt's best completion. It keeps DPO and its relatives from lowering
            the probability of the preferred completion (Pang et al., arXiv 2404.19733).
    """

    name: ClassVar[str] = ""
    completions: ClassVar[Literal["truth", "pair", "group"]] = "pair"
    uses_reference: ClassVar[bool] = True
    sft_weight: float = 0.0

    def losses(self, completions: ScoredCompletions) -> Tensor:
        """The loss of each prompt, fp32 [T]."""
        raise NotImplementedError

    def __call__(self, completions: ScoredCompletions) -> Tensor:
        """The mean loss over the prompts plus the SFT term, fp32 []."""
        loss = self.losses(completions).mean()
        if self.sft_weight:
            best = completions.mean_log_probability[completions.first]
            loss = loss - self.sft_weight * best.mean()
        return loss
