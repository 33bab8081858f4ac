"""The results of a run: evaluations, tables, files, and the final log entries."""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.metrics.statistics import bootstrap_interval
from prompt_recovery.recovery.interface import Recoverer, pairs_of
from prompt_recovery.recovery.load import kind_of
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.reporting.charts import result_chart
from prompt_recovery.reporting.evaluation.scores import (
    Evaluation,
    calibration,
    calibration_error,
    evaluate,
    timed,
)
from prompt_recovery.reporting.evaluation.tables import (
    category_tables,
    result_table,
    sample_table,
)
from prompt_recovery.runs.environment import environment
from prompt_recovery.runs.trials import is_trial
from prompt_recovery.storage import read_json
from prompt_recovery.tables import Table, counted, print_tables
from prompt_recovery.terminal import announced, progress_bar
from prompt_recovery.training.job import TrainingJob
from prompt_recovery.training.next_commands import answering, evaluating
from prompt_recovery.training.rounds import Round, round_of
from prompt_recovery.training.tracking import ROUND

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunEvaluations:
    """The evaluations of a trained recoverer and of baselines on the test split.

    Attributes:
        trained: The evaluation of the trained recoverer.
        start: The evaluation of what training started from. None for a new adapter.
        zero_shot: The evaluation of the untrained backbone. None if it cannot answer.
        mean_prompt: The evaluation of the mean prompt as the answer to every pair.
        nearest: The evaluation of a retriever that answers with the nearest prompt. None for other
            recoverers.
        alone: If several sources answer together, the evaluation of each of them alone, by what it
            is: the "model", its "probe" and the "retriever", as far as there are any.
    """

    trained: Evaluation
    start: Evaluation | None
    zero_shot: Evaluation | None
    mean_prompt: Evaluation
    nearest: Evaluation | None = None
    alone: Mapping[str, Evaluation] = field(default_factory=dict)

    @property
    def all(self) -> list[Evaluation]:
        """All evaluations in the order of tables and charts, with the trained recoverer first."""
        found = (
            self.trained,
            *self.alone.values(),
            self.nearest,
            self.start,
            self.zero_shot,
            self.mean_prompt,
        )
        return [evaluation for evaluation in found if evaluation is not None]

    @property
    def model(self) -> Evaluation:
        """The evaluation of what this run has trained, without a retriever that answers with it."""
        return self.alone.get("model", self.trained)


def evaluate_recoverer(
    recoverer: Recoverer, examples: Sequence[RewriteExample], scs: SCS
) -> Evaluation:
    """Runs a recoverer on examples, with a progress bar."""
    predictions, seconds = timed(recoverer, pairs_of(examples))
    return evaluate(recoverer.name, predictions, examples, scs, seconds)


def evaluate_sources(
    recoverer: PosteriorRecoverer, examples: Sequence[RewriteExample], scs: SCS
) -> tuple[Evaluation, dict[str, Evaluation]]:
    """Evaluates all sources of a recoverer together and then each alone, asking each only once.

    Args:
        recoverer: A recoverer with a language model, its probe and a retriever, or some of them.
        examples: The examples.
        scs: The metric.

    Returns:
        The evaluation of all together, and those of each alone by what it is, as in
        `RunEvaluations`; empty if there is only one.
    """
    pairs = pairs_of(examples)
    with progress_bar() as progress:
        bar = progress.add_task(f"recovering: {recoverer.name}", total=len(pairs))
        begun = time.perf_counter()
        said = recoverer.said(pairs, progress=lambda n: progress.advance(bar, n))
        predictions = recoverer.answers(pairs, said)
        seconds = time.perf_counter() - begun
    together = evaluate(recoverer.name, predictions, examples, scs, seconds)
    found: dict[str, Evaluation] = {}
    if len(recoverer.sources) == 1:
        return together, found
    for number, (source, _) in enumerate(recoverer.sources):
        one = recoverer.alone(number)
        own = {i: [parts[number]] for i, parts in said.items()}
        answers = one.answers(pairs, own)
        found[kind_of(source)] = evaluate(one.name, answers, examples, scs, None)
    return together, found


