"""The interface between a training run and the kind of recoverer that it trains."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch

from prompt_recovery.backbones.locate import Location
from prompt_recovery.backbones.precision import Precision
from prompt_recovery.metrics.recorded import metric_record
from prompt_recovery.tables import counted
from prompt_recovery.training.job import TrainingJob
from prompt_recovery.training.module import TrainedModule
from prompt_recovery.training.results import RunEvaluations

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hardware:
    """Where and how precisely a process computes.

    Attributes:
        device: The device of this process.
        precision: The precision of the computation.
        sharded: Whether the weights are sharded over all processes.
    """

    device: torch.device
    precision: Precision
    sharded: bool


class Prepared(ABC):
    """A model with its data, loaded and ready to be trained.

    Attributes:
        job: The job.
        fallback: The mean prompt of the training split.
        location: Location of the backbone's files.
        module: The Lightning module.
        data: The tokenised data.
    """

    job: TrainingJob
    fallback: str
    location: Location
    module: TrainedModule
    data: L.LightningDataModule

    @property
    def record(self) -> dict[str, Any]:
        """The content of `recoverer.yaml`, which `recovery.records.read_record` reads."""
        job = self.job
        return {
            "backbone": asdict(job.backbone),
            "backbone_identity": self.location.identity,
            **self.own_record,
            "fallback": self.fallback,
            "objective": job.objective.name,
            "metric": metric_record(job.scs),
            "data": {"name": job.dataset.name, "fingerprint": job.dataset.fingerprint()},
        }

    @property
    @abstractmethod
    def own_record(self) -> dict[str, Any]:
        """The entries of the record that only this kind of recoverer has."""

    @property
    @abstractmethod
    def parameters(self) -> tuple[int, int]:
        """The numbers of trainable and of all parameters."""

    @abstractmethod
    def card(self, metrics: Mapping[str, float]) -> str:
        """The model card of the weights; before the evaluation, `metrics` is empty."""

    @abstractmethod
    def save(self, weights: dict[str, torch.Tensor]) -> None:
        """Writes trained weights, by their names in the module, into the run's folder."""

    def take(self, trained: Path) -> dict[str, torch.Tensor]:
        """Loads weights that rounds have trained, and saves them as this run's.

        Returns:
            The weights by their names in the module.
        """
        raise NotImplementedError(f"{trained}: rounds are for language models")

    def finish(self, weights: dict[str, torch.Tensor]) -> dict[str, float]:
        """Fits what is fitted after training, with the best weights, in the first process only.

        Returns:
            Further metrics of the run.
        """
        del weights
        return {}

    @abstractmethod
    def evaluate(self, weights: dict[str, torch.Tensor]) -> RunEvaluations:
        """Evaluates the recoverer with the best weights, and baselines, on the test split."""


def own_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Trained weights of a module by their names in its `model`."""
    return {name.removeprefix("model."): weight for name, weight in weights.items()}


def describe_data(job: TrainingJob) -> None:
    """Logs the sizes of the splits and the rows that were left out."""
    sizes = []
    for name in ("train", "val", "test"):
        rows = getattr(job.splits, name)
        prompts = counted(len({row.rewrite_prompt for row in rows}), "prompt")
        sizes.append(f"{len(rows):,} {name} ({prompts})" if rows else f"no {name}")
    log.info("data %s: %s", job.dataset.name, ", ".join(sizes))
    for said in job.dataset.dropped_rows():
        log.warning("%s", said)


def describe_model(job: TrainingJob, trainable: int, total: int) -> None:
    """Logs what is trained."""
    log.info(
        "%s with %s: %s trainable of %s parameters (%.2f %%)",
        job.backbone.name,
        job.adapter.name if job.start is None else job.start.name,
        f"{trainable:,}",
        f"{total:,}",
        100 * trainable / total,
    )
