from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Lt

from prompt_recovery.objectives.base import Objective, ScoredCompletions, pairs
from prompt_recovery.settings import NotNegative, Positive, checked

if TYPE_CHECKING:
    from torch import Tensor


@checked("objective")
@dataclass(frozen=True)
class DPO(Objective):
    """Direct Preference Optimization (Rafailov et al., arXiv 2305.18290, eq. 7).

    L = −(1 − ε) log σ(β Δ) − ε log σ(−β Δ),   Δ = log p(c)/p_ref(c) − log p(r)/p_ref(r)

    ε > 0 allows for wrong labels (conservative DPO, Mitchell 2023).

    Attributes:
        beta: β > 0; a larger value keeps the model closer to the reference.
        label_smoothing: ε in [0, 0.5).
        sft_weight: The weight of the SFT term.
    """

    name: ClassVar[str] = "dpo"
    beta: Positive = 0.1
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    sft_weight: NotNegative = 1.0

    def losses(self, completions: ScoredCompletions) -> Tensor:
        """The loss of each prompt, fp32 [T]."""
        from torch.nn.functional import logsigmoid

        chosen, rejected = pairs(completions.log_ratio)
        margin = self.beta * (chosen - rejected)
        kept = -(1 - self.label_smoothing) * logsigmoid(margin)
        return kept - self.label_smoothing * logsigmoid(-margin)
