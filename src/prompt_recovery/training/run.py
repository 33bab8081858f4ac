"""One training run, from files to the table at the end."""

import json
import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import Callback, RichProgressBar
from rich.progress import Progress
from transformers.utils.logging import disable_progress_bar

from prompt_recovery.backbones.adapters import Adapter, add_adapter, count_parameters
from prompt_recovery.backbones.load import load_model, load_tokenizer, require_four_bit
from prompt_recovery.backbones.locate import Backbone, locate
from prompt_recovery.backbones.precision import choose_precision
from prompt_recovery.cache import fingerprint, written_whole
from prompt_recovery.data.datamodule import Batching, RecoveryData
from prompt_recovery.data.examples import Dataset, RewriteExample
from prompt_recovery.data.splits import Splits
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.baselines import mean_prompt
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.evaluation import Evaluation, evaluate
from prompt_recovery.recovery.recoverer import (
    ConstantRecoverer,
    ModelRecoverer,
    Recoverer,
    pairs_of,
)
from prompt_recovery.reporting.charts import result_chart
from prompt_recovery.reporting.tables import (
    category_table,
    print_tables,
    result_table,
    sample_table,
)
from prompt_recovery.templates import Template
from prompt_recovery.training.checkpoints import BestAdapter, WholeCheckpointIO, last_checkpoint
from prompt_recovery.training.module import Optimisation, RecovererModule
from prompt_recovery.training.tracking import environment, make_logger, peak_memory_bytes

log = logging.getLogger(__name__)


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
        trainer: options of `lightning.Trainer`.
        folder: where the run's files go; made if needed.
        precision: auto, bf16 or fp32.
        seed: of everything.
        logger: wandb, csv or none.
        project: the W&B project.
        name: the W&B run.
        tags: of the W&B run.
        log_adapter: upload the adapter as a W&B artifact.
        checkpoint_minutes: between two writings of `checkpoints/last.ckpt`; 0 is every step.
        ckpt_path: a checkpoint to resume from.
        config: the run's configuration, for records.
    """

    dataset: Dataset
    splits: Splits
    template: Template
    backbone: Backbone
    adapter: Adapter
    objective: Any
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
    tags: list[str] = field(default_factory=list)
    log_adapter: bool = False
    checkpoint_minutes: float = 1.0
    ckpt_path: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


def train(job: TrainingJob) -> dict[str, float]:
    """Trains, evaluates on the test split, prints the tables and writes the run folder.

    Returns:
        The flat metrics of `metrics.json`.

    Raises:
        PromptRecoveryError: whatever the user can mend.
    """
    _quiet_libraries()
    started = time.perf_counter()
    if job.adapter.four_bit:
        require_four_bit()
    L.seed_everything(job.seed, workers=True, verbose=False)
    device = (
        "cuda" if torch.cuda.is_available() and job.trainer.get("accelerator") != "cpu" else "cpu"
    )
    precision = choose_precision(job.precision, device)
    log.info("precision %s: %s", str(precision.dtype).removeprefix("torch."), precision.reason)
    location = locate(job.backbone)
    tokenizer = load_tokenizer(job.backbone, location)
    data = RecoveryData(job.splits, job.template, tokenizer, job.batching, job.seed)
    _describe_data(job, data)
    model = load_model(job.backbone, location, precision.dtype, job.adapter.four_bit)
    model = add_adapter(model, job.adapter, precision.dtype)
    trainable, total = count_parameters(model)
    log.info(
        "%s with %s: %s trainable of %s parameters (%.2f %%)",
        job.backbone.name,
        job.adapter.name,
        f"{trainable:,}",
        f"{total:,}",
        100 * trainable / total,
    )
    fallback = mean_prompt(job.scs, [e.rewrite_prompt for e in job.splits.train])
    recoverer = ModelRecoverer(
        model,
        tokenizer,
        job.template,
        job.decoding,
        job.batching.max_prompt_tokens,
        fallback,
        name=f"{job.backbone.name} {job.objective.name}",
    )
    identity = fingerprint(
        job.dataset.fingerprint(),
        location.identity,
        asdict(job.adapter),
        asdict(job.template),
        [e.id for e in job.splits.train],
        job.batching.max_prompt_tokens,
        str(precision.dtype),
    )
    module = RecovererModule(recoverer, job.objective, job.scs, job.optim, identity)
    best = BestAdapter(job.folder / "adapter", _recoverer_record(job, fallback))
    curve = _Curve()
    logger = make_logger(job.logger, job.folder, job.project, job.name, job.config, job.tags)
    callbacks: list[Callback] = [
        best,
        curve,
        last_checkpoint(job.folder / "checkpoints", job.checkpoint_minutes),
    ]
    if job.trainer.get("enable_progress_bar", True):
        callbacks.append(RichProgressBar(leave=False))
    trainer = L.Trainer(
        **job.trainer,
        logger=logger,
        callbacks=callbacks,
        plugins=[WholeCheckpointIO()],
        default_root_dir=job.folder,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    model.train()  # loaded in evaluation mode; dropout, where there is any, is for training
    fit_started = time.perf_counter()
    trainer.fit(module, data, ckpt_path=job.ckpt_path, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    train_seconds = time.perf_counter() - fit_started
    train_loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
    if not best.weights:  # stopped before the first validation
        trainer.validate(module, data, verbose=False)
    metrics = {
        "val/scs": best.best,
        "train/loss": train_loss,
        "train/seconds": train_seconds,
        "train/tokens_per_second": module.train_tokens / train_seconds,
        "train/steps": trainer.global_step,
        "model/trainable_parameters": trainable,
        "model/parameters": total,
    }
    if not trainer.is_global_zero:
        return metrics
    if best.weights:
        module.load_trained_weights(best.weights)
    model.to(device)
    evaluations = evaluate_recoverers(
        [
            recoverer,
            ModelRecoverer(
                **{**vars(recoverer), "adapter": False, "name": f"{job.backbone.name} zero-shot"}
            ),
            ConstantRecoverer(fallback),
        ],
        job.splits.test,
        job.scs,
    )
    metrics |= _test_metrics(evaluations)
    metrics["seconds"] = time.perf_counter() - started
    metrics["peak_memory_bytes"] = peak_memory_bytes()
    _leave_behind(job, metrics, evaluations, curve.points)
    if logger:
        _log_results(logger, job, metrics, evaluations[0])
    return metrics


def evaluate_recoverers(
    recoverers: Sequence[Recoverer], examples: Sequence[RewriteExample], scs: SCS
) -> list[Evaluation]:
    """Runs recoverers on the same examples, in order, with a progress bar."""
    pairs = pairs_of(examples)
    evaluations = []
    for recoverer in recoverers:
        with Progress(transient=True) as progress:
            task = progress.add_task(f"recovering: {recoverer.name}", total=len(pairs))
            start = time.perf_counter()
            predictions = recoverer.recover(pairs, lambda n, t=task: progress.advance(t, n))  # type: ignore[misc]
            seconds = time.perf_counter() - start
        evaluations.append(evaluate(recoverer.name, predictions, examples, scs, seconds))
    return evaluations


class _Curve(Callback):
    """Remembers (step, val/scs)."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.points.append((trainer.global_step, float(trainer.callback_metrics["val/scs"])))

    def state_dict(self) -> dict[str, Any]:
        return {"points": [list(p) for p in self.points]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.points = [(int(s), float(v)) for s, v in state_dict["points"]]


def _quiet_libraries() -> None:
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*has `enable_progress_bar`.*")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*is deprecated.*")
    disable_progress_bar()  # of reading weights, over in a second
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _describe_data(job: TrainingJob, data: RecoveryData) -> None:
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


