"""The progress of training on terminals and, as plain lines, in log files."""

import logging
import math
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback, RichProgressBar
from rich.console import Console

from prompt_recovery.runs.folder import shown_path
from prompt_recovery.terminal import NowAndThen, announced, tell, when_silent

log = logging.getLogger(__name__)


def progress_callback() -> Callback:
    """Returns a callback that draws a bar on a terminal, and otherwise logs a line now and then."""
    return RichProgressBar(leave=False) if Console().is_terminal else PlainProgress()


class GoingOn(Callback):
    """Says from which step a resumed training goes on, and with which checkpoint.

    Args:
        checkpoint: The file. None if the training begins anew, of which nothing is said.
    """

    def __init__(self, checkpoint: str | None) -> None:
        self._checkpoint = checkpoint

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Logs the line. The checkpoint has been loaded by now."""
        if self._checkpoint is None or not trainer.is_global_zero:
            return
        total = trainer.estimated_stepping_batches
        log.info(
            "continuing from step %s%s, with %s",
            f"{trainer.global_step:,}",
            f" of {int(total):,}" if math.isfinite(total) else "",
            shown_path(Path(self._checkpoint)),
        )


class PlainProgress(Callback):
    """Logs the progress of training now and then."""

    def __init__(self) -> None:
        self._due = NowAndThen()
        self._before = 0
        self._timer: threading.Timer | None = None
        self._validating = ExitStack()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts the clock."""
        self._due, self._before = NowAndThen(), trainer.global_step
        if trainer.is_global_zero:
            self._timer = when_silent(self._say, trainer)  # of a long first step

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Stops the clock."""
        if self._timer is not None:
            self._timer.cancel()
        self._validating.close()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Announces the validation, which may take long after the last step."""
        if trainer.is_global_zero:
            self._validating.enter_context(announced("validation", anyway=True))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Says how long the validation took, if that was long."""
        self._validating.close()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs the step, the time left and the loss."""
        self._say(trainer)

    def _say(self, trainer: Any) -> None:
        if not self._due.is_due() or not trainer.is_global_zero:
            return
        step, total = trainer.global_step, trainer.estimated_stepping_batches
        said = f"step {step:,}"
        if math.isfinite(total):
            said += f" of {int(total):,}, {self._due.left(step, total, self._before)}"
        loss = trainer.callback_metrics.get("train/loss")
        tell("training: %s%s", said, "" if loss is None else f", loss {float(loss):.3f}")

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
            tell("validation: batch %d of %d", batch_idx + 1, count)
