"""The job of a training run, and the settings in `conf/train.yaml`."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt

from prompt_recovery.backbones.encoders import EncoderBackbone, locate_encoder
from prompt_recovery.backbones.locate import Backbone, locate
from prompt_recovery.backbones.low_rank import Adapter, AllWeights
from prompt_recovery.data.examples import Dataset
from prompt_recovery.data.lead_ins import with_lead_ins
from prompt_recovery.data.splits import Splits, TrainingSplit, split
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.objectives import Contrastive, Objective, PolicyGradient
from prompt_recovery.preferences import Preferences, require_preferences
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.pairs import PairColumns
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
from prompt_recovery.settings.checking import make
from prompt_recovery.settings.extras import require_extra
from prompt_recovery.templates import Template
from prompt_recovery.training.tracking import require_loggable

_BelowOne = Annotated[float, Ge(0), Lt(1)]
_OrUnlimited = Annotated[int, Ge(-1)]


@checked("batching")
@dataclass(frozen=True)
class Batching:
    """Settings of batches.

    Attributes:
        batch_size: Maximum number of examples in a training batch, per process and before
            accumulation.
        batch_tokens: Maximum number of tokens in a batch, including padding.
        eval_batch_size: Maximum number of examples in an evaluation batch.
        max_prompt_tokens: Maximum number of tokens of the template and both texts. Longer texts are
            shortened in the middle.
        group_originals: Whether examples of the same original text come in the same training
            batches where they can, so that what the model makes of the original is computed once
            for all of them. It has no effect if the attention doesn't let trees share rows, and
            saves nothing if the template puts the rewritten text first.
        workers: Number of processes that prepare batches. 0 is usually fast enough.
    """

    batch_size: AtLeastOne = 4
    batch_tokens: AtLeastOne = 8192
    eval_batch_size: AtLeastOne = 32
    max_prompt_tokens: AtLeastOne = 184
    group_originals: bool = True
    workers: Count = 0


@checked("optim")
@dataclass(frozen=True)
class Optimisation:
    """AdamW with linear warm-up and cosine decay to zero.

    Attributes:
        learning_rate: The peak learning rate. With start=…, a language model's default is a fifth
            of it, because large steps would make trained weights forget what they know.
        warmup: Share of warm-up steps in all steps, in [0, 1).
        weight_decay: Decoupled weight decay.
        beta1: Decay rate of AdamW's first moment.
        beta2: Decay rate of AdamW's second moment.
    """

    learning_rate: Positive = 1.5e-3
    warmup: _BelowOne = 0.1
    weight_decay: NotNegative = 0.0
    beta1: _BelowOne = 0.9
    beta2: _BelowOne = 0.99

    def factor(self, step: int, steps: int) -> float:
        """Returns the factor of the learning rate, in [0, 1], at a step from 0 to `steps`.

        `transformers.get_cosine_schedule_with_warmup` is not used because it starts at 0 and thus
        wastes the first step. Here, the first of n warm-up steps has the factor 1 / n.
        """
        rising = max(round(self.warmup * steps), 1)
        if step < rising:
            return (step + 1) / rising
        share = (step - rising) / max(steps - rising, 1)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


@checked("logger")
@dataclass(frozen=True)
class Logging:
    """Settings of the logger, which receives metrics in addition to the run folder.

    Attributes:
        kind: wandb, csv or none.
        project: The W&B project.
        log_adapter: Upload the adapter as a W&B artifact.
    """

    kind: Literal["wandb", "csv", "none"] = "none"
    project: str = "prompt-recovery"
    log_adapter: bool = False


def trainer_options(
    accelerator: Literal["auto", "cpu", "gpu", "cuda"] = "auto",
    devices: Literal["auto"] | _OrUnlimited | Sequence[int] = 1,
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
    """Returns options of `lightning.Trainer`: those below, and any that a run does not set itself.

    Args:
        accelerator: auto uses a CUDA GPU if there is one, otherwise the CPU. Apple's GPUs are not
            used: they have no 64-bit floats.
        devices: Number or indices of the devices; auto and -1 use all.
        strategy: A strategy such as ddp; fsdp is this package's `FullySharded`.
        num_nodes: Number of machines.
        max_epochs: Maximum number of epochs; -1 sets no limit.
        max_steps: Maximum number of optimiser steps; -1 sets no limit.
        accumulate_grad_batches: Number of batches per optimiser step.
        gradient_clip_val: Maximum norm of the gradient; None or 0 turns clipping off.
        log_every_n_steps: Number of steps between two log entries.
        val_check_interval: Interval between validations, as a share of an epoch or as a whole
            number of batches. Where an epoch turns out to have fewer, validation comes at its end.
        enable_progress_bar: Show a progress bar.
        others: Other options of the trainer, such as `+trainer.limit_val_batches=2`.
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
    """Returns the other options of Lightning's trainer. Called only if one is given."""
    import lightning

    return [p for p in inspect.signature(lightning.Trainer.__init__).parameters
            if p not in _OF_THE_RUN]  # fmt: skip


