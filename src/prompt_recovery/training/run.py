"""A training run, from the input files to the final tables."""

import logging
import math
import time
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar

from prompt_recovery.backbones.precision import Precision, choose_precision
from prompt_recovery.metrics.e5 import second_opinion
from prompt_recovery.runs.environment import peak_memory_bytes
from prompt_recovery.runs.folder import RunFolder, recorded_config
from prompt_recovery.runs.processes import agreed, is_first, local_rank, together
from prompt_recovery.settings.extras import installation
from prompt_recovery.terminal import announced, covered, quiet
from prompt_recovery.training.checkpoints import (
    BestWeights,
    WholeCheckpointIO,
    last_checkpoint_callback,
    write_card,
)
from prompt_recovery.training.divergence import Divergence
from prompt_recovery.training.job import TrainingJob
from prompt_recovery.training.language_model import prepare_language_model
from prompt_recovery.training.module import WriterModule, train_metrics
from prompt_recovery.training.prepared import Hardware, Prepared
from prompt_recovery.training.progress import GoingOn, progress_callback
from prompt_recovery.training.results import (
    RunEvaluations,
    leave_behind,
    log_results,
    test_metrics,
)
from prompt_recovery.training.retriever import prepare_retriever
from prompt_recovery.training.tracking import forgiven, in_round, make_logger, recorded_run
from prompt_recovery.training.trainer import (
    ValidationInEachEpoch,
    usable_options,
    with_strategy,
)
from prompt_recovery.training.watch import HackingWatch

log = logging.getLogger(__name__)

_OF_CURVE = ("val/scs", "val/second_scs", "val/words")


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
    options = usable_options(job)
    if not job.splits.val:
        options = {**options, "limit_val_batches": 0}
    if options.get("limit_val_batches") == 0:
        log.warning(
            "no validation, since %s: the last weights are kept",
            "trainer.limit_val_batches=0" if job.splits.val else "split.val=0",
        )
    sharded = options.get("strategy") == "fsdp"
    L.seed_everything(job.seed, verbose=False)  # the workers that make batches draw nothing
    device = _device(options)
    hardware = Hardware(device, _precision(job.precision, device.type), sharded)
    log.info(
        "precision %s: %s",
        hardware.precision.name,
        hardware.precision.reason,
    )
    prepare = prepare_retriever if job.trains_retriever else prepare_language_model
    ready: Prepared = prepare(job, hardware)
    logger = is_first() and _logger(job, ready.record)
    watch = _watch(job, ready)
    best = BestWeights(ready.save, lambda: watch is not None and watch.refuses)
    curve = _Curve(job.run, watch)
    checkpoints = last_checkpoint_callback(job.run, job.checkpoint_minutes)
    # The watch looks at a validation before its weights are kept.
    watched: list[Callback] = [] if watch is None else [watch]
    callbacks: list[Callback] = [
        Divergence(), GoingOn(job.ckpt_path), *watched, best, curve, checkpoints,
        ValidationInEachEpoch(),
    ]  # fmt: skip
    if options.get("enable_progress_bar", True):
        callbacks.append(progress_callback())
        # Otherwise, Lightning would add its own bar to what is no bar.
        options["enable_progress_bar"] = isinstance(callbacks[-1], ProgressBar)
    trainer = L.Trainer(
        **with_strategy(options),
        logger=logger,
        callbacks=callbacks,
        plugins=[WholeCheckpointIO()],
        default_root_dir=job.folder,
        use_distributed_sampler=False,
        # Metric hacking is a change in what a trained model answers: the sanity check is its
        # validation before this training. A resumed one has what it showed in its checkpoint.
        num_sanity_val_steps=0 if watch is None or job.start is None else -1,
        enable_model_summary=False,
        inference_mode=not sharded,  # shards gathered in it could not be used in training
    )
    if job.trained is None:
        metrics = _fit(job, ready, trainer, best)
        metrics |= curve.at(best.best)
    else:
        best.weights = ready.take(job.trained)
        metrics = _training_metrics(RunFolder.of_adapter(job.trained))
    if not trainer.is_global_zero:
        return metrics
    metrics |= ready.finish(best.weights)
    evaluations: RunEvaluations | None = None
    if job.is_tested:
        evaluations = ready.evaluate(best.weights)
        metrics |= test_metrics(evaluations)
    before = job.seconds_before + ready.module.progress.seconds
    metrics["seconds"] = time.perf_counter() - started + before
    metrics["peak_memory_bytes"] = peak_memory_bytes()
    leave_behind(job, metrics, evaluations, curve.points)
    if job.weights_folder.is_dir():
        write_card(job.weights_folder, ready.card(metrics))
    if logger:
        with forgiven("the results"), announced("logging the results"):
            log_results(logger, job, metrics, evaluations)
    return metrics


