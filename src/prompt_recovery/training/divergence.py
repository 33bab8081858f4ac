"""Stops training that has diverged, before its weights are taken for the best ones."""

import math
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from prompt_recovery.errors import PromptRecoveryError


class Divergence(Callback):
    """Raises an error when the loss or a result of validation is not a finite number.

    It comes first among the callbacks, so that the others keep nothing of a diverged model. A loss
    is checked when the next step has begun, because checking it at once would mean to wait for a
    GPU.
    """

    def __init__(self) -> None:
        self._loss: Tensor | None = None
        self._step = 0

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks at the loss of the batch before."""
        self._look()
        self._loss, self._step = outputs["loss"].detach(), trainer.global_step

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Looks at the loss of the last batch."""
        self._look()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Looks at the loss of the last batch."""
        self._look()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Looks at the results of the validation."""
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/") and not math.isfinite(value):
                raise diverged(f"{name} is {float(value)} after {trainer.global_step} steps")

    def _look(self) -> None:
        loss, self._loss = self._loss, None
        if loss is not None and not torch.isfinite(loss):
            raise diverged(f"the loss is {float(loss)} in step {self._step}")


def diverged(sign: str) -> PromptRecoveryError:
    """Returns the error for training that has diverged.

    Args:
        sign: What shows it.
    """
    return PromptRecoveryError(
        f"training has diverged: {sign}; lower optim.learning_rate, or raise optim.warmup"
    )