def test_metrics(evaluations: RunEvaluations) -> dict[str, float]:
    """Computes the `test/…` and `baseline/…` entries of `metrics.json`."""
    trained, start = evaluations.trained, evaluations.start
    metrics = {
        "test/scs": float(trained.scs.mean()),
        "test/scs_ci_low": trained.interval[0],
        "test/scs_ci_high": trained.interval[1],
        "test/cosine": float(trained.cosine.mean()),
        "test/exact_match": float(trained.exact.mean()),
        "test/examples": len(trained.scs),
    }
    if bins := calibration(trained):
        metrics["test/calibration_error"] = calibration_error(bins)
    for name, evaluation in evaluations.alone.items():
        metrics[f"test/{name}_scs"] = float(evaluation.scs.mean())
    if evaluations.nearest is not None:
        metrics["test/nearest_scs"] = float(evaluations.nearest.scs.mean())
    if evaluations.zero_shot is not None:
        metrics["baseline/zero_shot_scs"] = float(evaluations.zero_shot.scs.mean())
    metrics["baseline/mean_prompt_scs"] = float(evaluations.mean_prompt.scs.mean())
    if start is not None:
        gain = evaluations.model.scs - start.scs
        low, high = bootstrap_interval(gain, groups=trained.prompts)
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
    evaluations: RunEvaluations | None,
    curve: Sequence[Mapping[str, float]],
) -> None:
    """Prints the tables, and writes the predictions, the chart, the environment and `metrics.json`.

    `metrics.json` comes last, because it marks the run as finished.
    """
    test = job.splits.test
    if any("val/hacking" in point for point in curve):
        print_tables(watch_table(curve))
    if evaluations is not None:  # printed first, so that they are not lost if a disk is full
        print_tables(
            sample_table(evaluations.trained, test),
            *category_tables(evaluations.all, test),
            result_table(
                evaluations.all,
                f"Test: {counted(len(test), 'example')}, prompts never seen in training",
            ),
        )
        job.run.write_predictions(prediction_rows(test, evaluations))
        points = [(int(p["step"]), p["val/scs"]) for p in curve]
        with announced("drawing the chart of the results"):
            result_chart(evaluations.all, points, job.run.chart)
    job.run.write_environment(environment())
    job.run.write_metrics(metrics)
    if "test/gain" in metrics:
        log.info(
            "%s against its starting point: %+.4f SCS (95 %% interval %+.4f … %+.4f, paired)",
            job.objective.name,
            metrics["test/gain"],
            metrics["test/gain_ci_low"],
            metrics["test/gain_ci_high"],
        )
        worse = lowered(metrics, job.optim.learning_rate)
        if worse is not None:
            log.warning("%s", worse)
    log.info(
        "%.0f s in total, %.1f GiB at most; run folder %s",
        metrics["seconds"],
        metrics["peak_memory_bytes"] / 2**30,
        job.folder,
    )
    if job.evaluate and not is_trial():
        log.info("to answer a pair with it: %s", answering(job.folder))
        command = evaluating(job.folder, job.config) if job.config and test else None
        if command is not None:
            log.info("for a first look at its answers to 40 rows: %s quick=true", command)
            log.info("to compare it with all baselines, which takes longer: %s", command)


def lowered(metrics: Mapping[str, float], learning_rate: float) -> str | None:
    """Says what to try after a run whose answers are worse than those of what it started from.

    Returns:
        A line, or None if they are not worse in the third decimal.
    """
    before, after = metrics["test/start_scs"], metrics["test/start_scs"] + metrics["test/gain"]
    if round(after, 3) >= round(before, 3):
        return None
    return (
        f"training lowered the SCS on the test split from {before:.3f} to {after:.3f}: try a "
        f"smaller optim.learning_rate (this was {learning_rate:g}), fewer epochs "
        "(trainer.max_epochs), or more rows"
    )


