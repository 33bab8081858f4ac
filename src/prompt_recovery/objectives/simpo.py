from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prompt_recovery.objectives.base import Objective, ScoredCompletions, pairs
from prompt_recovery.settings import NotNegative, Positive, checked

if TYPE_CHECKING:
    from torch import Tensor


@checked("objective")
@dataclass(frozen=True)
class SimPO(Objective):
    """Simple Preference Optimization (Meng et al., arXiv 2405.14734, eq. 6): no reference model.

    L = −log σ(β (log p(c)/|c| − log p(r)/|r|) − γ)

    Attributes:
        beta: β > 0.
        gamma: γ ≥ 0, the target margin.
        sft_weight: The weight of the SFT term.
    """

    name: ClassVar[str] = "simpo"
    uses_reference: ClassVar[bool] = False
    beta: Positive = 2.0
    gamma: NotNegative = 1.0
    sft_weight: NotNegative = 1.0

    def losses(self, completions: ScoredCompletions) -> Tensor:
        """The loss of each prompt, fp32 [T]."""
        from torch.nn.functional import logsigmoid

        chosen, rejected = pairs(completions.mean_log_probability)
        return -logsigmoid(self.beta * (chosen - rejected) - self.gamma)
