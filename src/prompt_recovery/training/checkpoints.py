"""Atomic checkpoints, and the best weights so far."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs.folder import RunFolder, recoverer_file
from prompt_recovery.storage import atomic_write


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and reads tensors and plain values only, no pickled code."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint. If the process is killed, the old or the new file is intact."""
        with atomic_write(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = True
    ) -> Any:
        """Reads a checkpoint.

        Raises:
            PromptRecoveryError: If the file does not exist or is damaged.
        """
        try:
            with ZipFile(path) as file:  # `torch.load` does not look at its checksums
                damaged = file.testzip()
            if damaged is not None:
                raise BadZipFile(damaged)
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except FileNotFoundError as error:
            raise PromptRecoveryError(f"ckpt_path={path}: no such file") from error
        except Exception as error:  # torch raises many types for a damaged file
            raise PromptRecoveryError(
                f"ckpt_path={path}: is damaged or not a checkpoint ({type(error).__name__}); "
                "give another, or start again without ckpt_path"
            ) from error


class _LastCheckpoint(ModelCheckpoint):
    """Writes `last.ckpt` after a step or, if a validation follows the step, after the validation.

    A run that resumed from a checkpoint in between would skip that validation, and might miss its
    best adapter.
    """

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        loop = trainer.fit_loop
        if trainer.enable_validation and loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
            self._defer_save_until_validation = True
        else:
            super().on_train_batch_end(trainer, pl_module, *batch)


def last_checkpoint_callback(run: RunFolder, minutes: float) -> ModelCheckpoint:
    """Returns a callback that writes `last.ckpt` at this interval and after validations.

    Args:
        run: The run that keeps the checkpoint.
        minutes: Interval in minutes; 0 writes it after every step.
    """
    return _LastCheckpoint(
        dirpath=run.checkpoint.parent,
        filename=run.checkpoint.stem,
        monitor=None,
        save_top_k=1,
        enable_version_counter=False,
        save_on_train_epoch_end=False,
        **(
            {"train_time_interval": timedelta(minutes=minutes)}
            if minutes > 0
            else {"every_n_train_steps": 1}
        ),
    )


class BestWeights(Callback):
    """Keeps the weights with the highest `val/scs`, and has them written to a folder.

    Without validations, it keeps the last weights.

    The best weights are part of checkpoints, so that a resumed run has them even in a new folder.

    Args:
        save: Writes trained weights, by their names in the module, where they can be loaded again.
            Only the first process calls it.
        refused: Whether the weights of the last validation must not be kept even if it was the
            best. If those of the first one must not, those from before the training are kept, if
            they were validated.
    """

    def __init__(
        self,
        save: Callable[[dict[str, torch.Tensor]], None],
        refused: Callable[[], bool] = lambda: False,
    ) -> None:
        self.save = save
        self.refused = refused
        self.best = float("-inf")
        self.weights: dict[str, torch.Tensor] = {}
        self._before: tuple[float, dict[str, torch.Tensor]] | None = None
        self._written = False

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keeps the weights if they are better than any before."""
        score = float(trainer.callback_metrics["val/scs"])
        if trainer.sanity_checking:
            self._before = score, _weights_of(pl_module)
        elif score > self.best and not self.refused():
            self.best = score
            self._keep(trainer, pl_module)
        elif not self.weights and self._before is not None:
            self.best, self.weights = self._before
            self._write(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Writes the best weights that a resumed run has loaded from its checkpoint."""
        if self.weights:
            self._write(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Keeps the last weights if there are no validations to compare weights by."""
        if not trainer.enable_validation:
            self._keep(trainer, pl_module)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Does the same for a run that was resumed when nothing was left to train."""
        if not self.weights and not trainer.enable_validation:
            self._keep(trainer, pl_module)
        if self.weights and not self._written:
            self._write(trainer)

    def _keep(self, trainer: Any, pl_module: Any) -> None:
        self.weights = _weights_of(pl_module)
        self._write(trainer)

    def _write(self, trainer: Any) -> None:
        self._written = True
        if trainer.is_global_zero:
            self.save(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Returns the best score and its weights, or else those from before the training."""
        before = None if self.weights else self._before
        return {"best": self.best, "weights": self.weights, "before": before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best score and its weights."""
        self.best = state_dict["best"]
        self.weights = state_dict["weights"]
        self._before = state_dict.get("before")


def _weights_of(module: Any) -> dict[str, torch.Tensor]:
    return {n: w.cpu().clone() for n, w in module.trained_weights().items()}


def write_adapter(model: Any, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Writes the files of a PEFT adapter.

    Args:
        model: A `PeftModel`.
        weights: Weights of its adapter by their names in the model.
        folder: The folder, which exists.
    """
    model.save_pretrained(
        folder,
        state_dict=weights,
        safe_serialization=True,
        save_embedding_layers=False,  # "auto" would ask the Hub for the size of the vocabulary
    )
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def write_card(folder: Path, card: str) -> None:
    """Writes `README.md`, the model card of a folder, atomically."""
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8", errors="replace")


def write_record(folder: Path, recoverer: dict[str, Any]) -> None:
    """Writes `recoverer.yaml`, the record of the recoverer in a folder."""
    with recoverer_file(folder).open("w", encoding="utf-8") as file:
        yaml.safe_dump(recoverer, file, allow_unicode=True, sort_keys=False)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder, whose files then replace those of `folder`, each atomically.

    The record comes last, so that a folder that has one is whole.
    """
    scratch = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    yield scratch
    files = [path for path in scratch.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda p: (p == recoverer_file(scratch), p)):
        target = folder / path.relative_to(scratch)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            shutil.copyfile(path, temporary)
    shutil.rmtree(scratch)
