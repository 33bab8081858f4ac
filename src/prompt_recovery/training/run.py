"""A training run, from the input files to the final tables."""

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar

from prompt_recovery.backbones.adapters import add_adapter, count_parameters, load_adapter
from prompt_recovery.backbones.load import load_model, load_tokenizer, quiet, require_four_bit
from prompt_recovery.backbones.locate import Location, locate
from prompt_recovery.backbones.precision import Precision, choose_precision
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.recorded import metric_record
from prompt_recovery.recovery.baselines import mean_prompt
from prompt_recovery.recovery.decoding import record
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.runs.environment import peak_memory_bytes
from prompt_recovery.runs.folder import RunFolder, adapter_folder, weights_digest
from prompt_recovery.runs.processes import agreed, fitting, is_first, local_rank, together
from prompt_recovery.storage import fingerprint
from prompt_recovery.templates import for_tokenizer
from prompt_recovery.training.checkpoints import (
    BestAdapter,
    WholeCheckpointIO,
    last_checkpoint_callback,
)
from prompt_recovery.training.datamodule import RecoveryData
from prompt_recovery.training.job import TrainingJob
from prompt_recovery.training.module import RecovererModule
from prompt_recovery.training.results import (
    RunEvaluations,
    evaluate_run,
    leave_behind,
    log_results,
    test_metrics,
)
from prompt_recovery.training.sharding import FullySharded
from prompt_recovery.training.tracking import make_logger
from prompt_recovery.training.trees import training_trees
from prompt_recovery.trees import causal_lm_of, trees_share_rows

log = logging.getLogger(__name__)


def train(job: TrainingJob) -> dict[str, float]:
    """Trains, evaluates on the test split, prints the tables and writes the run folder.

    If there are several processes, the first one evaluates and writes, and the others return when
    training has ended.

    Returns:
        The flat metrics of `metrics.json`. Processes other than the first return the metrics of
        training only.

    Raises:
        PromptRecoveryError: If the settings or the data are invalid, or a file cannot be read or
            written.
    """
    _quiet_libraries()
    started = time.perf_counter()
    options = fitting(job.trainer)
    sharded = options.get("strategy") == "fsdp"
    if job.adapter.four_bit:
        require_four_bit()
        if sharded:
            raise PromptRecoveryError(
                "trainer=fsdp cannot shard 4-bit weights: use trainer=ddp, or adapter=lora"
            )
    L.seed_everything(job.seed, workers=True, verbose=False)
    ready = _prepare(job, _device(options), sharded)
    logger = is_first() and make_logger(
        job.logger.kind,
        job.folder,
        job.logger.project,
        job.name,
        job.group,
        _logged(job, ready),
        list(job.tags),
    )
    best = BestAdapter(job.run.adapter, _recoverer_record(job, ready))
    curve = _Curve(job.run)
    checkpoints = last_checkpoint_callback(job.run, job.checkpoint_minutes)
    callbacks: list[Callback] = [best, curve, checkpoints]
    if options.get("enable_progress_bar", True):
        callbacks.append(RichProgressBar(leave=False))
    trainer = L.Trainer(
        **options | ({"strategy": FullySharded()} if sharded else {}),
        logger=logger,
        callbacks=callbacks,
        plugins=[WholeCheckpointIO()],
        default_root_dir=job.folder,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        inference_mode=not sharded,  # shards gathered in it could not be used in training
    )
    metrics = _fit(job, ready, trainer, best)
    if not trainer.is_global_zero:
        return metrics
    evaluations: RunEvaluations | None = None
    if job.evaluate:
        writer = _with_weights(job, ready, best.weights)
        evaluations = evaluate_run(job, writer, ready.fallback, ready.start_weights)
        metrics |= test_metrics(evaluations)
    metrics["seconds"] = time.perf_counter() - started + job.seconds_before
    metrics["peak_memory_bytes"] = peak_memory_bytes()
    leave_behind(job, metrics, evaluations, curve.points)
    if logger:
        log_results(logger, job, metrics, evaluations)
    return metrics