trainer_options.other_settings = _further_options  # type: ignore[attr-defined]


@dataclass(kw_only=True)
class RunSettings:
    """Settings shared by a run's configuration and its job.

    Attributes:
        seed: Seed of all random choices except the split.
        precision: auto, bf16, fp32 or int8. auto measures whether bf16 is faster on this device.
            int8 lets the frozen linear layers of a language model multiply 8-bit integers, on CPUs:
            two to three times as fast as fp32 where the processor has AVX512-VNNI, and in half the
            memory of bf16 weights; all else is fp32.
        gradient_checkpointing: Keep only the layers' inputs and recompute the rest in the backward
            pass, which saves memory and takes a third more time.
        keep_hidden_states: Keep the hidden states of the layers below the lowest adapter on the
            disk, in `hidden_states/` of the cache. From the second epoch on, and in later runs on
            the same data, a step begins at the lowest adapter, which with `adapter=lora_top` leaves
            out 43 % of the arithmetic. The results are the same up to rounding. It takes 2 bytes in
            bf16 or 4 in fp32 per token and dimension: for the starter dataset, about 0.6 GB with
            SmolLM2 and 1.8 GB with Qwen2.5-1.5B, in fp32.
        checkpoint_minutes: Minutes between two writes of `checkpoints/last.ckpt`; 0 writes it
            after every step.
        tags: Tags of the W&B run.
        batching: Batch sizes.
        optim: Optimiser and schedule.
        hacking: What happens if the metric is hacked: objectives that learn from SCS can raise it
            with answers that only its encoder likes. Each validation is compared with the first
            one, to see whether the SCS under a second encoder (extra `second`) or the length has
            fallen while the SCS has risen. "warn" says so; "stop" also ends the training, with the
            best weights from before. If training starts from a trained recoverer, the first
            validation takes place before it.
        probe: Fit a linear probe to a language model at the end of its training, which reads the
            embedding of the prompt from the model's hidden state and makes a retriever of it as
            well. The model reads all training examples once more for it.
    """

    seed: Count = 0
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    keep_hidden_states: bool = False
    checkpoint_minutes: NotNegative = 1.0
    tags: Sequence[str] = ()
    batching: Batching = field(default_factory=Batching)
    optim: Optimisation = field(default_factory=Optimisation)
    hacking: Literal["warn", "stop"] = "warn"
    probe: bool = True


@checked("unlabelled")
@dataclass(frozen=True)
class UnlabelledPairs:
    """A file of pairs whose prompts nobody knows, for self-training with a policy gradient.

    The reward of what the model writes for such a pair is its expected SCS under the posterior of
    the dense retriever.

    Attributes:
        path: CSV, JSONL or Parquet. None trains on the dataset alone.
        columns: What the file calls its columns; columns.id=null numbers the rows from 0.
    """

    path: LocalPath | None = None
    columns: PairColumns = field(default_factory=PairColumns)


