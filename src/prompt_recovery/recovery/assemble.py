"""Builds the recoverer that a recipe describes: loads its runs and fits what has to be fitted."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.recorded import recorded_metric
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.channel import NoisyChannel, fit_channel, judge
from prompt_recovery.recovery.confidence import (
    CalibratedRecoverer,
    Calibration,
    calibrate,
    keep,
    kept,
)
from prompt_recovery.recovery.decoding import Decoding, from_record, record
from prompt_recovery.recovery.interface import Recoverer, pairs_of
from prompt_recovery.recovery.likelihood import load_likelihood
from prompt_recovery.recovery.load import load_writer, read_record, splits_of
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.sources import FittedSource, Source, SourceSettings, WriterSource
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.runs.folder import require_adapter_folder, weights_digest
from prompt_recovery.storage import fingerprint

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the title of a step, the number of pairs just done, and the number of all pairs."""


@dataclass
class Assembled:
    """A recoverer that is ready to answer.

    Attributes:
        recoverer: The recoverer, with its calibration.
        fallback: The recoverer's fallback, which is the mean prompt of its first run's training
            split.
        identity: A fingerprint of everything that its predictions depend on.
    """

    recoverer: CalibratedRecoverer
    fallback: str
    identity: str


def assemble(recipe: Recipe, progress: Progress = lambda *_: None) -> Assembled:
    """Loads a recoverer, and fits its calibration unless one is kept from an earlier call.

    If the validation split of the first run isn't available, a warning says why and predictions
    have no confidence.

    Raises:
        PromptRecoveryError: A run cannot be loaded (see `load_recoverer`), a channel has only one
            candidate to choose from, or the weight of a channel has to be fitted and there is no
            validation split.
    """
    folders = [require_adapter_folder(run) for run in recipe.runs]  # check all paths before loading
    records = [read_record(folder) for folder in folders]
    decoding = recipe.decoding or from_record(records[0]["decoding"])
    if recipe.channel is not None and decoding.branches == 1:
        raise PromptRecoveryError(
            f"a channel chooses among candidates, and decoding={decoding.name} makes one: "
            "take decoding=mbr, or leave the channel out"
        )
    writers = [
        load_writer(run, recipe.precision, recipe.backbone_path, recipe.trust_remote_code)
        for run in recipe.runs
    ]
    scs = recorded_metric(records[0]["metric"])
    retrieved = _retrieval_source(recipe, decoding, folders[0], scs)
    recoverer = PosteriorRecoverer(
        _weighted_sources(recipe, writers, retrieved), decoding, records[0]["fallback"], scs
    )
    settings = {
        "decoding": record(decoding),
        "weights": list(recipe.weights),
        "channel": None if recipe.channel is None else asdict(recipe.channel),
        "metric": [scs.encoder.identity, scs.exponent],
        "members": [
            [weights_digest(folder), saved, str(writer.model.dtype)]
            for folder, saved, writer in zip(folders, records, writers, strict=True)
        ],
        "retrieval": _source_record(recipe.retrieval, retrieved),
    }
    key = fingerprint(settings)
    if recipe.channel is not None:
        noisy = _with_channel(recipe, recoverer, scs, folders, key, progress)
        identity = fingerprint(key, str(noisy.calibration), noisy.weight)
        return Assembled(noisy, recoverer.fallback, identity)
    if recipe.confidence:
        recoverer.calibration = _calibration(recoverer, scs, folders, key, progress)
    identity = fingerprint(key, str(recoverer.calibration), None)
    return Assembled(recoverer, recoverer.fallback, identity)


def _retrieval_source(
    recipe: Recipe, decoding: Decoding, folder: Path, scs: SCS
) -> FittedSource | None:
    """The fitted `retrieval` of the recipe, which joins the runs' samples.

    None if the recipe or the decoding has no use for it, or if there are no training examples.
    """
    if recipe.retrieval is None or not decoding.uses_metric:
        return None
    try:
        examples = splits_of(folder).train
    except PromptRecoveryError as error:
        log.warning("no %s vote: %s", recipe.retrieval.name, error)
        return None
    return recipe.retrieval.fit(examples, scs)


