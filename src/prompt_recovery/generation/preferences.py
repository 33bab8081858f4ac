"""Makes candidates, scores and preferences for a newly generated dataset."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from prompt_recovery.backbones.adapters import load_adapter
from prompt_recovery.backbones.load import load_model, load_tokenizer
from prompt_recovery.backbones.locate import locate
from prompt_recovery.backbones.precision import choose_precision
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import Splits
from prompt_recovery.generation.cluster import Cluster, Work
from prompt_recovery.generation.job import Guessing
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.preferences import Preferences, prepare_preferences
from prompt_recovery.preferences.build import candidate_sources
from prompt_recovery.preferences.candidates import Answers, ask
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.runs.folder import adapter_folder, weights_digest
from prompt_recovery.storage import fingerprint

T = TypeVar("T")
_PAIRS = 1024  # number of pairs that a worker scores at a time


@dataclass(frozen=True)
class Guesser(Guessing):
    """The model described by `Guessing`, ready to be loaded and sampled."""

    @property
    def adapter(self) -> Path | None:
        """The adapter's folder, or None for the backbone alone."""
        return None if self.start is None else adapter_folder(self.start)

    def identity(self) -> str:
        """Returns a fingerprint of everything that the model's guesses depend on."""
        digest = None if self.adapter is None else weights_digest(self.adapter)
        return fingerprint(locate(self.backbone).identity, self.precision, digest)

    def writer(self, with_model: bool) -> Writer:
        """Returns a writer; without its model, it can only render and tokenize prompts."""
        location = locate(self.backbone)
        return Writer(
            model=self._model() if with_model else None,
            tokenizer=load_tokenizer(self.backbone, location),
            template=self.template,
            max_prompt_tokens=self.max_prompt_tokens,
            name=self.backbone.name if self.adapter is None else f"{self.adapter}",
        )

    def _model(self) -> Any:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        chosen = choose_precision(self.precision, device)
        model = load_model(
            self.backbone, locate(self.backbone), chosen.dtype, eight_bit=chosen.eight_bit
        )
        if self.adapter is not None:
            model = load_adapter(model, self.adapter, chosen.dtype).eval()
        return model.to(device)


@dataclass(frozen=True)
class PreferenceStage:
    """Makes preferences, distributed over a cluster. It is the `Preparation` of a job.

    Attributes:
        preferences: Settings of candidates and pairing.
        guesser: The model that is sampled.
        scs: Makes the metric in the process that needs it.
        cluster: Decides where the work is done.
        seed: Seed of the samples.
    """

    preferences: Preferences
    guesser: Guesser
    scs: Callable[[], SCS]
    cluster: Cluster
    seed: int

    def settings(self) -> dict[str, Any]:
        """Returns everything that determines the result, as JSON values."""
        scs = self.scs()
        wanted = self.preferences
        return {
            "mix": asdict(wanted.mix),
            "pairing": asdict(wanted.pairing),
            "api": {"model": wanted.api.model, "address": wanted.api.published_address},
            "template": asdict(self.guesser.template),
            "max_prompt_tokens": self.guesser.max_prompt_tokens,
            "guesser": {"name": self.guesser.backbone.name, "identity": self.guesser.identity()},
            "metric": {"encoder": scs.encoder.identity, "exponent": scs.exponent},
        }

    def __call__(self, splits: Splits, folder: Path) -> None:
        """Makes preferences for the training split and writes them to `folder`."""

        def asking(batches: Sequence[Sequence[RewriteExample]]) -> Iterable[Answers]:
            make = partial(
                _asking, self.preferences, self.guesser, self.scs, self.seed, splits.train
            )
            return _ordered(self.cluster.each(batches, make, block=1))

        prepare_preferences(
            self.preferences,
            "",
            splits,
            self.guesser.writer(with_model=False),
            _SpreadSCS(self.scs, self.cluster),
            self.guesser.identity(),
            group=False,
            seed=self.seed,
            folder=folder,
            asking=asking,
        )


def _asking(
    preferences: Preferences,
    guesser: Guesser,
    scs: Callable[[], SCS],
    seed: int,
    examples: Sequence[RewriteExample],
) -> Work[Sequence[RewriteExample], Answers]:
    writer = guesser.writer(with_model=True)
    sources = candidate_sources(preferences, examples, writer, scs(), seed)
    return lambda batches: ((n, ask(batch, sources)) for n, batch in enumerate(batches))


def _ordered(results: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Yields results in the order of their items."""
    early: dict[int, T] = {}
    due = 0
    for index, result in results:
        early[index] = result
        while due in early:
            yield early.pop(due)
            due += 1


class _SpreadSCS(SCS):
    """The metric, with its scoring distributed over a cluster."""

    def __init__(self, make: Callable[[], SCS], cluster: Cluster) -> None:
        own = make()
        super().__init__(own.encoder, own.exponent)
        self._make, self._cluster = make, cluster

    def __call__(self, predictions: Sequence[str], truths: Sequence[str]) -> NDArray[np.float32]:
        pairs = list(zip(predictions, truths, strict=True))
        scores = _ordered(self._cluster.each(pairs, partial(_scoring, self._make), _PAIRS))
        return np.fromiter(scores, np.float32, len(pairs))


def _scoring(make: Callable[[], SCS]) -> Work[tuple[str, str], float]:
    scs = make()

    def score(pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[int, float]]:
        scores = scs([text for text, _ in pairs], [truth for _, truth in pairs])
        return enumerate(scores.tolist())

    return score
