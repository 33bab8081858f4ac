"""Builds the recoverer that a recipe describes: loads its runs and fits what has to be fitted."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prompt_recovery.backbones.locate import locate
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.recorded import recorded_metric
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.bank import PromptBank, read_prompts
from prompt_recovery.recovery.channel import ChannelSettings
from prompt_recovery.recovery.choice import LogLinear
from prompt_recovery.recovery.confidence import CalibratedRecoverer
from prompt_recovery.recovery.decoding import Choice, Decoding
from prompt_recovery.recovery.fitted import (
    Fitted,
    fit_key,
    fit_recoverer,
    keep_fit,
    kept_fit,
    unfitted_joining,
)
from prompt_recovery.recovery.likelihood import load_likelihood
from prompt_recovery.recovery.load import (
    choosing_metric,
    load_sources,
    located_backbone,
    splits_of,
)
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.recovery.records import decoding_of, read_record
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.retriever import Retriever
from prompt_recovery.recovery.rewriter import with_rewriter
from prompt_recovery.recovery.sources import FittedSource, Source, SourceSettings, WriterSource
from prompt_recovery.runs.folder import is_retriever, recoverer_folders, run_name
from prompt_recovery.settings import Precision
from prompt_recovery.storage import fingerprint

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the title of a step, the number of pairs just done, and the number of all pairs.

With 0 pairs done, the step begins."""


@dataclass
class Assembled:
    """A recoverer that is ready to answer.

    Attributes:
        recoverer: The recoverer, with its calibration.
        fallback: The recoverer's fallback, which is the mean prompt of its first run's training
            split.
        identity: A fingerprint of everything that its predictions depend on.
        runs: The names of the runs that it answers from.
    """

    recoverer: CalibratedRecoverer
    fallback: str
    identity: str
    runs: Sequence[str] = ()


def require_backbones(recipe: Recipe) -> None:
    """Finds the backbones that a recoverer needs, before long work begins.

    Raises:
        PromptRecoveryError: If one of them is missing.
    """
    for folder in (folder for run in recipe.runs for folder in recoverer_folders(run)):
        if not is_retriever(folder):
            located_backbone(folder, recipe.backbone_path, recipe.trust_remote_code)
    if recipe.channel is not None and recipe.channel.backbone is not None:
        locate(recipe.channel.backbone, "channel.backbone.path")


def assemble(
    recipe: Recipe, progress: Progress = lambda *_: None, keeps_samples: bool = False
) -> Assembled:
    """Loads a recoverer, and fits its calibration unless one is kept from an earlier call.

    If the validation split of the first run isn't available, a warning says why and predictions
    have no confidence.

    Args:
        recipe: The recipe.
        progress: Told about the progress of long steps.
        keeps_samples: Keep the samples of language models in the cache, where recoverers that ask
            the same model for the same samples find them.

    Raises:
        PromptRecoveryError: If a run cannot be loaded (see `load_recoverer`), a channel has only
            one candidate to choose from, or the exponents of a channel have to be fitted and there
            is no validation split.
    """
    recipe.require_answers()  # before anything is loaded
    recipe = with_rewriter(recipe)
    members = [recoverer_folders(run) for run in recipe.runs]
    folders = [folder for run in members for folder in run]
    decoding = recipe.decoding or decoding_of(folders)
    scs = recorded_metric(read_record(folders[0])["metric"])
    require_backbones(recipe)
    loaded = [
        load_sources(
            run,
            scs,
            decoding,
            recipe.precision,
            recipe.backbone_path,
            recipe.trust_remote_code,
            keeps_samples,
            recipe.probe,
        )
        for run in members
    ]
    folders = [folder for run in loaded for folder, _ in run]
    own = [source for run in loaded for _, source in run]
    records = [read_record(folder) for folder in folders]
    _number_repeated_writers(own)
    own = _with_bank(recipe, own, scs, progress)
    retrieved = _retrieval_source(recipe, decoding, own, folders[0], scs)
    recoverer = PosteriorRecoverer(
        _weighted_sources(recipe, [len(run) for run in loaded], own, retrieved),
        decoding,
        records[0]["fallback"],
        choosing_metric(scs, own),
        stated=recipe.stated,
        named=recipe.named,
    )

    joined_by = _source_record(recipe.retrieval, retrieved)
    channel: dict[str, Any] | None = None
    if recipe.channel is not None:
        model = _add_channel(recoverer, recipe.channel, recipe.precision)
        channel = {**asdict(recipe.channel), "model": model}
    key = fit_key(
        decoding,
        scs,
        folders,
        records,
        own,
        recipe.weights,
        joined_by,
        channel,
        stated=recipe.stated,
        named=recipe.named,
    )
    together = any(isinstance(source, Retriever) for source in own) and not recipe.weights
    if together or recipe.confidence or recoverer.feature_names:
        fitted = _fitted(recipe, recoverer, folders, key, progress)
        fitted.applied_to(recoverer, recipe.confidence)
    said = [str(v) for v in (recoverer.joining, recoverer.choice) if v is not None]
    identity = fingerprint(key, str(recoverer.calibration), None, *said)
    return Assembled(recoverer, recoverer.fallback, identity, [run_name(r) for r in recipe.runs])


