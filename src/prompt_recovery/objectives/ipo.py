from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prompt_recovery.objectives.base import Objective, ScoredCompletions, pairs
from prompt_recovery.settings import NotNegative, Positive, checked

if TYPE_CHECKING:
    from torch import Tensor


@checked("objective")
@dataclass(frozen=True)
class IPO(Objective):
    """Identity Preference Optimization (Azar et al., arXiv 2310.12036, eq. 17).

    L = (Δ − 1/(2β))²,   Δ = log-ratio(c)/|c| − log-ratio(r)/|r|

    The log-ratios are per token, as the authors intended and as TRL computes them, so the target
    margin doesn't depend on the length.

    Attributes:
        beta: The paper's τ > 0; a larger value keeps the model closer to the reference.
        sft_weight: The weight of the SFT term.
    """

    name: ClassVar[str] = "ipo"
    beta: Positive = 0.1
    sft_weight: NotNegative = 1.0

    def losses(self, completions: ScoredCompletions) -> Tensor:
        """The loss of each prompt, fp32 [T]."""
        chosen, rejected = pairs(completions.log_ratio / completions.length)
        return (chosen - rejected - 1 / (2 * self.beta)) ** 2
