from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prompt_recovery.objectives.base import Objective, ScoredCompletions, pairs
from prompt_recovery.settings import NotNegative, checked

if TYPE_CHECKING:
    from torch import Tensor

_NEARLY_ONE = -1e-6  # above this log p per token, the odds are not finite in fp32


@checked("objective")
@dataclass(frozen=True)
class ORPO(Objective):
    """Odds Ratio Preference Optimization (Hong et al., arXiv 2403.07691, eq. 6 and 7).

    L = −log p(c)/|c| − λ log σ(log odds(c) − log odds(r)),   odds = q / (1 − q),
    q = exp(log p/|·|), the geometric mean of the tokens' probabilities. No reference model; the
    SFT term is part of it.

    Attributes:
        weight: λ ≥ 0, the weight of the odds ratio.
    """

    name: ClassVar[str] = "orpo"
    uses_reference: ClassVar[bool] = False
    sft_weight = 1.0  # no annotation, no setting: the term is part of the method
    weight: NotNegative = 0.1

    def losses(self, completions: ScoredCompletions) -> Tensor:
        """The loss of each prompt without the SFT term, fp32 [T]."""
        import torch
        from torch.nn.functional import logsigmoid

        mean = completions.mean_log_probability.clamp(max=_NEARLY_ONE)
        chosen, rejected = pairs(mean - torch.log(-torch.expm1(mean)))
        return -self.weight * logsigmoid(chosen - rejected)