def _number_repeated_writers(sources: Sequence[WriterSource | Retriever]) -> None:
    """Lets a writer that occurs several times draw different samples each time.

    Different writers draw with the same random numbers, so that an ensemble's samples are those
    that its members draw when they answer alone, and are found in the cache.
    """
    seen: Counter[str] = Counter()
    for source in sources:
        if isinstance(source, WriterSource):
            source.member = seen[source.writer.identity]
            seen[source.writer.identity] += 1


def _add_channel(
    recoverer: PosteriorRecoverer, settings: ChannelSettings, precision: Precision
) -> str:
    """Gives a recoverer its channel, and returns the identity of the rewriter model."""
    likelihood = load_likelihood(settings, precision)
    recoverer.channel = likelihood
    recoverer.rescored = settings.candidates
    if settings.exponent is not None:
        if isinstance(recoverer.decoding, Choice):
            raise PromptRecoveryError(
                "channel.exponent= is for decoding=mbr; decoding=choice fits all of its weights"
            )
        recoverer.choice = LogLinear({"prior": settings.prior, "channel": settings.exponent})
    return likelihood.identity


def _with_bank(
    recipe: Recipe, sources: Sequence[WriterSource | Retriever], scs: SCS, progress: Progress
) -> list[WriterSource | Retriever]:
    """The sources, with the prompts of `bank` in the banks of retrievers and probes."""
    if recipe.bank is None:
        return list(sources)
    title = "embedding the bank"
    prompts = read_prompts(recipe.bank, recipe.bank_column)
    bank = PromptBank.of(prompts, scs.encoder, lambda n, total: progress(title, n, total))
    return [
        source.with_bank(source.bank.joined(bank)) if isinstance(source, Retriever) else source
        for source in sources
    ]


def _retrieval_source(
    recipe: Recipe,
    decoding: Decoding,
    sources: Sequence[Source],
    folder: Path,
    scs: SCS,
) -> FittedSource | None:
    """The fitted `retrieval` of the recipe, which joins the samples of the runs' models.

    None if the recipe or the decoding has no use for it, if there are no training examples, or if
    one of the runs has a dense retriever or a probe, which finds better prompts.
    """
    if recipe.retrieval is None or not decoding.uses_metric:
        return None
    if any(isinstance(source, Retriever) for source in sources):
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
    recipe: Recipe, sizes: Sequence[int], own: Sequence[Source], retrieved: Source | None
) -> list[tuple[Source, float]]:
    """All sources of the recipe with their weights; those of the runs are 1 on average.

    Args:
        recipe: The recipe.
        sizes: The number of sources that each run consists of, which share its weight equally.
        own: These sources.
        retrieved: The fitted `retrieval`, if any.
    """
    weights = list(recipe.weights) or [1.0] * len(sizes)
    mean = sum(weights) / len(weights)
    shares = [
        weight / mean / size
        for weight, size in zip(weights, sizes, strict=True)
        for _ in range(size)
    ]
    sources = list(zip(own, shares, strict=True))
    if retrieved is not None and recipe.retrieval is not None:
        # Its weight is relative to that of all runs together, whose weights sum to their number.
        sources.append((retrieved, recipe.retrieval.weight * len(sizes)))
    return sources


def _fitted(
    recipe: Recipe,
    recoverer: PosteriorRecoverer,
    folders: Sequence[Path],
    key: str,
    progress: Progress,
) -> Fitted:
    """The weights and the confidence that are kept for this key, or else fitted now and kept."""
    found = kept_fit(folders[0], key, recoverer)
    if found is not None:
        return found
    try:
        examples = _validation(folders)
    except PromptRecoveryError as error:
        if recoverer.channel is not None and recoverer.choice is None:
            also = "decoding=mbr and " if isinstance(recoverer.decoding, Choice) else ""
            raise PromptRecoveryError(
                f"give {also}channel.exponent=<such as 0.1>: {error}"
            ) from error
        if isinstance(recoverer.decoding, Choice):
            log.warning("plain MBR answers, as decoding=choice has nothing to be fitted on")
        log.warning("answers have no confidence: %s", error)
        joining = None if recipe.weights else unfitted_joining(recoverer)
        return Fitted(joining, choice=recoverer.choice)
    log.info("fitting the confidence on %d examples, once for this run and decoding", len(examples))
    total = len(examples)
    progress("fitting the confidence", 0, total)  # even one batch may take long
    found = fit_recoverer(
        recoverer,
        examples,
        bool(recipe.weights),
        lambda n: progress("fitting the confidence", n, total),
        lambda n: progress("scoring candidates for the choice", n, total),
    )
    if found != Fitted():
        keep_fit(folders[0], key, found)
    return found


def _validation(folders: Sequence[Path]) -> Any:
    """The validation examples of the first run, which no other run may have been trained on."""
    examples = splits_of(folders[0]).val
    if not examples:
        raise PromptRecoveryError(f"{folders[0]} was trained without a validation split")
    for folder in folders[1:]:
        theirs = {e.id for e in splits_of(folder).val}
        if not {e.id for e in examples} <= theirs:
            raise PromptRecoveryError(
                f"{folder} was trained with another validation split than {folders[0]}"
            )
    return examples