@dataclass(kw_only=True)
class TrainSettings(RunSettings):
    """The settings in `conf/train.yaml`, which also chooses its groups.

    Attributes:
        data: The dataset to train on.
        template: The recovery template, which makes the model's input from the two texts.
        model: The backbone: a causal LM, or a sentence encoder for a retriever.
        adapter: The adapter that is trained, or all weights of a sentence encoder.
        objective: The loss: over completion trees, a policy gradient over completions that are
            sampled in training, or contrastive for a retriever.
        preferences: Where objectives over pairs or groups get their preferences.
        metric: The metric by which answers are scored.
        decoding: How answers are chosen in the test; its length limit also holds in validation.
        trainer: Options of `lightning.Trainer`.
        logger: Where metrics are logged.
        name: Name of the run and its folder.
        group: Name of a group of W&B runs.
        ckpt_path: A checkpoint to resume from; `last` is the newest one of an unfinished run with
            these settings.
        start: An adapter folder or a run to start from; a first stage starts there, too. None
            trains a new adapter.
        first_stage: Settings of an earlier training stage, where they differ from these. None
            trains no such stage.
        retriever: Settings of a dense retriever, where they differ from these. It is trained
            before the language model, and answers together with it; `run` names a finished one to
            use instead. None trains no retriever.
        rounds: The number of rounds of preference optimisation. Each round samples candidates from
            the model that the previous one left, adds them to earlier candidates, and continues
            training. 1 trains once.
        round_reference: The reference model of later rounds: "previous" is the model that the
            previous round left, as in iterative DPO (arXiv 2312.16682); "first" is the one that the
            first round started from.
        round_patience: Number of consecutive rounds without a better validation after which rounds
            stop.
        unlabelled: Pairs without prompts, on which a policy gradient trains the model itself.
        split: How the dataset is split.
        lead_ins: Share of training rewrites to which a lead-in of chat models, such as "Sure, here
            is …", is added.
    """

    data: Dataset
    template: Template
    model: Backbone | EncoderBackbone
    adapter: Adapter | AllWeights
    objective: Objective | PolicyGradient | Contrastive
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
    retriever: Mapping[str, Any] | None = None
    rounds: AtLeastOne = 1
    round_reference: Literal["previous", "first"] = "previous"
    round_patience: AtLeastOne = 1
    unlabelled: UnlabelledPairs = field(default_factory=UnlabelledPairs)
    split: TrainingSplit = field(default_factory=TrainingSplit)
    lead_ins: Share = 0.0


@dataclass(frozen=True)
class PartOfRun:
    """A round of preference optimisation, as a part of the run that it is logged in.

    Attributes:
        number: The number of the round, from 1.
        run: The whole run.
        config: The configuration of the whole run.
        steps_before: The number of steps in earlier rounds.
    """

    number: int
    run: RunFolder
    config: Mapping[str, Any]
    steps_before: int


@checked("")
@dataclass(kw_only=True)
class TrainingJob(RunSettings):
    """Everything that a training run needs, in addition to its settings.

    Attributes:
        dataset: The dataset that the splits come from, for records.
        splits: The examples.
        template: The recovery template.
        backbone: The pretrained causal LM, or the sentence encoder of a retriever.
        adapter: The adapter that is trained, or all weights of a sentence encoder.
        objective: The loss: over completion trees, a policy gradient over completions that are
            sampled in training, or contrastive for a retriever.
        scs: The metric.
        decoding: How answers are chosen in the test; its length limit also holds in validation.
        trainer: Options of `lightning.Trainer`; the strategy "fsdp" is `FullySharded`.
        folder: Folder of the run's files, created if necessary.
        logger: Where metrics are logged.
        name: Name of the W&B run.
        group: Name of a group of W&B runs.
        ckpt_path: A checkpoint to resume from.
        start: An adapter folder or a run to start from. None trains a new adapter.
        seconds_before: How long the run had taken when the stage began, in seconds: its imports and
            earlier stages.
        preferences: Where objectives over pairs or groups get their preferences.
        evaluate: Whether to evaluate on the test split at the end.
        retriever: A trained retriever in the run's folder that answers with the language model.
        trained: An adapter that rounds have trained: nothing more is trained, and it is evaluated.
        unlabelled: Pairs without prompts, on which a policy gradient trains the model itself.
        reference: The reference model of preferences: what training starts from ("start"), the
            bare backbone, or an adapter folder.
        part: The round of a run that this is. None for everything else.
        continues: The folder of a stopped run, whose W&B run goes on. None begins another one.
        config: The run's configuration, for records.
    """

    dataset: Dataset
    splits: Splits
    template: Template
    backbone: Backbone | EncoderBackbone
    adapter: Adapter | AllWeights
    objective: Objective | PolicyGradient | Contrastive
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
    retriever: Path | None = None
    trained: Path | None = None
    unlabelled: UnlabelledPairs = field(default_factory=UnlabelledPairs)
    reference: Path | Literal["start", "backbone"] = "start"
    part: PartOfRun | None = None
    continues: Path | None = None
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_fitting(self.backbone, self.adapter, self.objective)
        if isinstance(self.objective, PolicyGradient):
            _require_sampling(self)
        elif self.unlabelled.path is not None:
            raise PromptRecoveryError(
                f"unlabelled.path={self.unlabelled.path}: objective={self.objective.name} needs "
                "true prompts; give a policy gradient such as objective=grpo"
            )
        require_loggable(self.logger.kind, self.logger.project, list(self.tags))

    @property
    def run(self) -> RunFolder:
        """The run's files."""
        return RunFolder(self.folder)

    @property
    def is_tested(self) -> bool:
        """Whether the test split is answered at the end."""
        return self.evaluate and bool(self.splits.test)

    @property
    def trains_retriever(self) -> bool:
        """Whether a dense retriever is trained, and not the adapter of a language model."""
        return isinstance(self.objective, Contrastive)

    @property
    def learns_from_scs(self) -> bool:
        """Whether completions are preferred by their SCS, rather than true prompts imitated."""
        policy = isinstance(self.objective, PolicyGradient)
        return policy or getattr(self.objective, "completions", "truth") != "truth"

    @property
    def weights_folder(self) -> Path:
        """The folder of the best weights so far."""
        return self.run.retriever if self.trains_retriever else self.run.adapter


