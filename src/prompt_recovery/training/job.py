"""What a run of training is given, and the settings that `conf/train.yaml` configures."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt

from prompt_recovery.backbones.locate import Backbone
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.data.examples import Dataset
from prompt_recovery.data.splits import Splits, TrainingSplit
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.objectives import Objective
from prompt_recovery.preferences import Preferences
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.settings import (
    AtLeastOne,
    Count,
    LocalPath,
    NotNegative,
    Positive,
    Precision,
    Share,
    checked,
)
from prompt_recovery.templates import Template

_BelowOne = Annotated[float, Ge(0), Lt(1)]
_OrUnlimited = Annotated[int, Ge(-1)]


@checked("batching")
@dataclass(frozen=True)
class Batching:
    """How examples become batches.

    Attributes:
        batch_size: most examples in a training batch (per process, before accumulation).
        batch_tokens: most tokens in a batch, padding included.
        eval_batch_size: most examples in an evaluation batch.
        max_prompt_tokens: longer recovery prompts have the middle of their texts cut out.
        workers: processes that prepare batches; 0 is fast enough for most.
    """

    batch_size: AtLeastOne = 4
    batch_tokens: AtLeastOne = 8192
    eval_batch_size: AtLeastOne = 32
    max_prompt_tokens: AtLeastOne = 184
    workers: Count = 0


@checked("optim")
@dataclass(frozen=True)
class Optimisation:
    """AdamW with linear warm-up and cosine decay to zero.

    Attributes:
        learning_rate: the highest.
        warmup: share of all steps, in [0, 1).
        weight_decay: decoupled.
        beta1: AdamW's.
        beta2: AdamW's.
    """

    learning_rate: Positive = 1.5e-3
    warmup: _BelowOne = 0.1
    weight_decay: NotNegative = 0.0
    beta1: _BelowOne = 0.9
    beta2: _BelowOne = 0.99

    def factor(self, step: int, steps: int) -> float:
        """The factor of the learning rate at a step in 0 … `steps`, in [0, 1].

        This isn't `transformers.get_cosine_schedule_with_warmup` because that one starts at 0,
        which wastes the first step; here the first of n warm-up steps has the factor 1 / n.
        """
        rising = max(round(self.warmup * steps), 1)
        if step < rising:
            return (step + 1) / rising
        share = (step - rising) / max(steps - rising, 1)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


@checked("logger")
@dataclass(frozen=True)
class Logging:
    """Where metrics go beside the run folder.

    Attributes:
        kind: wandb, csv or none.
        project: the W&B project.
        log_adapter: upload the adapter as a W&B artifact.
    """

    kind: Literal["wandb", "csv", "none"] = "none"
    project: str = "prompt-recovery"
    log_adapter: bool = False


def trainer_options(
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto",
    devices: _OrUnlimited | str | Sequence[int] = 1,
    strategy: str = "auto",
    num_nodes: AtLeastOne = 1,
    max_epochs: _OrUnlimited = 1,
    max_steps: _OrUnlimited = -1,
    accumulate_grad_batches: AtLeastOne = 1,
    gradient_clip_val: NotNegative | None = 1.0,
    log_every_n_steps: Count = 5,
    val_check_interval: AtLeastOne | Share = 1.0,
    enable_progress_bar: bool = True,
    **others: Any,
) -> dict[str, Any]:
    """Options of `lightning.Trainer`: those below, and any other that it has and a run leaves open.

    Args:
        accelerator: auto is a GPU if there is one, else the CPU.
        devices: how many, or auto for all.
        strategy: such as ddp; fsdp is this package's `FullySharded`.
        num_nodes: machines.
        max_epochs: -1 is no limit.
        max_steps: -1 is no limit.
        accumulate_grad_batches: batches to a step.
        gradient_clip_val: the largest norm of a gradient; None or 0 clips nothing.
        log_every_n_steps: between two logged steps.
        val_check_interval: in epochs (a share) or in batches (a whole number).
        enable_progress_bar: show one.
        others: `+trainer.limit_val_batches=2` and the like.
    """
    return {
        "accelerator": accelerator,
        "devices": devices,
        "strategy": strategy,
        "num_nodes": num_nodes,
        "max_epochs": max_epochs,
        "max_steps": max_steps,
        "accumulate_grad_batches": accumulate_grad_batches,
        "gradient_clip_val": gradient_clip_val,
        "log_every_n_steps": log_every_n_steps,
        "val_check_interval": val_check_interval,
        "enable_progress_bar": enable_progress_bar,
        **others,
    }


_OF_THE_RUN = {
    "self", "logger", "callbacks", "plugins", "default_root_dir", "use_distributed_sampler",
    "num_sanity_val_steps", "enable_model_summary", "inference_mode", "precision",
}  # fmt: skip


def _further_options() -> list[str]:
    """What else Lightning's trainer takes; asked only where one is given."""
    import lightning

    return [p for p in inspect.signature(lightning.Trainer.__init__).parameters
            if p not in _OF_THE_RUN]  # fmt: skip


