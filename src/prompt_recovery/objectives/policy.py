"""Policy gradients: objectives on completions that the model itself samples in training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Gt, Lt

from prompt_recovery.settings import AtLeastOne, NotNegative

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SampledCompletions:
    """C completions that the policy wrote, with N tokens in total.

    Attributes:
        log_probability: The log-probability of each token under the model, fp32 [N].
        old: The same under the policy that wrote the completions, fp32 [N].
        completion: The completion of each token, 0 … C-1 and ascending, int64 [N].
        advantage: The advantage of each completion, fp32 [C].
        most_tokens: The largest number of tokens that a completion could have, ≥ 1.
        reference: The log-probability of each token under the reference model, fp32 [N]; None if
            there is no KL penalty.
    """

    log_probability: Tensor
    old: Tensor
    completion: Tensor
    advantage: Tensor
    most_tokens: int
    reference: Tensor | None = None

    @property
    def divergence(self) -> Tensor | None:
        """An estimate of the KL divergence from the reference at each token, fp32 [N], ≥ 0.

        It is q − log q − 1 with q the ratio of the reference's to the new probability; None without
        a reference.
        """
        if self.reference is None:
            return None
        away = self.reference - self.log_probability
        return away.exp() - away - 1

    def sums(self, values: Tensor) -> Tensor:
        """The sum over each completion's tokens, fp32 [C], of values [N]."""
        return values.new_zeros(len(self.advantage)).index_add(0, self.completion, values)

    def means(self, values: Tensor) -> Tensor:
        """The mean over each completion's tokens, fp32 [C], of values [N]."""
        return self.sums(values) / self.lengths

    @property
    def lengths(self) -> Tensor:
        """The number of tokens of each completion, fp32 [C]."""
        import torch

        return self.sums(torch.ones_like(self.old))


@dataclass(frozen=True)
class PolicyGradient(ABC):
    """An objective that raises the expected reward of completions sampled from the model.

    The reward is the SCS of a completion against the true prompt. The completions of one prompt are
    a group. They share the computation of the prompt: its keys and values in sampling, and its row
    in the update.

    Attributes:
        name: The name in records.
        samples: The number of completions that are sampled for each prompt, ≥ 2.
        updates: The number of optimiser steps on each batch of samples.
        clip: ε in (0, 1): ratios of new to old probabilities beyond 1 ± ε gain nothing more.
        beta: The weight of the KL divergence from the reference model, which is the one that
            training starts from. 0 needs no reference.
    """

    name: ClassVar[str] = ""
    samples: Annotated[int, Ge(2)] = 8
    updates: AtLeastOne = 1
    clip: Annotated[float, Gt(0), Lt(1)] = 0.2
    beta: NotNegative = 0.0

    @abstractmethod
    def advantages(self, rewards: Tensor, divergence: Tensor) -> Tensor:
        """The advantage of each completion.

        Args:
            rewards: The reward of each completion, those of a prompt one after another, fp32 [C]
                with C a multiple of `samples`.
            divergence: log p_old − log p_ref of each completion, fp32 [C]; 0 without a reference.

        Returns:
            fp32 [C].
        """

    @abstractmethod
    def __call__(self, completions: SampledCompletions) -> Tensor:
        """The loss, fp32 []."""

    def clipped(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        """−min(r A, clip(r, 1 − ε, 1 + ε) A) with r the ratio, elementwise (PPO, 1707.06347)."""
        import torch

        ratio = log_ratio.exp()
        return -torch.minimum(
            ratio * advantage, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage
        )
