"""What a run answers with at its end if it has a retriever: its own, another's or a probe."""

import logging
from pathlib import Path

from prompt_recovery.recovery.decoding import MBR
from prompt_recovery.recovery.fitted import fit_recoverer, keep_fit, unfitted_joining
from prompt_recovery.recovery.load import fit_place, load_retriever, sources_of
from prompt_recovery.recovery.records import read_record
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.retriever import Retriever
from prompt_recovery.recovery.sources import Source
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.terminal import progress_bar
from prompt_recovery.training.job import TrainingJob
from prompt_recovery.training.prepared import Hardware

log = logging.getLogger(__name__)


def trained_recoverer(
    job: TrainingJob,
    hardware: Hardware,
    retriever: Path | None,
    writer: Writer | None = None,
    probe: Retriever | None = None,
) -> PosteriorRecoverer:
    """The recoverer that `recover` would load from the run, which chooses by MBR.

    Args:
        job: The job, whose own weights and their record are written.
        hardware: Where and how precisely this process computes.
        retriever: The folder of the trained retriever, if there is one.
        writer: The trained language model that answers with it. None if the job trains the
            retriever itself.
        probe: The retriever whose encoder is the model's probe, if it has one.
    """
    own = [] if writer is None else sources_of(writer, probe)
    sources: list[tuple[Source, float]] = [(source, 1.0) for source in own]
    if retriever is not None:
        sources.append((load_retriever(retriever, job.scs, hardware.precision.name), 1.0))
    # The record of a retriever says that it answers by MBR, whatever the job's decoding.
    decoding = job.decoding if writer is not None and job.decoding.uses_metric else MBR()
    fallback = str(read_record(job.weights_folder)["fallback"])
    return PosteriorRecoverer(sources, decoding, fallback, job.scs)


def fit_and_keep(job: TrainingJob, recoverer: PosteriorRecoverer) -> None:
    """Fits weights and confidence on the validation split, and keeps them where `recover` looks.

    Without a validation split, the weights are the default, and nothing is kept.

    Args:
        job: The job.
        recoverer: What `trained_recoverer` made of it, with all folders complete.
    """
    examples = job.splits.val
    if not examples or recoverer.scs is None:
        recoverer.joining = unfitted_joining(recoverer)
        return
    log.info("fitting the confidence on %d validation examples", len(examples))
    with progress_bar() as progress:
        task = progress.add_task("fitting the confidence", total=len(examples))
        fitted = fit_recoverer(recoverer, examples, progress=lambda n: progress.advance(task, n))
    fitted.applied_to(recoverer)
    retriever = job.retriever or job.run.retriever
    keep_fit(*fit_place(recoverer, job.run.adapter, retriever), fitted)