@dataclass
class _Ready:
    """Everything that training needs, loaded from files.

    Attributes:
        writer: Writer with the backbone and the adapter that training starts from.
        fallback: The mean prompt of the training split.
        data: The tokenised data.
        module: The Lightning module.
        location: Location of the backbone's files.
        precision: Precision of weights and computation.
        device: Device of this process.
        start_weights: Weights of the adapter that training starts from; empty for a new adapter.
    """

    writer: Writer
    fallback: str
    data: RecoveryData
    module: RecovererModule
    location: Location
    precision: Precision
    device: torch.device
    start_weights: dict[str, torch.Tensor]


def _prepare(job: TrainingJob, device: torch.device, sharded: bool) -> _Ready:
    precision = _precision(job.precision, device.type)
    log.info("precision %s: %s", str(precision.dtype).removeprefix("torch."), precision.reason)
    location = locate(job.backbone)
    tokenizer = load_tokenizer(job.backbone, location)
    # From here on, the job has the template that fits the tokenizer; the caller's stays as given.
    job = replace(job, template=for_tokenizer(job.template, tokenizer))
    model = _model(job, location, precision.dtype)
    if job.start is not None:
        log.info("starts from the adapter in %s; its settings replace adapter=…", job.start)
    writer = Writer(
        model=model,
        tokenizer=tokenizer,
        template=job.template,
        max_prompt_tokens=job.batching.max_prompt_tokens,
        name=f"{job.backbone.name} {job.objective.name}",
    )
    fallback = mean_prompt(job.scs, [e.rewrite_prompt for e in job.splits.train])
    started_with = fingerprint(
        location.identity,
        str(precision.dtype),
        job.adapter.four_bit,
        None if job.start is None else weights_digest(adapter_folder(job.start)),
    )
    if not sharded or job.objective.completions != "truth":
        model.to(device)  # otherwise, it is moved layer by layer when it is sharded
    training = training_trees(job, writer, started_with)
    sharing = trees_share_rows(causal_lm_of(model))
    data = RecoveryData(
        job.splits, job.template, tokenizer, job.batching, job.seed, training, sharing
    )
    _describe(job, data, model)
    identity = fingerprint(
        job.dataset.fingerprint(),
        started_with,
        asdict(job.adapter),
        asdict(job.template),
        [r.id for r in data.training.rows],
        job.batching.max_prompt_tokens,
    )
    start_weights = {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and job.start is not None
    }
    module = _module(job, writer, fallback, identity)
    return _Ready(writer, fallback, data, module, location, precision, device, start_weights)


def _module(job: TrainingJob, writer: Writer, fallback: str, identity: str) -> RecovererModule:
    length = job.decoding.max_new_tokens
    return RecovererModule(writer, job.objective, job.scs, job.optim, identity, length, fallback)


def _fit(job: TrainingJob, ready: _Ready, trainer: Any, best: BestAdapter) -> dict[str, float]:
    """Trains and returns the metrics of training."""
    trainable, total = count_parameters(ready.writer.model)
    ready.writer.model.train()  # it was loaded in evaluation mode, without dropout
    started = time.perf_counter()
    with together(trainer):
        trainer.fit(ready.module, ready.data, ckpt_path=job.ckpt_path, weights_only=True)
    seconds = time.perf_counter() - started
    said = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
    if not best.weights:  # stopped before the first validation
        with together(trainer):
            trainer.validate(ready.module, ready.data, verbose=False)
    trainer.strategy.barrier()  # wait until the adapter is written
    if job.evaluate and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # the others do not wait for the evaluation
    return {
        "val/scs": best.best,
        "train/loss": float("nan"),
        **said,
        "train/seconds": seconds,
        "train/tokens_per_second": ready.module.train_tokens / seconds,
        "train/steps": trainer.global_step,
        "model/trainable_parameters": trainable,
        "model/parameters": total,
    }


def _with_weights(job: TrainingJob, ready: _Ready, weights: dict[str, torch.Tensor]) -> Writer:
    """Returns the writer with the best weights. Its model is loaded again if it was sharded."""
    module = ready.module
    if module.sharded:
        module.cpu()
        model = _model(job, ready.location, ready.precision.dtype)
        writer = replace(module.writer, model=model)
        module = _module(job, writer, ready.fallback, module.fingerprint)
    module.load_trained_weights(weights)
    module.model.to(ready.device)
    return module.writer


