from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prompt_recovery.objectives.policy import PolicyGradient, SampledCompletions
from prompt_recovery.settings import checked

if TYPE_CHECKING:
    from torch import Tensor


@checked("objective")
@dataclass(frozen=True)
class RLOO(PolicyGradient):
    """REINFORCE with a leave-one-out baseline (Ahmadian et al., arXiv 2402.14740).

    A whole completion is one action. With r the reward of completion i less β times its divergence
    from the reference, and o the ratio of the new to the old probability of the completion:

    A_i = r_i − mean of the r of the group's others,   L = mean of −min(o A, clip(o) A)
    """

    name: ClassVar[str] = "rloo"

    def advantages(self, rewards: Tensor, divergence: Tensor) -> Tensor:
        """The advantage of each completion over the others of its group, fp32 [C]."""
        groups = (rewards - self.beta * divergence).view(-1, self.samples)
        others = (groups.sum(1, keepdim=True) - groups) / (self.samples - 1)
        return (groups - others).flatten()

    def __call__(self, completions: SampledCompletions) -> Tensor:
        """The loss, fp32 []."""
        log_ratio = completions.sums(completions.log_probability - completions.old)
        return self.clipped(log_ratio, completions.advantage).mean()
