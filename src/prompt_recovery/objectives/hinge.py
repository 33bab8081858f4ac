from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prompt_recovery.objectives.base import Objective, ScoredCompletions, pairs
from prompt_recovery.settings import NotNegative, Positive, checked

if TYPE_CHECKING:
    from torch import Tensor


@checked("objective")
@dataclass(frozen=True)
class Hinge(Objective):
    """The hinge loss on DPO's margin (SLiC, Zhao et al., arXiv 2305.10425; RSO, arXiv 2309.06657).

    L = max(0, 1 − β Δ),   Δ = log p(c)/p_ref(c) − log p(r)/p_ref(r)

    Attributes:
        beta: β > 0, the inverse of the target margin.
        sft_weight: The weight of the SFT term.
    """

    name: ClassVar[str] = "hinge"
    beta: Positive = 0.1
    sft_weight: NotNegative = 1.0

    def losses(self, completions: ScoredCompletions) -> Tensor:
        """The loss of each prompt, fp32 [T]."""
        import torch

        chosen, rejected = pairs(completions.log_ratio)
        return torch.relu(1 - self.beta * (chosen - rejected))
