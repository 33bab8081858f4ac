from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from prompt_recovery.objectives.policy import PolicyGradient, SampledCompletions
from prompt_recovery.settings import checked

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_DEVIATION = 1e-4  # added to the standard deviation, as in TRL


@checked("objective")
@dataclass(frozen=True)
class GRPO(PolicyGradient):
    """Group Relative Policy Optimization (Shao et al., arXiv 2402.03300) and its unbiased variant.

    With r the reward, G the completions of a prompt and o the ratio of the new to the old
    probability of a token:

    A = (r − mean_G r) / std_G r,   L = mean of −min(o A, clip(o) A) + β o (q − log q − 1)

    with q the ratio of the reference's to the new probability. The factor o of the penalty makes
    its gradient that of the divergence (DeepSeek-V3.2, arXiv 2512.02556), as in TRL.

    Dr. GRPO (Liu et al., arXiv 2503.20783) divides neither by the standard deviation, which favours
    prompts that are very easy or very hard, nor by a completion's length, which favours long wrong
    answers: `scale_rewards=false`, `average=constant`.

    Attributes:
        scale_rewards: Whether to divide by the standard deviation of the group's rewards.
        average: How the losses of tokens are averaged: "completion" takes the mean over each
            completion and then over completions; "constant" divides the sum of all of them by the
            number of completions times the largest number of tokens.
    """

    name: ClassVar[str] = "grpo"
    scale_rewards: bool = True
    average: Literal["completion", "constant"] = "completion"

    def advantages(self, rewards: Tensor, divergence: Tensor) -> Tensor:
        """The advantage of each completion within its group, fp32 [C]."""
        del divergence  # it is part of the loss
        groups = rewards.view(-1, self.samples)
        centred = groups - groups.mean(1, keepdim=True)
        if self.scale_rewards:
            centred = centred / (groups.std(1, keepdim=True) + _LEAST_DEVIATION)
        return centred.flatten()

    def __call__(self, completions: SampledCompletions) -> Tensor:
        """The loss, fp32 []."""
        log_ratio = completions.log_probability - completions.old
        losses = self.clipped(log_ratio, completions.advantage[completions.completion])
        divergence = completions.divergence
        if self.beta and divergence is not None:
            losses = losses + self.beta * log_ratio.exp() * divergence
        if self.average == "constant":
            return losses.sum() / (len(completions.advantage) * completions.most_tokens)
        return completions.means(losses).mean()