def require_fitting(
    model: Backbone | EncoderBackbone,
    adapter: Adapter | AllWeights,
    objective: Objective | PolicyGradient | Contrastive,
) -> None:
    """Checks that backbone, adapter and objective belong to one kind of recoverer.

    Raises:
        PromptRecoveryError: If they do not.
    """
    contrastive = isinstance(objective, Contrastive)
    if contrastive and not isinstance(model, EncoderBackbone):
        raise PromptRecoveryError(
            f"objective=contrastive trains a sentence encoder, and model={model.name} is a "
            "language model: give model=minilm (or model=mpnet), or objective=sft"
        )
    if not contrastive and not isinstance(model, Backbone):
        raise PromptRecoveryError(
            f"objective={objective.name} trains a language model, and model={model.name} is a "
            "sentence encoder: give objective=contrastive, or a model such as model=smollm2"
        )
    if not contrastive and not isinstance(adapter, Adapter):
        raise PromptRecoveryError(
            f"adapter={adapter.name} is for sentence encoders: a language model is trained through "
            "an adapter such as adapter=lora"
        )
    if contrastive and isinstance(adapter, Adapter) and adapter.four_bit:
        raise PromptRecoveryError(
            "adapter=qlora is for language models: a sentence encoder takes adapter=full or "
            "adapter=lora"
        )


def _require_sampling(job: TrainingJob) -> None:
    """Refuses what does not go with completions that are sampled in training."""
    if job.keep_hidden_states:
        raise PromptRecoveryError(
            f"objective={job.objective.name} samples new completions for every batch, whose hidden "
            "states cannot be kept: give keep_hidden_states=false"
        )
    if job.objective.updates > 1 and job.trainer.get("accumulate_grad_batches", 1) > 1:  # type: ignore[union-attr]
        raise PromptRecoveryError(
            "objective.updates repeats batches, and trainer.accumulate_grad_batches puts them "
            "together: set one of them to 1"
        )


def job_of(config: dict[str, Any], run: RunFolder, **stage: Any) -> TrainingJob:
    """Returns the job described by checked settings.

    Args:
        config: The values of `TrainSettings`.
        run: The run that the job's files belong to.
        stage: Fields of the job that say where it resumes and what came before it.
    """
    given: TrainSettings = make(config, TrainSettings)
    require_fitting(given.model, given.adapter, given.objective)
    # What can fail fails here, before torch and its friends are imported.
    if isinstance(given.adapter, Adapter) and given.adapter.four_bit:
        require_extra("qlora", "adapter=qlora, which is for CUDA GPUs,", "use adapter=lora")
    if isinstance(given.model, EncoderBackbone):
        locate_encoder(given.model)
    else:
        locate(given.model)
    splits = split(given.data, **vars(given.split))
    if isinstance(given.objective, Objective) and given.objective.completions != "truth":
        require_preferences(given.preferences, given.data.name, splits)
    return TrainingJob(
        dataset=given.data,
        splits=replace(splits, train=with_lead_ins(splits.train, given.lead_ins)),
        template=given.template,
        backbone=given.model,
        adapter=given.adapter,
        objective=given.objective,
        preferences=given.preferences,
        unlabelled=given.unlabelled,
        scs=given.metric,
        decoding=given.decoding,
        trainer=dict(given.trainer),
        logger=given.logger,
        name=given.name,
        group=given.group,
        folder=run.path,
        config=config,
        **{f.name: getattr(given, f.name) for f in fields(RunSettings)},
        **stage,
    )
