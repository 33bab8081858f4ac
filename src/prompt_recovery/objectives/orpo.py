import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prompt_recovery.objectives.base import Objective, ScoredCompletions, not_negative, pairs

_NEARLY_ONE = -1e-6  # log p per token above it has no finite odds in fp32


class ORPO(Objective):
    """Odds Ratio Preference Optimization (Hong et al., arXiv 2403.07691, eq. 6 and 7).

    L = −log p(c)/|c| − λ log σ(log odds(c) − log odds(r)),   odds = q / (1 − q),
    q = exp(log p/|·|), the geometric mean of the tokens' probabilities. No reference model; the
    SFT term is part of it.

    Args:
        weight: λ ≥ 0 of the odds ratio.
    """

    name = "orpo"
    uses_reference = False

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__(sft_weight=1.0)
        self.weight = not_negative(self, "weight", weight)

    def losses(self, completions: ScoredCompletions) -> Tensor:
        """fp32 [T], without the SFT term."""
        mean = completions.mean_log_probability.clamp(max=_NEARLY_ONE)
        chosen, rejected = pairs(mean - torch.log(-torch.expm1(mean)))
        return -self.weight * logsigmoid(chosen - rejected)
