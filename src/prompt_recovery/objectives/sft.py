from torch import Tensor, nn

from prompt_recovery.trees import CompletionScores


class SFT(nn.Module):
    """Supervised fine-tuning: the mean negative log-likelihood of the true completions.

    L = -1/C Σ_c 1/|c|^a · log p(c | prompt)

    With a = 1 every example counts alike, with a = 0 every token does (up to a constant).

    Args:
        length_power: a, in [0, 1].
    """

    name = "sft"

    def __init__(self, length_power: float = 1.0) -> None:
        super().__init__()
        self.length_power = length_power

    def forward(self, scores: CompletionScores) -> Tensor:
        """The loss, fp32 []."""
        return -(scores.log_probability / scores.length**self.length_power).mean()