def _device(options: dict[str, Any]) -> torch.device:
    """Returns the device that this process uses before the trainer exists."""
    if not torch.cuda.is_available() or options.get("accelerator") == "cpu":
        return torch.device("cpu")
    devices = options.get("devices")
    index = local_rank()
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        index = devices[index]
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


@cache
def _precision(wanted: str, device: str) -> Precision:
    """Does the same as `choose_precision`, but all processes use what the first one measures."""
    if wanted != "auto":
        return choose_precision(wanted, device)
    if not is_first():
        return choose_precision(agreed("PRECISION", lambda: wanted), device)
    precision = choose_precision(wanted, device)
    agreed("PRECISION", lambda: "bf16" if precision.dtype == torch.bfloat16 else "fp32")
    return precision


def _model(job: TrainingJob, location: Location, dtype: torch.dtype) -> Any:
    """Loads the backbone with the adapter that training starts from."""
    model = load_model(job.backbone, location, dtype, job.adapter.four_bit)
    if job.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if job.start is None:
        return add_adapter(model, job.adapter, dtype)
    return load_adapter(model, adapter_folder(job.start), dtype)


class _Curve(Callback):
    """Collects (step, val/scs) of each validation, and writes them to the run's folder."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.points: list[tuple[int, float]] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.points.append((trainer.global_step, float(trainer.callback_metrics["val/scs"])))
        if trainer.is_global_zero:
            self.run.write_curve(self.points)

    def state_dict(self) -> dict[str, Any]:
        return {"points": [list(p) for p in self.points]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.points = [(int(s), float(v)) for s, v in state_dict["points"]]


def _quiet_libraries() -> None:
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*The dirpath has changed from.*")  # a resumed run
    warnings.filterwarnings("ignore", message=".*has `enable_progress_bar`.*")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    quiet()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _describe(job: TrainingJob, data: RecoveryData, model: Any) -> None:
    trainable, total = count_parameters(model)
    log.info(
        "%s with %s: %s trainable of %s parameters (%.2f %%)",
        job.backbone.name,
        job.adapter.name if job.start is None else job.start.name,
        f"{trainable:,}",
        f"{total:,}",
        100 * trainable / total,
    )
    sizes = {name: len(getattr(job.splits, name)) for name in ("train", "val", "test")}
    log.info("data %s: %s", job.dataset.name, ", ".join(f"{n} {k}" for k, n in sizes.items()))
    for reason, count in job.dataset.dropped.items():
        log.warning("data %s: left out %d rows: %s", job.dataset.name, count, reason)
    for name, (prompts, characters) in data.cut_characters().items():
        if prompts:
            log.warning(
                "%s: cut %s characters from the middle of the texts of %d prompts "
                "(batching.max_prompt_tokens=%d)",
                name,
                f"{characters:,}",
                prompts,
                job.batching.max_prompt_tokens,
            )


def _logged(job: TrainingJob, ready: _Ready) -> dict[str, Any]:
    """Returns the configuration and the entries that decide whether two runs can be compared."""
    record = _recoverer_record(job, ready)
    return {**job.config, "compared_by": {"data": record["data"], "metric": record["metric"]}}


def _recoverer_record(job: TrainingJob, ready: _Ready) -> dict[str, Any]:
    """The content of `recoverer.yaml`, which `recovery.load.read_record` reads."""
    return {
        "backbone": asdict(job.backbone),
        "backbone_identity": ready.location.identity,
        "four_bit": job.adapter.four_bit,
        "template": asdict(ready.writer.template),
        "decoding": record(job.decoding),
        "max_prompt_tokens": job.batching.max_prompt_tokens,
        "fallback": ready.fallback,
        "objective": job.objective.name,
        "metric": metric_record(job.scs),
        "data": {"name": job.dataset.name, "fingerprint": job.dataset.fingerprint()},
    }
