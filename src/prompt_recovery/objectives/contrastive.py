"""The contrastive objective of a dense retriever, on embeddings instead of completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from prompt_recovery.settings import AtLeastOne, Cosine, Count, NotNegative, Positive, checked

if TYPE_CHECKING:
    from torch import Tensor


@checked("objective")
@dataclass(frozen=True)
class Contrastive:
    """InfoNCE (van den Oord et al., arXiv 1807.03748) with fixed targets, plus a cosine term.

    The embedding f of a pair of texts is trained to lie near the embedding e of its prompt, which
    the metric's encoder computes and which is not trained, and far from those of other prompts:

    L = −log( exp(f·e / τ) / (exp(f·e / τ) + Σ_n exp(f·n / τ)) ) + w · (1 − f·e)

    The sum is over the negatives: the distinct prompts of the batch, without those that are nearly
    the same as the right one. The batch is that of all processes together.

    Attributes:
        temperature: τ, > 0. It is also the temperature of the posterior until another is fitted.
        cosine_weight: w, the weight of the cosine term, ≥ 0.
        duplicate_cosine: Prompts whose cosine with the right one is higher than this, in [-1, 1],
            are not its negatives.
        negatives: "batch" takes the prompts of the batch as negatives, and "all" those of the whole
            training split. Since the embeddings of prompts do not change, this costs little.
        hard_negatives: The number of prompts that are added to the negatives because they are most
            similar to the right prompts of the batch, without being near-duplicates.
            `negatives=all` includes them anyway.
        k: The posterior is over the k prompts nearest to the predicted embedding, ≥ 1.
        form: Whether prompts also gain or lose weight by how their training pairs were changed
            (length, punctuation, lines, words kept), as far as that helps on validation.
        name: The name in records.
    """

    name: ClassVar[str] = "contrastive"
    temperature: Positive = 0.05
    cosine_weight: NotNegative = 1.0
    duplicate_cosine: Cosine = 0.9
    negatives: Literal["batch", "all"] = "batch"
    hard_negatives: Count = 0
    k: AtLeastOne = 200
    form: bool = True

    def losses(self, predicted: Tensor, targets: Tensor, candidates: Tensor) -> Tensor:
        """The loss of each pair.

        Args:
            predicted: The embeddings of b pairs, fp32 [b, d], of length 1.
            targets: The embeddings of their prompts, fp32 [b, d], of length 1.
            candidates: The embeddings of n distinct prompts, fp32 [n, d], of length 1. Those that
                are near-duplicates of a target, such as the target itself, are left out for it.

        Returns:
            fp32 [b].
        """
        import torch

        cosine = (predicted * targets).sum(-1)
        near = targets @ candidates.T > self.duplicate_cosine
        against = (predicted @ candidates.T / self.temperature).masked_fill(near, -torch.inf)
        right = cosine / self.temperature
        total = torch.logsumexp(torch.cat([right[:, None], against], 1), 1)
        return total - right + self.cosine_weight * (1 - cosine)

    def hard_negatives_of(self, prompts: Tensor) -> Tensor:
        """The hard negatives of each prompt, as indices of the others, int64 [n, hard_negatives].

        If there are too few other prompts, the rest is filled with the prompt itself, which is
        never a negative.

        Args:
            prompts: The embeddings of n distinct prompts, fp32 [n, d], of length 1.
        """
        import torch

        count = min(self.hard_negatives, len(prompts))
        found = []
        for start in range(0, len(prompts), 1024):
            cosine = prompts[start : start + 1024] @ prompts.T
            cosine = cosine.masked_fill(cosine > self.duplicate_cosine, -torch.inf)
            values, indices = cosine.topk(count, dim=1)
            own = torch.arange(start, start + len(cosine))[:, None]
            found.append(torch.where(values.isfinite(), indices, own))
        return torch.cat(found)
