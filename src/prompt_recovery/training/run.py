"""One training run, from files to the table at the end."""

import hashlib
import json
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import Callback, RichProgressBar
from rich.progress import Progress
from transformers.utils.logging import disable_progress_bar

from prompt_recovery.backbones.adapters import (
    Adapter,
    add_adapter,
    count_parameters,
    load_adapter,
)
from prompt_recovery.backbones.load import load_model, load_tokenizer, require_four_bit
from prompt_recovery.backbones.locate import Backbone, locate
from prompt_recovery.backbones.precision import choose_precision
from prompt_recovery.cache import fingerprint, written_whole
from prompt_recovery.data.datamodule import (
    Batching,
    RecoveryData,
    TrainingTrees,
    preference_trees,
)
from prompt_recovery.data.examples import Dataset, RewriteExample
from prompt_recovery.data.splits import Splits
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.metrics.statistics import bootstrap_interval
from prompt_recovery.objectives import Objective
from prompt_recovery.preferences import (
    Preferences,
    prepare_preferences,
    reference_log_probabilities,
)
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
        start: an adapter folder (or a run's) to start from; None is a new adapter.
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
    tags: list[str] = field(default_factory=list)
    log_adapter: bool = False
    checkpoint_minutes: float = 1.0
    ckpt_path: str | None = None
    start: Path | None = None
    preferences: Preferences = field(default_factory=Preferences)
    evaluate: bool = True
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
    model = load_model(job.backbone, location, precision.dtype, job.adapter.four_bit)
    if job.start is None:
        model = add_adapter(model, job.adapter, precision.dtype)
    else:
        model = load_adapter(model, adapter_folder(job.start), precision.dtype)
        log.info("starts from the adapter in %s; its settings hold, not adapter=…", job.start)
    trainable, total = count_parameters(model)
    log.info(
        "%s with %s: %s trainable of %s parameters (%.2f %%)",
        job.backbone.name,
        job.adapter.name if job.start is None else job.start.name,
        f"{trainable:,}",
        f"{total:,}",
        100 * trainable / total,
    )
    fallback = mean_prompt(job.scs, [e.rewrite_prompt for e in job.splits.train])
    recoverer = ModelRecoverer(
        model=model,
        tokenizer=tokenizer,
        template=job.template,
        decoding=job.decoding,
        max_prompt_tokens=job.batching.max_prompt_tokens,
        fallback=fallback,
        name=f"{job.backbone.name} {job.objective.name}",
    )
    started_with = fingerprint(
        location.identity,
        str(precision.dtype),
        job.adapter.four_bit,
        None if job.start is None else _weights_digest(adapter_folder(job.start)),
    )
    model.to(device)
    training = _training_trees(job, recoverer, started_with)
    data = RecoveryData(
        job.splits, job.template, tokenizer, job.batching, job.seed, training
    )
    _describe_data(job, data)
    identity = fingerprint(
        job.dataset.fingerprint(),
        started_with,
        asdict(job.adapter),
        asdict(job.template),
        [r.id for r in data.training.rows],
        job.batching.max_prompt_tokens,
    )
    start_weights = {n: p.detach().cpu().clone() for n, p in model.named_parameters()
                     if p.requires_grad} if job.start else {}  # fmt: skip
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
    for name in ("train/chosen_log_probability", "train/margin", "train/accuracy"):
        if name in trainer.callback_metrics:
            metrics[name] = float(trainer.callback_metrics[name])
    if not trainer.is_global_zero:
        return metrics
    module.load_trained_weights(best.weights)
    model.to(device)
    evaluations = _evaluate(job, recoverer, start_weights) if job.evaluate else []
    if evaluations:
        metrics |= _test_metrics(evaluations)
    metrics["seconds"] = time.perf_counter() - started
    metrics["peak_memory_bytes"] = peak_memory_bytes()
    _leave_behind(job, metrics, evaluations, curve.points)
    if logger:
        _log_results(logger, job, metrics, evaluations)
    return metrics


def _training_trees(
    job: TrainingJob, recoverer: ModelRecoverer, started_with: str
) -> TrainingTrees | None:
    """The preferences of an objective that needs them, with reference log-probabilities."""
    objective = job.objective
    if objective.completions == "truth":
        return None
    preferences = prepare_preferences(
        job.preferences,
        job.splits,
        recoverer,
        job.scs,
        started_with,
        group=objective.completions == "group",
        seed=job.seed,
        folder=job.folder / "preferences",
    )
    training = preference_trees(
        preferences,
        job.splits.train,
        job.template,
        recoverer.tokenizer,
        job.batching.max_prompt_tokens,
    )
    if objective.uses_reference:
        recoverer.model.eval()
        with Progress(transient=True) as progress, reference_adapter(recoverer.model, job.start):
            task = progress.add_task("reference log-probabilities", total=len(training.rows))
            training.reference = reference_log_probabilities(
                recoverer.model,
                training.trees(),
                started_with,
                int(recoverer.tokenizer.pad_token_id),
                job.batching.batch_tokens,
                lambda n: progress.advance(task, n),
            )
    return training


def reference_adapter(model: Any, start: Path | None) -> AbstractContextManager[Any]:
    """The reference is the model as training finds it: a new adapter changes nothing, so it is
    switched off, which is faster."""
    context: AbstractContextManager[Any] = model.disable_adapter() if start is None else nullcontext()
    return context


def adapter_folder(path: Path) -> Path:
    """The adapter folder that `start=` means: itself, or that of a run."""
    return path / "adapter" if (path / "adapter").is_dir() else path


def _weights_digest(folder: Path) -> str:
    weights = folder / "adapter_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else ""


def _evaluate(
    job: TrainingJob, recoverer: ModelRecoverer, start_weights: dict[str, torch.Tensor]
) -> list[Evaluation]:
    """On the test split: the trained recoverer, what it started from, and the baselines."""
    examples, scs = job.splits.test, job.scs
    evaluations = evaluate_recoverers([recoverer], examples, scs)
    if start_weights:
        with torch.no_grad():
            for name, parameter in recoverer.model.named_parameters():
                if name in start_weights:
                    parameter.copy_(start_weights[name])
        start = replace(recoverer, name="before " + job.objective.name)
        evaluations += evaluate_recoverers([start], examples, scs)
    zero_shot = replace(recoverer, adapter=False, name=f"{job.backbone.name} zero-shot")
    constant = ConstantRecoverer(recoverer.fallback)
    return evaluations + evaluate_recoverers([zero_shot, constant], examples, scs)


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
    trained, *before, zero_shot, constant = evaluations
    metrics = {
        "test/scs": float(trained.scs.mean()),
        "test/scs_ci_low": trained.interval[0],
        "test/scs_ci_high": trained.interval[1],
        "test/cosine": float(trained.cosine.mean()),
        "test/exact_match": float(trained.exact.mean()),
        "test/examples": len(trained.scs),
        "baseline/zero_shot_scs": float(zero_shot.scs.mean()),
        "baseline/mean_prompt_scs": float(constant.scs.mean()),
    }
    for start in before:
        gain = trained.scs - start.scs
        low, high = bootstrap_interval(gain)
        metrics |= {
            "test/start_scs": float(start.scs.mean()),
            "test/gain": float(gain.mean()),
            "test/gain_ci_low": low,
            "test/gain_ci_high": high,
        }
    return metrics


def _leave_behind(
    job: TrainingJob,
    metrics: dict[str, float],
    evaluations: Sequence[Evaluation],
    curve: Sequence[tuple[int, float]],
) -> None:
    test = job.splits.test
    if evaluations:
        with (
            written_whole(job.folder / "predictions.jsonl") as temporary,
            temporary.open("w", encoding="utf-8") as file,
        ):
            for row in _predictions(test, evaluations):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        result_chart(evaluations, curve, job.folder / "results.png")
    with written_whole(job.folder / "environment.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(environment(), sort_keys=False), encoding="utf-8")
    with written_whole(job.folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    if evaluations:
        print_tables(
            sample_table(evaluations[0], test),
            category_table(evaluations, test),
            result_table(evaluations, f"Test: {len(test)} examples, prompts never seen in training"),
        )
    if "test/gain" in metrics:
        log.info(
            "%s against what it started from: %+.4f SCS (95 %% interval %+.4f … %+.4f, paired)",
            job.objective.name,
            metrics["test/gain"],
            metrics["test/gain_ci_low"],
            metrics["test/gain_ci_high"],
        )
    log.info(
        "%.0f s in all, %.1f GiB at most; run folder %s",
        metrics["seconds"],
        metrics["peak_memory_bytes"] / 2**30,
        job.folder,
    )


def _predictions(
    test: Sequence[RewriteExample], evaluations: Sequence[Evaluation]
) -> Iterator[dict[str, Any]]:
    trained, *before, zero_shot, _ = evaluations
    for i, example in enumerate(test):
        row = asdict(example) | {
            "prediction": trained.predictions[i].rewrite_prompt,
            "fallback": trained.predictions[i].fallback,
            "scs": round(float(trained.scs[i]), 6),
        }
        for start in before:
            row["start"] = start.predictions[i].rewrite_prompt
            row["start_scs"] = round(float(start.scs[i]), 6)
        yield row | {"zero_shot": zero_shot.predictions[i].rewrite_prompt}


def _log_results(
    logger: Any, job: TrainingJob, metrics: dict[str, float], evaluations: Sequence[Evaluation]
) -> None:
    logger.log_metrics({k: v for k, v in metrics.items() if np.isfinite(v)})
    if job.logger == "wandb":
        rows = [
            [e.id, e.category, e.original_text, e.rewritten_text, e.rewrite_prompt,
             p.rewrite_prompt, float(s)]
            for evaluation in evaluations[:1]
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