def _source_record(
    settings: SourceSettings | None, source: FittedSource | None
) -> list[Any] | None:
    """What identifies a fitted source: its name, its weight and what its posteriors depend on."""
    if settings is None or source is None:
        return None
    return [settings.name, settings.weight, dict(source.settings)]


def _weighted_sources(
    recipe: Recipe, writers: Sequence[Writer], retrieved: Source | None
) -> list[tuple[Source, float]]:
    """All sources of the recipe; the weights of the writers are 1 on average."""
    weights = list(recipe.weights) or [1.0] * len(writers)
    mean = sum(weights) / len(weights)
    sources: list[tuple[Source, float]] = [
        (WriterSource(writer, number), weight / mean)
        for number, (writer, weight) in enumerate(zip(writers, weights, strict=True))
    ]
    if retrieved is not None and recipe.retrieval is not None:
        # Its weight is relative to that of all writers together, whose weights sum to their number.
        sources.append((retrieved, recipe.retrieval.weight * len(writers)))
    return sources


def _with_channel(
    recipe: Recipe,
    proposing: Recoverer,
    scs: SCS,
    folders: Sequence[Path],
    key: str,
    progress: Progress,
) -> NoisyChannel:
    settings = recipe.channel
    assert settings is not None
    channel = load_likelihood(settings, recipe.precision)
    values = kept(folders[0]).get(key)
    if values is None and (settings.weight is None or recipe.confidence):
        title = "fitting the channel"
        try:
            examples = _validation(folders)
        except PromptRecoveryError as error:
            if settings.weight is None:
                raise PromptRecoveryError(f"give channel.weight=<0 … 1>: {error}") from error
            log.warning("no confidence: %s", error)
        else:
            judged = judge(
                proposing,
                channel,
                pairs_of(examples),
                settings.candidates,
                lambda n: progress(title, n, len(examples)),
            )
            found = fit_channel(judged, examples, scs, settings.weight)
            if found is not None:
                log.info(
                    "channel weight %.2f: validation SCS %.4f, without the channel %.4f",
                    found.weight, found.scs, found.scs_without,
                )  # fmt: skip
                values = {"weight": found.weight, **asdict(found.calibration)}
                _keep(folders[0], key, values)
    weight = settings.weight if settings.weight is not None else (values or {}).get("weight", 0.0)
    calibration = Calibration.of(values) if values and recipe.confidence else None
    return NoisyChannel(proposing, channel, weight, settings.candidates, calibration)


def _calibration(
    recoverer: Recoverer,
    scs: SCS,
    folders: Sequence[Path],
    key: str,
    progress: Progress,
) -> Calibration | None:
    values = kept(folders[0]).get(key)
    if values is not None:
        return Calibration.of(values)
    try:
        examples = _validation(folders)
    except PromptRecoveryError as error:
        log.warning("no confidence: %s", error)
        return None
    log.info("confidence: fitted once for this run and decoding, on %d examples", len(examples))
    title = "fitting the confidence"
    found = calibrate(recoverer, examples, scs, lambda n: progress(title, n, len(examples)))
    if found is not None:
        _keep(folders[0], key, asdict(found))
    return found


def _validation(folders: Sequence[Path]) -> Any:
    """The validation examples of the first run, which no other run may have been trained on."""
    examples = splits_of(folders[0]).val
    for folder in folders[1:]:
        theirs = {e.id for e in splits_of(folder).val}
        if not {e.id for e in examples} <= theirs:
            raise PromptRecoveryError(
                f"{folder} was trained with another validation split than {folders[0]}"
            )
    return examples


def _keep(folder: Path, key: str, values: dict[str, Any]) -> None:
    try:
        keep(folder, key, values)
    except PromptRecoveryError as error:
        log.warning("the calibration could not be kept: %s", error)
