from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from prompt_recovery.objectives.base import Objective, ScoredCompletions
from prompt_recovery.settings import Share, checked

if TYPE_CHECKING:
    from torch import Tensor


@checked("objective")
@dataclass(frozen=True)
class SFT(Objective):
    """Supervised fine-tuning: the negative log-likelihood of the true completions.

    L = −log p(c | prompt) / |c|^a

    With a = 1 every example counts alike, with a = 0 every token does (up to a constant).

    Attributes:
        length_power: a, in [0, 1].
    """

    name: ClassVar[str] = "sft"
    completions: ClassVar[Literal["truth", "pair", "group"]] = "truth"
    uses_reference: ClassVar[bool] = False
    length_power: Share = 1.0

    def losses(self, completions: ScoredCompletions) -> Tensor:
        """The loss of each prompt, fp32 [T]."""
        return -completions.log_probability / completions.length**self.length_power