def _fit(job: TrainingJob, ready: Prepared, trainer: Any, best: BestWeights) -> dict[str, float]:
    """Trains and returns the metrics of training."""
    trainable, total = ready.parameters
    ready.module.model.train()  # it was loaded in evaluation mode, without dropout
    started = time.perf_counter()
    with together(trainer), covered():
        trainer.fit(ready.module, ready.data, ckpt_path=job.ckpt_path, weights_only=True)
    seconds = time.perf_counter() - started + ready.module.progress.seconds
    said = ready.module.progress.metrics | train_metrics(trainer)
    if not best.weights:  # stopped before the first validation
        with together(trainer), covered():
            trainer.validate(ready.module, ready.data, verbose=False)
    trainer.strategy.barrier()  # wait until the weights are written
    if job.evaluate and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # the others do not wait for the evaluation
    return {
        **({"val/scs": best.best} if math.isfinite(best.best) else {}),
        **said,
        "train/seconds": seconds,
        "train/tokens_per_second": ready.module.train_tokens / seconds,
        "train/steps": trainer.global_step,
        "model/trainable_parameters": trainable,
        "model/parameters": total,
    }


def _training_metrics(run: RunFolder) -> dict[str, float]:
    """What a finished run measured in training."""
    prefixes = ("train/", "val/", "model/")
    return {k: v for k, v in (run.metrics() or {}).items() if k.startswith(prefixes)}


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
    agreed("PRECISION", lambda: precision.name)
    return precision


class _Curve(Callback):
    """Collects the metrics of each validation, and writes them to the run's folder.

    Attributes:
        points: `step`, `val/scs` and, if answers are watched, `val/second_scs`, `val/words` and
            `val/hacking`, which is 1 if there was a sign of metric hacking and otherwise 0. If
            watched training starts from a trained model, they begin with step 0, before it.
    """

    def __init__(self, run: RunFolder, watch: HackingWatch | None) -> None:
        self.run = run
        self.points: list[dict[str, float]] = []
        self._watch = watch

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        said = trainer.callback_metrics
        point = {"step": trainer.global_step}
        point |= {name: float(said[name]) for name in _OF_CURVE if name in said}
        if self._watch is not None:
            point["val/hacking"] = float(bool(self._watch.signs))
        self.points.append(point)
        self._write(trainer)

    def at(self, score: float) -> dict[str, float]:
        """Returns the other metrics of the validation that had this `val/scs`, if any."""
        found = [p for p in self.points if p["val/scs"] == score and p["step"]][:1]
        return {k: v for p in found for k, v in p.items() if k in _OF_CURVE}

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        # A resumed run may have no validation left that would write what it has loaded.
        self._write(trainer)

    def _write(self, trainer: Any) -> None:
        if trainer.is_global_zero and self.points:
            self.run.write_curve(self.points)

    def state_dict(self) -> dict[str, Any]:
        return {"points": [dict(p) for p in self.points]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.points = [
            dict(p) if isinstance(p, dict) else {"step": p[0], "val/scs": p[1]}
            for p in state_dict["points"]
        ]


def _watch(job: TrainingJob, ready: Prepared) -> HackingWatch | None:
    """Returns what looks for metric hacking if the objective learns from SCS."""
    if not isinstance(ready.module, WriterModule) or not job.learns_from_scs:
        return None
    second = second_opinion(job.scs)
    if second is None:
        log.warning(
            "metric hacking is not watched with a second encoder; to do so: %s",
            installation("second"),
        )
    ready.module.watch(job.scs, second)
    return HackingWatch(job.hacking)


def _quiet_libraries() -> None:
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    # `checkpoint_minutes` may be another one in a resumed run.
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*The dirpath has changed from.*")  # a resumed run
    warnings.filterwarnings("ignore", message=".*has `enable_progress_bar`.*")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    quiet()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _logger(job: TrainingJob, record: dict[str, Any]) -> Any:
    """Returns the logger. Rounds and their evaluation are one W&B run, and one CSV file each."""
    part = job.part if job.logger.kind == "wandb" else None
    run, config, name = job.run, job.config, job.name
    if part is not None:
        run, config, name = part.run, dict(part.config), part.config["name"]
    later = job.trained is not None or (part is not None and part.number > 1)
    # It shows what decides whether two runs can be compared, too.
    compared_by = {"data": record["data"], "metric": record["metric"]}
    logger = make_logger(
        job.logger.kind,
        run.path,
        job.logger.project,
        name,
        job.group,
        {**recorded_config(config), "compared_by": compared_by},
        list(job.tags),
        recorded_run(run.path if later else None, job.continues),
    )
    return in_round(logger, part.number, part.steps_before) if logger and part else logger
