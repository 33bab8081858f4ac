"""Sharpened Cosine Similarity, the score of the task."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics import Metric

from prompt_recovery.metrics.encoder import Encoder


def sharpen(cosine: Any, exponent: float = 3.0) -> Any:
    """sign(c)·|c|^exponent, for NumPy arrays or numbers in [-1, 1].

    The exponent 3 is that of the Kaggle competition LLM Prompt Recovery (2024).
    """
    return np.sign(cosine) * np.abs(cosine) ** exponent


class SCS:
    """Scores predictions against truths.

    Args:
        encoder: makes the embeddings.
        exponent: > 0; 1 gives the plain cosine.
    """

    def __init__(self, encoder: Encoder, exponent: float = 3.0) -> None:
        if exponent <= 0:
            raise ValueError(f"exponent must be positive, not {exponent}")
        self.encoder = encoder
        self.exponent = exponent

    def cosine(self, predictions: Sequence[str], truths: Sequence[str]) -> NDArray[np.float32]:
        """fp32 [n]: the cosine of each prediction with its own truth, in [-1, 1]."""
        if len(predictions) != len(truths):
            raise ValueError(f"{len(predictions)} predictions for {len(truths)} truths")
        if not predictions:
            return np.zeros(0, np.float32)
        products = self.encoder.embed(predictions) * self.encoder.embed(truths)
        return np.clip(products.sum(axis=1), -1, 1)

    def __call__(self, predictions: Sequence[str], truths: Sequence[str]) -> NDArray[np.float32]:
        """fp32 [n]: the SCS of each prediction with its own truth, in [-1, 1]."""
        return np.asarray(sharpen(self.cosine(predictions, truths), self.exponent), np.float32)

    def matrix(self, rows: Sequence[str], columns: Sequence[str]) -> NDArray[np.float32]:
        """fp32 [r, c]: the SCS of every row text with every column text."""
        cosine = np.clip(self.encoder.embed(rows) @ self.encoder.embed(columns).T, -1, 1)
        return np.asarray(sharpen(cosine, self.exponent), np.float32)


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
