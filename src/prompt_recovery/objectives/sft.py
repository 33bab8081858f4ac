from torch import Tensor

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.objectives.base import Objective, ScoredCompletions


class SFT(Objective):
    """Supervised fine-tuning: the negative log-likelihood of the true completions.

    L = −log p(c | prompt) / |c|^a

    With a = 1 every example counts alike, with a = 0 every token does (up to a constant).

    Args:
        length_power: a, in [0, 1].
    """

    name = "sft"
    completions = "truth"
    uses_reference = False

    def __init__(self, length_power: float = 1.0) -> None:
        super().__init__()
        if not 0 <= length_power <= 1:
            raise PromptRecoveryError(f"objective.length_power={length_power}: must be in [0, 1]")
        self.length_power = length_power

    def losses(self, completions: ScoredCompletions) -> Tensor:
        """fp32 [T]."""
        return -completions.log_probability / completions.length**self.length_power
