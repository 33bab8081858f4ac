"""The progress of training on terminals and, as plain lines, in log files."""

import logging
import math
from typing import Any

from lightning.pytorch.callbacks import Callback, RichProgressBar
from rich.console import Console

from prompt_recovery.terminal import NowAndThen

log = logging.getLogger(__name__)


def progress_callback() -> Callback:
    """Returns a callback that draws a bar on a terminal, and otherwise logs a line now and then."""
    return RichProgressBar(leave=False) if Console().is_terminal else PlainProgress()


class PlainProgress(Callback):
    """Logs the progress of training now and then."""

    def __init__(self) -> None:
        self._due = NowAndThen()
        self._before = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts the clock."""
        self._due, self._before = NowAndThen(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs the step, the time left and the loss."""
        if not self._due.is_due() or not trainer.is_global_zero:
            return
        step, total = trainer.global_step, trainer.estimated_stepping_batches
        said = f"step {step:,}"
        if math.isfinite(total):
            said += f" of {int(total):,}, {self._due.left(step, total, self._before)}"
        loss = trainer.callback_metrics.get("train/loss")
        log.info("training: %s%s", said, "" if loss is None else f", loss {float(loss):.3f}")

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Logs the batch of the validation."""
        if self._due.is_due() and trainer.is_global_zero:
            count = sum(n for n in trainer.num_val_batches if math.isfinite(n))
            log.info("validation: batch %d of %d", batch_idx + 1, count)
