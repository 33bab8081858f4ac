"""The results of a run: evaluations, tables, files, and the final log entries."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.metrics.statistics import bootstrap_interval
from prompt_recovery.recovery.interface import ConstantRecoverer, Recoverer, pairs_of
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.reporting.charts import result_chart
from prompt_recovery.reporting.evaluation.scores import Evaluation, evaluate, timed
from prompt_recovery.reporting.evaluation.tables import (
    category_table,
    result_table,
    sample_table,
)
from prompt_recovery.runs.environment import environment
from prompt_recovery.tables import print_tables
from prompt_recovery.training.job import TrainingJob

log = logging.getLogger(__name__)


def evaluate_run(
    job: TrainingJob, writer: Writer, fallback: str, start_weights: dict[str, torch.Tensor]
) -> list[Evaluation]:
    """Evaluates the trained recoverer, what it started from and baselines on the test split."""
    examples, scs = job.splits.test, job.scs

    def recoverer(writer: Writer) -> PosteriorRecoverer:
        return PosteriorRecoverer.of_writer(writer, job.decoding, fallback, scs)

    evaluations = evaluate_recoverers([recoverer(writer)], examples, scs)
    if start_weights:
        with torch.no_grad():
            for name, parameter in writer.model.named_parameters():
                if name in start_weights:
                    parameter.copy_(start_weights[name])
        start = replace(writer, name="before " + job.objective.name)
        evaluations += evaluate_recoverers([recoverer(start)], examples, scs)
    zero_shot = replace(writer, adapter=False, name=f"{job.backbone.name} zero-shot")
    baselines: list[Recoverer] = [recoverer(zero_shot), ConstantRecoverer(fallback)]
    return evaluations + evaluate_recoverers(baselines, examples, scs)


def evaluate_recoverers(
    recoverers: Sequence[Recoverer], examples: Sequence[RewriteExample], scs: SCS
) -> list[Evaluation]:
    """Runs recoverers on the same examples, in order, with a progress bar."""
    pairs = pairs_of(examples)
    evaluations = []
    for recoverer in recoverers:
        predictions, seconds = timed(recoverer, pairs)
        evaluations.append(evaluate(recoverer.name, predictions, examples, scs, seconds))
    return evaluations


def test_metrics(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Computes the `test/…` and `baseline/…` entries of `metrics.json` from `evaluate_run`."""
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


def leave_behind(
    job: TrainingJob,
    metrics: dict[str, float],
    evaluations: Sequence[Evaluation],
    curve: Sequence[tuple[int, float]],
) -> None:
    """Writes predictions, chart, environment and, last, `metrics.json`; prints the tables."""
    test = job.splits.test
    if evaluations:
        job.run.write_predictions(_predictions(test, evaluations))
        result_chart(evaluations, curve, job.run.chart)
    job.run.write_environment(environment())
    job.run.write_metrics(metrics)
    if evaluations:
        print_tables(
            sample_table(evaluations[0], test),
            category_table(evaluations, test),
            result_table(
                evaluations, f"Test: {len(test)} examples, prompts never seen in training"
            ),
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
        "%.0f s in total, %.1f GiB at most; run folder %s",
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


def log_results(
    logger: Any, job: TrainingJob, metrics: dict[str, float], evaluations: Sequence[Evaluation]
) -> None:
    """Logs the metrics, and with W&B the predictions and the adapter, and closes the logger."""
    logger.log_metrics({k: v for k, v in metrics.items() if np.isfinite(v)})
    if job.logger.kind == "wandb":
        rows = [
            [e.id, e.category, e.original_text, e.rewritten_text, e.rewrite_prompt,
             p.rewrite_prompt, float(s)]
            for evaluation in evaluations[:1]
            for e, p, s in zip(job.splits.test, evaluation.predictions, evaluation.scs, strict=True)
        ]  # fmt: skip
        columns = ["id", "category", "original_text", "rewritten_text", "rewrite_prompt",
                   "prediction", "scs"]  # fmt: skip
        logger.log_table("test/predictions", columns=columns, data=rows)
        if job.logger.log_adapter:
            import wandb

            artifact = wandb.Artifact(f"adapter-{logger.experiment.id}", type="model")
            artifact.add_dir(str(job.run.adapter))
            logger.experiment.log_artifact(artifact)
        logger.experiment.finish()
    else:
        logger.finalize("success")
