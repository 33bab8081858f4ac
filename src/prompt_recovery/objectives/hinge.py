import torch
from torch import Tensor

from prompt_recovery.objectives.base import Objective, ScoredCompletions, pairs, positive


class Hinge(Objective):
    """The hinge loss on DPO's margin (SLiC, Zhao et al., arXiv 2305.10425; RSO, arXiv 2309.06657).

    L = max(0, 1 − β Δ),   Δ = log p(c)/p_ref(c) − log p(r)/p_ref(r)

    Args:
        beta: β > 0, the inverse of the margin asked for.
        sft_weight: of the added SFT term.
    """

    name = "hinge"

    def __init__(self, beta: float = 0.1, sft_weight: float = 0.0) -> None:
        super().__init__(sft_weight)
        self.beta = positive(self, "beta", beta)

    def losses(self, completions: ScoredCompletions) -> Tensor:
        """fp32 [T]."""
        chosen, rejected = pairs(completions.log_ratio)
        return torch.relu(1 - self.beta * (chosen - rejected))