trainer_options.other_settings = _further_options  # type: ignore[attr-defined]


@dataclass(kw_only=True)
class RunSettings:
    """What a run's configuration and its job share.

    Attributes:
        seed: of everything.
        precision: auto, bf16 or fp32; auto measures whether bf16 is faster here.
        gradient_checkpointing: keep only the layers' inputs and make the rest again in the backward
            pass: less memory for a third more time.
        checkpoint_minutes: between two writings of `checkpoints/last.ckpt`; 0 is every step.
        tags: of the W&B run.
        batching: batch sizes.
        optim: optimiser and schedule.
    """

    seed: Count = 0
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    checkpoint_minutes: NotNegative = 1.0
    tags: Sequence[str] = ()
    batching: Batching = field(default_factory=Batching)
    optim: Optimisation = field(default_factory=Optimisation)


@dataclass(kw_only=True)
class TrainSettings(RunSettings):
    """The settings of `conf/train.yaml`; its groups are chosen there.

    Attributes:
        data: the dataset.
        template: the recovery template.
        model: the backbone.
        adapter: what is trained on it.
        objective: the loss over completion trees.
        preferences: where an objective over pairs or groups gets them.
        metric: the metric.
        decoding: how answers are chosen, in validation and test.
        trainer: options of `lightning.Trainer`.
        logger: where metrics go.
        name: of the run and its folder.
        group: of W&B runs that belong together.
        ckpt_path: a checkpoint to resume from; `last` is the newest run's.
        start: an adapter folder, or a run, to start from; None is a new adapter.
        first_stage: a stage before this one: what is different in it.
        split: how the dataset is split.
        lead_ins: share of training rewrites that get a "Sure, here is …", as chat models say.
    """

    data: Dataset
    template: Template
    model: Backbone
    adapter: Adapter
    objective: Objective
    preferences: Preferences
    metric: SCS
    decoding: Decoding
    trainer: Mapping[str, Any]
    logger: Logging
    name: str
    group: str | None = None
    ckpt_path: LocalPath | None = None
    start: LocalPath | None = None
    first_stage: Mapping[str, Any] | None = None
    split: TrainingSplit = field(default_factory=TrainingSplit)
    lead_ins: Share = 0.0


@checked("")
@dataclass(kw_only=True)
class TrainingJob(RunSettings):
    """Everything a run needs, beside its settings.

    Attributes:
        dataset: where the splits come from, for records.
        splits: the examples.
        template: the recovery template.
        backbone: which causal LM.
        adapter: what is trained on it.
        objective: the loss over completion trees.
        scs: the metric.
        decoding: how answers are chosen, in validation and test.
        trainer: options of `lightning.Trainer`; the strategy "fsdp" is `FullySharded`.
        folder: where the run's files go; made if needed.
        logger: where metrics go.
        name: the W&B run.
        group: of W&B runs that belong together.
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
    decoding: Decoding
    trainer: dict[str, Any] = field(default_factory=trainer_options)
    folder: Path
    logger: Logging = field(default_factory=Logging)
    name: str = "run"
    group: str | None = None
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
