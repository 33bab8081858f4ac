"""The job of `prompt-recovery evaluate`, which compares recoverers on one dataset."""

import gc
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.evidence import (
    explainable,
    require_explainable,
    with_evidence,
)
from prompt_recovery.recovery.interface import Prediction, pairs_of
from prompt_recovery.recovery.predictions import PredictionStore, checked_prediction
from prompt_recovery.recovery.spans import Evidence, Method, require_method
from prompt_recovery.reporting.evaluation.contenders import Contender
from prompt_recovery.reporting.evaluation.displaced import displaced_rows
from prompt_recovery.reporting.evaluation.markdown import report_markdown
from prompt_recovery.reporting.evaluation.metric_hacking import Agreement
from prompt_recovery.reporting.evaluation.page import report_page
from prompt_recovery.reporting.evaluation.report import Report, SecondOpinion, report_record
from prompt_recovery.reporting.evaluation.scores import Evaluation, evaluate, timed
from prompt_recovery.reporting.evaluation.tables import category_tables, result_table
from prompt_recovery.reporting.html.page import write_page
from prompt_recovery.storage import (
    MALFORMED,
    atomic_write,
    fingerprint,
    read_jsonl,
    require_writable,
    write_jsonl,
)
from prompt_recovery.tables import counted, print_tables
from prompt_recovery.terminal import announced, progress_bar

log = logging.getLogger(__name__)

_ORDER = ("predictions", "recoverer", "baseline")  # in which contenders are evaluated


@dataclass(frozen=True)
class EvaluationJob:
    """Everything that an evaluation needs.

    Attributes:
        name: Name of the dataset in the report.
        examples: The examples to evaluate on.
        contenders: At least one contender. Their names must be distinct.
        scs: The metric that decides.
        second: The same metric with another encoder. None skips the metric-hacking check.
        honest_prompts: Prompts written by people, which the metric-hacking check uses in addition
            to the true prompts.
        folder: Folder of the report, and of predictions to be used again.
        about: Other facts for the report by name.
        explain: How evidence for the best recoverer's best and worst answers is measured. None
            measures none.
    """

    name: str
    examples: Sequence[RewriteExample]
    contenders: Sequence[Contender]
    scs: SCS
    second: SCS | None
    honest_prompts: Sequence[str]
    folder: Path
    about: dict[str, str] = field(default_factory=dict)
    explain: Method | None = None

    def __post_init__(self) -> None:
        if not self.contenders:
            raise PromptRecoveryError(
                "nothing to evaluate: give recoverers=[<run or adapter folder>], "
                "baselines=[mean_prompt] or predictions=[<column or file>]"
            )
        seen: set[str] = set()
        for contender in self.contenders:
            if contender.name in seen:
                raise PromptRecoveryError(
                    f"two rows of the table would be called '{contender.name}': give one of them "
                    "another name, such as recoverers=[{run: …, name: …}]"
                )
            seen.add(contender.name)
        for contender in self.contenders:
            if contender.kind == "predictions":  # ids that don't match are refused at once
                contender.make().recover(pairs_of(self.examples))


