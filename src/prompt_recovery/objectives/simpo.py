from torch import Tensor
from torch.nn.functional import logsigmoid

from prompt_recovery.objectives.base import (
    Objective,
    ScoredCompletions,
    not_negative,
    pairs,
    positive,
)


class SimPO(Objective):
    """Simple Preference Optimization (Meng et al., arXiv 2405.14734, eq. 6): no reference model.

    L = −log σ(β (log p(c)/|c| − log p(r)/|r|) − γ)

    Args:
        beta: β > 0.
        gamma: γ ≥ 0, the margin asked for.
        sft_weight: of the added SFT term.
    """

    name = "simpo"
    uses_reference = False

    def __init__(self, beta: float = 2.0, gamma: float = 1.0, sft_weight: float = 0.0) -> None:
        super().__init__(sft_weight)
        self.beta = positive(self, "beta", beta)
        self.gamma = not_negative(self, "gamma", gamma)

    def losses(self, completions: ScoredCompletions) -> Tensor:
        """fp32 [T]."""
        chosen, rejected = pairs(completions.mean_log_probability)
        return -logsigmoid(self.beta * (chosen - rejected) - self.gamma)