def watch_table(curve: Sequence[Mapping[str, float]]) -> Table:
    """Makes the table of the validations in which metric hacking was looked for."""

    def cell(point: Mapping[str, float], name: str, form: str) -> str:
        return f"{point[name]:{form}}" if name in point else "–"

    return Table(
        ["step", "SCS", "second encoder", "words", "metric hacking"],
        [
            [
                str(int(p["step"])),
                cell(p, "val/scs", ".4f"),
                cell(p, "val/second_scs", ".4f"),
                cell(p, "val/words", ".1f"),
                "a sign of it" if p.get("val/hacking") else "no sign",
            ]
            for p in curve
        ],
        "Validation: mean SCS of greedy answers, under two encoders, and their length",
    )


def prediction_rows(
    test: Sequence[RewriteExample], evaluations: RunEvaluations
) -> Iterator[dict[str, Any]]:
    """Yields the rows of `predictions.jsonl`: the test examples with what was answered."""
    trained, start, zero_shot = evaluations.trained, evaluations.start, evaluations.zero_shot
    for i, example in enumerate(test):
        row = asdict(example) | {
            "prediction": trained.predictions[i].rewrite_prompt,
            "fallback": trained.predictions[i].fallback,
            "scs": round(float(trained.scs[i]), 6),
        }
        if (expected := trained.predictions[i].confidence) is not None:
            row["confidence"] = round(expected, 6)
        if start is not None:
            row["start"] = start.predictions[i].rewrite_prompt
            row["start_scs"] = round(float(start.scs[i]), 6)
        for name, evaluation in evaluations.alone.items():
            row[name] = evaluation.predictions[i].rewrite_prompt
            row[f"{name}_scs"] = round(float(evaluation.scs[i]), 6)
        if zero_shot is not None:
            row["zero_shot"] = zero_shot.predictions[i].rewrite_prompt
        yield row


def _log_round(logger: Any, one: Round) -> None:
    """Logs what a round did to the W&B run of all rounds, which goes on."""
    values = {
        f"round/{name}": value
        for name, value in asdict(one).items()
        if name != "number" and math.isfinite(value)
    }
    for name in values:
        logger.experiment.define_metric(name, step_metric=ROUND)
    logger.log_metrics(values)


def log_results(
    logger: Any, job: TrainingJob, metrics: dict[str, float], evaluations: RunEvaluations | None
) -> None:
    """Logs the metrics, and with W&B the predictions and the adapter, and closes the logger."""
    wandb = job.logger.kind == "wandb"
    if job.part is not None and wandb:
        _log_round(logger, round_of(job.part.number, job.run, job.config))
        return
    if job.trained is not None and not wandb:
        for one in read_json(job.run.rounds_record) or []:
            values = {f"round/{k}": v for k, v in one.items() if k != "number" and v is not None}
            logger.log_metrics(values, step=one["number"])
    logger.log_metrics({k: v for k, v in metrics.items() if np.isfinite(v)})
    if wandb:
        rows = [
            [e.id, e.category, e.original_text, e.rewritten_text, e.rewrite_prompt,
             p.rewrite_prompt, float(s)]
            for evaluation in ([] if evaluations is None else [evaluations.trained])
            for e, p, s in zip(job.splits.test, evaluation.predictions, evaluation.scs, strict=True)
        ]  # fmt: skip
        columns = ["id", "category", "original_text", "rewritten_text", "rewrite_prompt",
                   "prediction", "scs"]  # fmt: skip
        logger.log_table("test/predictions", columns=columns, data=rows)
        if job.logger.log_adapter:
            from wandb import Artifact

            kind = "retriever" if job.trains_retriever else "adapter"
            artifact = Artifact(f"{kind}-{logger.experiment.id}", type="model")
            artifact.add_dir(str(job.weights_folder))
            logger.experiment.log_artifact(artifact)
        logger.experiment.finish()
    else:
        logger.finalize("success")
