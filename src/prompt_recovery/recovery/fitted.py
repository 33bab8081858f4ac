"""What is fitted on validation once a recoverer is trained: the weights of its sources, the choice
and its confidence.

It is kept in `calibration.json` beside the weights of the first run, by a key that changes with
everything that it depends on. Whatever loads the same recoverer with the same decoding finds it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.choice import LogLinear, fit_choice
from prompt_recovery.recovery.confidence import Calibration, calibrate_on, keep, kept
from prompt_recovery.recovery.decoding import Decoding, record
from prompt_recovery.recovery.features import Features
from prompt_recovery.recovery.interface import pairs_of
from prompt_recovery.recovery.joining import Joining, Judged, fit, scaled
from prompt_recovery.recovery.naming import NAMED
from prompt_recovery.recovery.posterior import familiarity_of
from prompt_recovery.recovery.recoverer import PosteriorRecoverer, Said
from prompt_recovery.recovery.retriever import EMBEDDING_SHARE, Retriever, is_probe
from prompt_recovery.recovery.sources import WriterSource
from prompt_recovery.recovery.stated import FAMILIAR, SHARE
from prompt_recovery.runs.folder import calibration_file, weights_digest
from prompt_recovery.storage import fingerprint
from prompt_recovery.terminal import announced

log = logging.getLogger(__name__)

RETRIEVED_AWAY = 0.3
"""The weight of the retrievers for unfamiliar pairs; `joining` says where it comes from."""


@dataclass(frozen=True)
class Fitted:
    """What `fit_recoverer` found.

    Attributes:
        joining: The weights of the sources; None if they don't depend on the pair.
        calibration: From the score of an answer to its confidence; None if there is no answer.
        choice: The posterior over the best candidates; None if plain MBR answers.
    """

    joining: Joining | None = None
    calibration: Calibration | None = None
    choice: LogLinear | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Fitted":
        """From plain values, as `values` gives them."""
        joining, choice = values.get("joining"), values.get("choice")
        return cls(
            None if joining is None else Joining.of(joining),
            Calibration.of(values) if "scores" in values else None,
            None if choice is None else LogLinear.of(choice),
        )

    @property
    def values(self) -> dict[str, Any]:
        """Plain values; those of the calibration stand beside `joining`, as in older files."""
        values = {} if self.calibration is None else asdict(self.calibration)
        if self.joining is not None:
            values["joining"] = asdict(self.joining)
        return values if self.choice is None else values | {"choice": dict(self.choice.weights)}

    def fits(self, recoverer: PosteriorRecoverer) -> bool:
        """Whether it has a weight for each source and each feature of a recoverer, and no others.

        Another version of this package may have known other features.
        """
        choice, joining = self.choice, self.joining
        return (choice is None or set(choice.weights) == set(recoverer.feature_names)) and (
            joining is None or len(joining.familiar) == len(recoverer.sources)
        )

    def applied_to(self, recoverer: PosteriorRecoverer, confidence: bool = True) -> None:
        """Gives a recoverer these weights and, if wanted, this confidence."""
        recoverer.joining = self.joining
        names, choice = recoverer.feature_names, self.choice
        # Features are weighed in the recoverer's order, which need not be that of the file.
        ordered = choice and LogLinear({name: choice.weights[name] for name in names})
        recoverer.choice = ordered
        recoverer.calibration = self.calibration if confidence else None


def fit_recoverer(
    recoverer: PosteriorRecoverer,
    examples: Sequence[RewriteExample],
    fixed_weights: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    rescoring: Callable[[int], None] = lambda _: None,
) -> Fitted:
    """Fits the weights of the sources, the choice and the confidence; asks each source only once.

    Args:
        recoverer: A recoverer with a metric. It stays as it is.
        examples: Examples that none of the sources was trained on.
        fixed_weights: Keep the recoverer's weights, since somebody has chosen them.
        progress: Called with the number of examples just done.
        rescoring: Called with the number of examples whose candidates were just scored for the
            choice, if there is one.
    """
    said = recoverer.said(pairs_of(examples), progress=progress)
    with announced(f"fitting weights and confidence of {recoverer.name}"):
        return _fitted(recoverer, examples, said, fixed_weights, rescoring)


def _fitted(
    recoverer: PosteriorRecoverer,
    examples: Sequence[RewriteExample],
    said: Said,
    fixed_weights: bool,
    rescoring: Callable[[int], None],
) -> Fitted:
    """Fits what `fit_recoverer` does to what the sources said about the examples."""
    assert recoverer.scs is not None
    pairs = pairs_of(examples)
    joining = None
    retrievers = [n for n, (s, _) in enumerate(recoverer.sources) if isinstance(s, Retriever)]
    if retrievers and not fixed_weights and recoverer.decoding.uses_metric and said:
        near = [value for parts in said.values() if (value := familiarity_of(parts)) is not None]
        default = _default_of(recoverer, near)
        judged = [
            Judged(parts, examples[i].rewrite_prompt, recoverer.scs) for i, parts in said.items()
        ]
        found = fit(judged, default, retrievers)
        joining = found.joining
        log.info(
            "weights of %s: %s for familiar pairs, %s for unfamiliar ones, predicted embedding "
            "%.2f; validation SCS with fitted weights %.4f (cross-fitted), with the default %.4f",
            recoverer.name,
            _shown(joining.familiar),
            _shown(joining.unfamiliar),
            joining.embedding,
            found.scs,
            found.scs_default,
        )
    weighed = replace(recoverer, joining=joining)
    features = weighed.features(pairs, said, rescoring) if weighed.feature_names else None
    if features and weighed.choice is None:
        weighed.choice = _fitted_choice(weighed, features, examples)
    predictions = weighed.answers(pairs, said, features=features)
    familiarity = [familiarity_of(said.get(i, [])) for i in range(len(pairs))]
    known = None if all(value is None for value in familiarity) else familiarity
    calibration = calibrate_on(predictions, examples, recoverer.scs, known)
    return Fitted(joining, calibration, weighed.choice)


def _fitted_choice(
    recoverer: PosteriorRecoverer,
    features: Mapping[int, Features],
    examples: Sequence[RewriteExample],
) -> LogLinear | None:
    """The choice, if it is better than plain MBR; a line in the log says what was found."""
    assert recoverer.scs is not None
    actual = [
        recoverer.scs.matrix(found.texts, [examples[i].rewrite_prompt])[:, 0].astype(np.float64)
        for i, found in features.items()
    ]
    names = recoverer.feature_names
    prompts = [examples[i].rewrite_prompt for i in features]
    found = fit_choice(names, list(features.values()), actual, prompts)
    if found.model is None:
        log.info(
            "%s: the choice by %s is no better than plain MBR, which is used instead: validation "
            "SCS %.4f (cross-fitted) against %.4f; a standard error is %.4f",
            recoverer.name, ", ".join(names), found.scs, found.scs_plain, found.error,
        )  # fmt: skip
        return None
    log.info(
        "%s: the choice by %s has validation SCS %.4f (cross-fitted), plain MBR %.4f",
        recoverer.name,
        ", ".join(f"{name} ({weight:+.3g})" for name, weight in found.model.weights.items()),
        found.scs,
        found.scs_plain,
    )
    return found.model


def default_joining(
    weights: Sequence[float],
    retrievers: Sequence[int],
    near: Sequence[float],
    probes: Sequence[int] = (),
) -> Joining:
    """The weights that the fit starts from.

    For familiar pairs, each retriever weighs as much as all language models together. For
    unfamiliar pairs, a probe has no weight. A pair is familiar if it is at least as near to the
    training examples as the median validation example, and unfamiliar if it is further away than
    nearly all of them.

    Args:
        weights: The static weights of the sources, whose ratios stay among retrievers and among the
            other sources.
        retrievers: The numbers of the retrievers, at least one.
        near: The familiarity of validation examples.
        probes: The numbers of those retrievers that are the probe of a language model.
    """
    low, high = np.quantile(near, (0.02, 0.5)) if near else (0.0, 1.0)
    return Joining(
        scaled(weights, retrievers, len(retrievers) / (len(retrievers) + 1)),
        scaled(
            [0.0 if n in probes else weight for n, weight in enumerate(weights)],
            retrievers,
            RETRIEVED_AWAY,
        ),
        EMBEDDING_SHARE,
        round(float(low), 6),
        round(float(max(high, low + 1e-3)), 6),
    )


def unfitted_joining(recoverer: PosteriorRecoverer) -> Joining | None:
    """The weights of a recoverer for which there are no validation examples.

    The training texts of its first retriever that knows them stand for validation texts.

    Returns:
        None if no retriever knows its training texts, or if the decoding doesn't use the metric.
    """
    sources = [source for source, _ in recoverer.sources]
    known = [s.known for s in sources if isinstance(s, Retriever) and s.known is not None]
    if not known or not recoverer.decoding.uses_metric:
        return None
    return _default_of(recoverer, known[0].among_themselves().tolist())


def _default_of(recoverer: PosteriorRecoverer, near: Sequence[float]) -> Joining:
    """The default weights of a recoverer with a retriever."""
    sources = [source for source, _ in recoverer.sources]
    retrievers = [n for n, source in enumerate(sources) if isinstance(source, Retriever)]
    probes = [n for n in retrievers if is_probe(sources[n])]
    return default_joining([weight for _, weight in recoverer.sources], retrievers, near, probes)


def _shown(weights: Sequence[float]) -> str:
    return " : ".join(f"{weight:.2f}" for weight in weights)


def fit_key(
    decoding: Decoding,
    scs: SCS,
    folders: Sequence[Path],
    records: Sequence[Mapping[str, Any]],
    sources: Sequence[WriterSource | Retriever],
    weights: Sequence[float] = (),
    retrieval: Any = None,
    channel: Any = None,
    dtype: str | None = None,
    stated: float = SHARE,
    named: float = NAMED,
) -> str:
    """A fingerprint of all that the answers of a recoverer depend on, besides what is fitted.

    Args:
        decoding: How the answer is chosen.
        scs: The metric.
        folders: The folders of the trained models.
        records: Their records.
        sources: The sources that were loaded from them.
        weights: The weights of the runs, if they were given.
        retrieval: What identifies the fitted source that joins them, if any, as plain values.
        channel: The settings of the channel and the identity of its model, if there is one, as
            plain values.
        dtype: The precision that the sources would have on another machine, such as
            "torch.bfloat16", in place of the one that they have.
        stated: The share of what lead-ins state in the votes.
        named: The share of prompts that name the text.
    """
    return fingerprint(
        {
            "decoding": record(decoding),
            "weights": list(weights),
            "channel": channel,
            "metric": [scs.encoder.identity, scs.exponent],
            "members": [
                [weights_digest(folder), dict(saved), _depends_on(source, dtype)]
                for folder, saved, source in zip(folders, records, sources, strict=True)
            ],
            "retrieval": retrieval,
            "stated": [stated, FAMILIAR],
            "named": named,
        }
    )


def _depends_on(source: WriterSource | Retriever, dtype: str | None) -> Any:
    """What the posteriors of a source depend on besides its weights and its record."""
    if isinstance(source, WriterSource):
        return dtype or str(source.writer.model.dtype)
    return source.settings | ({} if dtype is None else {"dtype": dtype})


def kept_fit(folder: Path, key: str, recoverer: PosteriorRecoverer) -> Fitted | None:
    """What was fitted for this key, from `calibration.json` in a folder.

    Returns:
        None if nothing was, or if what was fitted isn't for this recoverer; a warning says so.
    """
    values = kept(folder).get(key)
    if values is None:
        return None
    found = Fitted.of(values)
    if not found.fits(recoverer):
        log.warning(
            "%s: weighs other features or sources than this version of prompt-recovery does, and "
            "is not used",
            calibration_file(folder),
        )
        return None
    return found


def keep_fit(folder: Path, key: str, fitted: Fitted) -> None:
    """Keeps what was fitted for a key; if that fails, a warning says why."""
    try:
        keep(folder, key, fitted.values)
    except PromptRecoveryError as error:
        log.warning("the calibration could not be kept: %s", error)
