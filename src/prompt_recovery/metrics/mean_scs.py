"""The mean SCS as a torchmetrics metric, for validation by several processes."""

from collections.abc import Sequence

import numpy as np
import torch
from torchmetrics import Metric

from prompt_recovery.metrics.scs import SCS


class SCSMetric(Metric):
    """The mean SCS over all examples of all processes."""

    full_state_update = False
    higher_is_better = True
    total: torch.Tensor
    count: torch.Tensor

    def __init__(self, scs: SCS) -> None:
        super().__init__()
        self._scs = scs
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], truths: Sequence[str]) -> None:
        """Adds predictions and the true prompts, one to one."""
        self.total += float(self._scs(predictions, truths).astype(np.float64).sum())
        self.count += len(predictions)

    def compute(self) -> torch.Tensor:
        """fp64 [], in [-1, 1]; 0 before any example."""
        return self.total / self.count.clamp(min=1)