def run_evaluation(job: EvaluationJob) -> Report:
    """Evaluates all contenders, prints a table and writes report.json, report.md and report.html.

    Predictions of finished contenders are saved in the folder, so that they are not made again
    after a kill or when contenders are added.

    Raises:
        PromptRecoveryError: If a contender cannot be loaded, a prediction is missing, or a file
            cannot be written.
    """
    require_writable(job.folder / "predictions")
    for contender in job.contenders:
        if _kept(contender, job) is None:
            contender.check()
    require_method(job.explain)
    unwritten: list[PromptRecoveryError] = []
    found: dict[str, Evaluation] = {}
    # Baselines come last: some take minutes to fit, and few people wait for them most.
    for contender in sorted(job.contenders, key=lambda c: _ORDER.index(c.kind)):
        found[contender.name] = one = _evaluated(contender, job, unwritten)
        log.info("%s: mean SCS %.3f (95 %% interval %.3f … %.3f)", one.name, one.mean,
                 *one.interval)  # fmt: skip
    evaluations = [found[contender.name] for contender in job.contenders]
    evaluations.sort(key=lambda e: -e.mean)
    report = Report(
        dataset=job.name,
        examples=job.examples,
        evaluations=evaluations,
        encoder=job.scs.encoder.name,
        exponent=job.scs.exponent,
        second=_second_opinion(job, evaluations),
        kinds={c.name: c.kind for c in job.contenders},
        about=job.about,
        displaced=_displaced(job, evaluations),
    )
    print_tables(  # first, so that they are not lost if a file cannot be written
        *category_tables(evaluations[:6], job.examples),
        result_table(evaluations, f"{job.name}: {counted(len(job.examples), 'example')}"),
    )
    if report.displaced:
        log.warning("%s", report.displaced)
    report = replace(report, evidence=_evidence(job, report))
    write_page(job.folder / "report.html", report_page(report))
    for name, text in {
        "report.md": report_markdown(report),
        "report.json": json.dumps(report_record(report), indent=2, ensure_ascii=False) + "\n",
    }.items():
        with atomic_write(job.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    if unwritten:
        raise unwritten[0]
    log.info("report: %s", job.folder / "report.html")
    return report


def _evaluated(
    contender: Contender, job: EvaluationJob, unwritten: list[PromptRecoveryError]
) -> Evaluation:
    """Evaluates a contender, whose predictions may have been kept.

    If they cannot be kept now, the error is added to `unwritten`, and the evaluation goes on.
    """
    key, path = _place(contender, job)
    kept = _kept(contender, job)
    if kept is None:
        with announced(f"preparing {contender.name}"):
            recoverer = contender.make()
        predictions, seconds = timed(recoverer, pairs_of(job.examples))
        parts = dict(getattr(recoverer, "seconds", {}))
        seconds = sum(parts.values()) or seconds  # with the time of samples from the cache
        del recoverer
        gc.collect()  # free the model's memory before the next one is loaded
        try:
            _keep(path, key, contender, predictions, seconds, parts)
        except PromptRecoveryError as error:
            log.warning("%s: %s", contender.name, error)
            unwritten.append(error)
    else:
        log.info("%s: predictions are in %s", contender.name, path)
        predictions, seconds, parts = kept
    told = None if contender.kind == "predictions" else seconds
    return evaluate(contender.name, predictions, job.examples, job.scs, told, parts)


def _evidence(job: EvaluationJob, report: Report) -> dict[int, tuple[Evidence, ...]]:
    """The evidence for the best recoverer's best and worst answers, by the index of the example.

    What is measured is kept in the folder. There is none for baselines, for predictions from
    elsewhere, and if the predictions are kept but the recoverer is no longer there.
    """
    [contender] = [c for c in job.contenders if c.name == report.best.name]
    if job.explain is None or contender.kind != "recoverer":
        return {}
    pairs = pairs_of(job.examples)
    places = list(dict.fromkeys(place for group in report.samples() for place in group))
    chosen = {i: report.best.predictions[i] for i in places}
    key, predicted = _place(contender, job)
    key = fingerprint(key, job.explain)
    path = job.folder / "evidence" / f"{predicted.stem}-{job.explain}.jsonl"
    prompts = [(p.id, p.rewrite_prompt) for p in chosen.values()]
    try:
        store = PredictionStore(path, fingerprint(key, prompts))
    except PromptRecoveryError as error:
        log.warning("no evidence: %s", error)
        return {}
    missing = [i for i, prediction in chosen.items() if prediction.id not in store.done]
    if missing:
        log.info(
            "the scores are final; the report will also show which words support the best and the "
            "worst answers of %s, which may take minutes (explain=false leaves it out)",
            contender.name,
        )
        try:
            recoverer = contender.make()
        except PromptRecoveryError as error:
            log.warning("no evidence: %s", error)
            return {}
        if not explainable(recoverer):
            log.info("no evidence: %s has no model that reads the texts", contender.name)
            return {}
        require_explainable(recoverer, job.explain)
        with progress_bar() as progress:
            task = progress.add_task("measuring the evidence", total=len(missing))
            for prediction in with_evidence(
                recoverer,
                [pairs[i] for i in missing],
                [chosen[i] for i in missing],
                job.explain,
                lambda n: progress.advance(task, n),
            ):
                store.add([prediction])
        del recoverer
        gc.collect()
    return {i: store.done[prediction.id].evidence for i, prediction in chosen.items()}


def _keep(
    path: Path,
    key: str,
    contender: Contender,
    predictions: Sequence[Prediction],
    seconds: float,
    parts: dict[str, float],
) -> None:
    head = {"key": key, "name": contender.name, "kind": contender.kind, "seconds": seconds,
            "seconds_by_source": parts}  # fmt: skip
    write_jsonl(path, (head, *map(asdict, predictions)))


def _place(contender: Contender, job: EvaluationJob) -> tuple[str, Path]:
    """Returns the key of a contender's predictions, and the file in which they are kept.

    The key finds them, since an earlier evaluation may have called the contender otherwise.
    """
    key = fingerprint(contender.identity, [asdict(p) for p in pairs_of(job.examples)])
    kept = sorted((job.folder / "predictions").glob(f"*-{key[:8]}.jsonl"))
    if kept:
        return key, kept[0]
    slug = re.sub(r"\W+", "-", contender.name).strip("-")[:60]
    return key, job.folder / "predictions" / f"{slug}-{key[:8]}.jsonl"


def _kept(
    contender: Contender, job: EvaluationJob
) -> tuple[list[Prediction], float, dict[str, float]] | None:
    """Reads the predictions that an earlier evaluation saved, or None if there are none."""
    key, path = _place(contender, job)
    ids = [example.id for example in job.examples]
    try:
        head, *rows = read_jsonl(path)
        texts = [row["rewrite_prompt"] for row in rows]
        if head["key"] != key or [row["id"] for row in rows] != ids or "" in map(str.strip, texts):
            return None
        names = ("id", "rewrite_prompt", "fallback", "confidence")
        predictions = [checked_prediction(Prediction(**{n: row[n] for n in names})) for row in rows]
        parts = head.get("seconds_by_source", {})  # evaluations of older versions have none
        return predictions, float(head["seconds"]), {str(k): float(v) for k, v in parts.items()}
    except (OSError, *MALFORMED):
        return None


def _displaced(job: EvaluationJob, evaluations: Sequence[Evaluation]) -> str:
    """Which rows probably have the prompts of their neighbours, by the best recoverer's answers.

    A column of predictions may be displaced with the prompts, so that recoverers tell more.
    """
    read = {contender.name for contender in job.contenders if contender.kind == "recoverer"}
    best = next((e for e in evaluations if e.name in read), evaluations[0])
    answers = [p.rewrite_prompt for p in best.predictions]
    found = displaced_rows(answers, [e.rewrite_prompt for e in job.examples], job.scs)
    return "" if found is None else found.told(best.name, [e.id for e in job.examples])


def _second_opinion(job: EvaluationJob, evaluations: Sequence[Evaluation]) -> SecondOpinion | None:
    if job.second is None:
        return None
    truths = [e.rewrite_prompt for e in job.examples]
    honest = [*truths, *job.honest_prompts]
    if len(set(honest)) < 3:
        return None
    with announced("checking the scores with the second encoder"):
        agreement = Agreement(job.scs, job.second, honest)
        checks = [
            agreement.check(e.scs, [p.rewrite_prompt for p in e.predictions], truths)
            for e in evaluations
        ]
    return SecondOpinion(job.second.encoder.name, agreement.chance, checks)