def _recoverer_record(job: TrainingJob, fallback: str) -> dict[str, Any]:
    return {
        "backbone": asdict(job.backbone),
        "template": asdict(job.template),
        "decoding": asdict(job.decoding),
        "max_prompt_tokens": job.batching.max_prompt_tokens,
        "fallback": fallback,
        "objective": job.objective.name,
        "metric": {"encoder": job.scs.encoder.identity, "exponent": job.scs.exponent},
        "data": {"name": job.dataset.name, "fingerprint": job.dataset.fingerprint()},
    }


def _test_metrics(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    trained, zero_shot, constant = evaluations
    return {
        "test/scs": float(trained.scs.mean()),
        "test/scs_ci_low": trained.interval[0],
        "test/scs_ci_high": trained.interval[1],
        "test/cosine": float(trained.cosine.mean()),
        "test/exact_match": float(trained.exact.mean()),
        "test/examples": len(trained.scs),
        "baseline/zero_shot_scs": float(zero_shot.scs.mean()),
        "baseline/mean_prompt_scs": float(constant.scs.mean()),
    }


def _leave_behind(
    job: TrainingJob,
    metrics: dict[str, float],
    evaluations: Sequence[Evaluation],
    curve: Sequence[tuple[int, float]],
) -> None:
    test = job.splits.test
    with (
        written_whole(job.folder / "predictions.jsonl") as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):
        for i, example in enumerate(test):
            row = asdict(example) | {
                "prediction": evaluations[0].predictions[i].rewrite_prompt,
                "fallback": evaluations[0].predictions[i].fallback,
                "scs": round(float(evaluations[0].scs[i]), 6),
                "zero_shot": evaluations[1].predictions[i].rewrite_prompt,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    with written_whole(job.folder / "environment.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(environment(), sort_keys=False), encoding="utf-8")
    result_chart(evaluations, curve, job.folder / "results.png")
    with written_whole(job.folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print_tables(
        sample_table(evaluations[0], test),
        category_table(evaluations, test),
        result_table(evaluations, f"Test: {len(test)} examples, prompts never seen in training"),
    )
    log.info(
        "%.0f s in all, %.1f GiB at most; run folder %s",
        metrics["seconds"],
        metrics["peak_memory_bytes"] / 2**30,
        job.folder,
    )


def _log_results(
    logger: Any, job: TrainingJob, metrics: dict[str, float], evaluation: Evaluation
) -> None:
    logger.log_metrics({k: v for k, v in metrics.items() if np.isfinite(v)})
    if job.logger == "wandb":
        rows = [
            [e.id, e.category, e.original_text, e.rewritten_text, e.rewrite_prompt,
             p.rewrite_prompt, float(s)]
            for e, p, s in zip(job.splits.test, evaluation.predictions, evaluation.scs, strict=True)
        ]  # fmt: skip
        columns = ["id", "category", "original_text", "rewritten_text", "rewrite_prompt",
                   "prediction", "scs"]  # fmt: skip
        logger.log_table("test/predictions", columns=columns, data=rows)
        if job.log_adapter:
            import wandb

            artifact = wandb.Artifact(f"adapter-{logger.experiment.id}", type="model")
            artifact.add_dir(str(job.folder / "adapter"))
            logger.experiment.log_artifact(artifact)
        logger.experiment.finish()
    else:
        logger.finalize("success")
