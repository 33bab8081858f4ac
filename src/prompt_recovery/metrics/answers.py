"""What a validation says of each answer, gathered from all processes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from prompt_recovery.metrics.scs import SCS


class AnswerScores(Metric):
    """The scores of each answer under two encoders, and its length.

    The answers are in the order of their examples, whatever batches and processes they came from.

    Args:
        scs: The metric that is optimised.
        second: The same metric with another encoder; None scores with the first one only.
    """

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, scs: SCS, second: SCS | None) -> None:
        super().__init__()
        self._scs, self._second = scs, second
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(
        self, predictions: Sequence[str], truths: Sequence[str], places: Sequence[int]
    ) -> None:
        """Adds answers; an empty share must be added, too.

        Args:
            predictions: n predictions.
            truths: The true prompts, one to one.
            places: The index of each example in the validation split.
        """
        columns = [
            torch.tensor([float(place) for place in places]),
            torch.from_numpy(self._scs(predictions, truths)),
            torch.full((len(predictions),), torch.nan)
            if self._second is None
            else torch.from_numpy(self._second(predictions, truths)),
            torch.tensor([float(len(text.split())) for text in predictions]),
        ]
        self.rows.append(torch.stack(columns, 1).double().to(self.device))

    def compute(self) -> Tensor:
        """fp64 [n, 3]: SCS, SCS under the second encoder (or NaN), and words of each answer."""
        rows = dim_zero_cat(self.rows)
        return rows[rows[:, 0].argsort(stable=True), 1:]
