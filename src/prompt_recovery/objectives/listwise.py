from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.objectives.base import Objective, ScoredCompletions
from prompt_recovery.settings import NotNegative, Positive, checked

if TYPE_CHECKING:
    from torch import Tensor


@checked("objective")
@dataclass(frozen=True)
class Listwise(Objective):
    """Distribution matching over the K completions of a prompt.

    L = −Σ_k q_k log π_k,   q = softmax(SCS / τ),   π = softmax(β (log p − log p_ref))

    The cross-entropy of two distributions over a list is ListNet's top-one loss (Cao et al., ICML
    2007); over log-ratios of a policy it is the listwise case of LiPO (Liu et al., arXiv
    2402.01878). Its optimum is the KL-regularised policy p ∝ p_ref exp(SCS / (β τ)). With
    K = 2 and τ → 0 it is DPO.

    Attributes:
        beta: β > 0.
        temperature: τ > 0, in units of SCS; a small value trains on the best completion only.
        sft_weight: The weight of the SFT term.
    """

    name: ClassVar[str] = "listwise"
    completions: ClassVar[Literal["truth", "pair", "group"]] = "group"
    beta: Positive = 0.1
    temperature: Positive = 0.1
    sft_weight: NotNegative = 1.0

    def losses(self, completions: ScoredCompletions) -> Tensor:
        """The loss of each prompt, fp32 [T].

        Raises:
            PromptRecoveryError: If a completion has no score.
        """
        import torch

        if completions.score is None or bool(completions.score.isnan().any()):
            raise PromptRecoveryError(
                "objective=listwise needs a score for every completion (columns chosen_score and "
                "rejected_score, or scores): use objective=dpo with data that has none"
            )
        tree = completions.tree
        target = log_softmax_by(completions.score / self.temperature, tree).exp()
        policy = log_softmax_by(self.beta * completions.log_ratio, tree)
        zeros = torch.zeros(int(tree[-1]) + 1, device=tree.device)
        return zeros.index_add(0, tree, -target * policy)


def log_softmax_by(values: Tensor, group: Tensor) -> Tensor:
    """The log-softmax [C] of `values` [C] within each group; `group` int64 [C] counts from 0."""
    import torch

    count = int(group[-1]) + 1
    lowest = torch.full((count,), -torch.inf, device=values.device, dtype=values.dtype)
    highest = lowest.scatter_reduce(0, group, values.detach(), "amax")
    shifted = values - highest[group]
    total = torch.zeros_like(highest).index_add(0, group, shifted.exp())
    return shifted - total.log()[group]
