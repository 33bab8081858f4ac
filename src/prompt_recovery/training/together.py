"""A trained language model and a retriever that answer together at the end of a run."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from prompt_recovery.recovery.decoding import MBR
from prompt_recovery.recovery.fitted import fit_key, fit_recoverer, keep_fit
from prompt_recovery.recovery.load import load_retriever
from prompt_recovery.recovery.records import read_record
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.retriever import Retriever
from prompt_recovery.recovery.sources import WriterSource
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.settings import Precision
from prompt_recovery.training.job import TrainingJob
from prompt_recovery.training.prepared import Hardware

log = logging.getLogger(__name__)


def joined_recoverer(
    job: TrainingJob, writer: Writer, retriever: Path, hardware: Hardware
) -> PosteriorRecoverer:
    """The recoverer that `recover` would load from the run: both choose together under MBR.

    Args:
        job: The job of the language model.
        writer: The trained language model.
        retriever: The folder of the retriever.
        hardware: Where and how precisely this process computes.
    """
    found = load_retriever(retriever, job.scs, _precision(hardware))
    decoding = job.decoding if job.decoding.uses_metric else MBR()
    fallback = str(read_record(job.run.adapter)["fallback"])
    return PosteriorRecoverer(
        [(WriterSource(writer), 1.0), (found, 1.0)], decoding, fallback, job.scs
    )


def retriever_alone(job: TrainingJob, hardware: Hardware) -> PosteriorRecoverer:
    """The recoverer that `recover` would load from a run that trains a retriever only."""
    folder = job.run.retriever
    found = load_retriever(folder, job.scs, _precision(hardware))
    fallback = str(read_record(folder)["fallback"])
    return PosteriorRecoverer([(found, 1.0)], MBR(), fallback, job.scs)


def _precision(hardware: Hardware) -> Precision:
    return "bf16" if hardware.precision.dtype == torch.bfloat16 else "fp32"


def fit_and_keep(job: TrainingJob, recoverer: PosteriorRecoverer, folders: Sequence[Path]) -> None:
    """Fits weights and confidence on the validation split, and keeps them where `recover` looks.

    Args:
        job: The job.
        recoverer: A recoverer whose sources were loaded from `folders`, in order.
        folders: The folders of the trained models, complete.
    """
    examples = job.splits.val
    if not examples or recoverer.scs is None:
        return
    log.info("fitting the confidence on %d validation examples", len(examples))
    fitted = fit_recoverer(recoverer, examples)
    fitted.applied_to(recoverer)
    sources = [s for s, _ in recoverer.sources if isinstance(s, WriterSource | Retriever)]
    records = [read_record(folder) for folder in folders]
    key = fit_key(recoverer.decoding, recoverer.scs, folders, records, sources)
    keep_fit(folders[0], key, fitted)
