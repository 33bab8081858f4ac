"""What a run is given."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prompt_recovery.backbones.locate import Backbone
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.data.examples import Dataset
from prompt_recovery.data.splits import Splits
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.objectives import Objective
from prompt_recovery.preferences import Preferences
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.templates import Template
from prompt_recovery.training.datamodule import Batching
from prompt_recovery.training.module import Optimisation


@dataclass
class TrainingJob:
    """Everything a run needs.

    Attributes:
        dataset: where the splits come from, for records.
        splits: the examples.
        template: the recovery template.
        backbone: which causal LM.
        adapter: what is trained on it.
        objective: the loss over completion trees.
        scs: the metric.
        batching: batch sizes.
        optim: optimiser and schedule.
        decoding: how answers are chosen, in validation and test.
        trainer: options of `lightning.Trainer`; the strategy "fsdp" is `FullySharded`.
        folder: where the run's files go; made if needed.
        precision: auto, bf16 or fp32.
        seed: of everything.
        logger: wandb, csv or none.
        project: the W&B project.
        name: the W&B run.
        group: of W&B runs that belong together.
        tags: of the W&B run.
        log_adapter: upload the adapter as a W&B artifact.
        gradient_checkpointing: keep only the layers' inputs and make the rest again in the backward
            pass: less memory for a third more time.
        checkpoint_minutes: between two writings of `checkpoints/last.ckpt`; 0 is every step.
        ckpt_path: a checkpoint to resume from.
        start: an adapter folder (or a run's) to start from; None is a new adapter.
        seconds_before: what an earlier stage took.
        preferences: where an objective over pairs or groups gets them.
        evaluate: evaluate on the test split at the end.
        config: the run's configuration, for records.
    """

    dataset: Dataset
    splits: Splits
    template: Template
    backbone: Backbone
    adapter: Adapter
    objective: Objective
    scs: SCS
    batching: Batching
    optim: Optimisation
    decoding: Decoding
    trainer: dict[str, Any]
    folder: Path
    precision: str = "auto"
    seed: int = 0
    logger: str = "none"
    project: str = "prompt-recovery"
    name: str = "run"
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    log_adapter: bool = False
    gradient_checkpointing: bool = False
    checkpoint_minutes: float = 1.0
    ckpt_path: str | None = None
    start: Path | None = None
    seconds_before: float = 0.0
    preferences: Preferences = field(default_factory=Preferences)
    evaluate: bool = True
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> RunFolder:
        """The run's files."""
        return RunFolder(self.folder)
