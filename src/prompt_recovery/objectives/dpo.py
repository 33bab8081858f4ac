from torch import Tensor
from torch.nn.functional import logsigmoid

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.objectives.base import Objective, ScoredCompletions, pairs, positive


class DPO(Objective):
    """Direct Preference Optimization (Rafailov et al., arXiv 2305.18290, eq. 7).

    L = −(1 − ε) log σ(β Δ) − ε log σ(−β Δ),   Δ = log p(c)/p_ref(c) − log p(r)/p_ref(r)

    ε smooths labels that may be wrong (conservative DPO, Mitchell 2023).

    Args:
        beta: β > 0; larger holds the model closer to the reference.
        label_smoothing: ε in [0, 0.5).
        sft_weight: of the added SFT term.
    """

    name = "dpo"

    def __init__(
        self, beta: float = 0.1, label_smoothing: float = 0.0, sft_weight: float = 0.0
    ) -> None:
        super().__init__(sft_weight)
        self.beta = positive(self, "beta", beta)
        if not 0 <= label_smoothing < 0.5:
            raise PromptRecoveryError(
                f"objective.label_smoothing={label_smoothing}: must be in [0, 0.5)"
            )
        self.label_smoothing = label_smoothing

    def losses(self, completions: ScoredCompletions) -> Tensor:
        """fp32 [T]."""
        chosen, rejected = pairs(completions.log_ratio)
        margin = self.beta * (chosen - rejected)
        kept = -(1 - self.label_smoothing) * logsigmoid(margin)
        return kept - self.label_smoothing * logsigmoid(-margin)
