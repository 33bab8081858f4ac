"""The recoverer: it adds up the posteriors of its sources and lets a decoding choose from them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.choice import LogLinear
from prompt_recovery.recovery.confidence import Calibration
from prompt_recovery.recovery.decoding import Choice, Decoding
from prompt_recovery.recovery.features import Channel, FeatureMaker, Features
from prompt_recovery.recovery.interface import Candidate, Pair, Prediction
from prompt_recovery.recovery.joining import Joining
from prompt_recovery.recovery.kinds import KindNamer
from prompt_recovery.recovery.naming import NAMED, named_share, with_named
from prompt_recovery.recovery.posterior import Posterior, weighted_sum
from prompt_recovery.recovery.sources import Source, WriterSource
from prompt_recovery.recovery.stated import SHARE, with_stated
from prompt_recovery.terminal import counting

if TYPE_CHECKING:
    from prompt_recovery.recovery.writer import Writer  # loads torch

Said = dict[int, list[Posterior | None]]
"""What sources say about some pairs, before anything weighs it: by the index of a pair, the
posterior of each source, or None where it says nothing. Pairs of which none says anything are
missing."""


@dataclass
class PosteriorRecoverer:
    """Answers with the candidate that a decoding chooses from the weighted sum of posteriors.

    With one writer as its source it is a single model; with several it is an ensemble. A retriever
    can be a further source of either.

    Attributes:
        sources: At least one source, each with a weight > 0. Only a decoding that uses the metric
            can choose from several.
        decoding: How the answer is chosen.
        fallback: The answer for pairs with a blank or unusable text, and for pairs about which no
            source says anything.
        scs: The metric, for decodings that use it.
        calibration: From the score of an answer to its confidence, with this decoding.
        name: Its name in tables; by default the names of the sources.
        joining: Weights of the sources that depend on the pair, instead of those above.
        channel: Scores how well candidates explain the rewritten text.
        rescored: The number of best candidates that the channel scores, with other decodings than
            `Choice`, which has a number of its own.
        stated: The share of the votes on a pair that goes to the prompts that its lead-in states,
            if there are any and the decoding uses the metric, in [0, 1).
        named: The share of its votes that a prompt for an unfamiliar pair gives to prompts that
            name the original text by its kind, such as "this recipe", in [0, 1). The first language
            model among the sources says what kind it is. It is for decodings that use the metric,
            and for recoverers with a `joining`, which tells familiar pairs from others.
        choice: The posterior over the best candidates that takes the place of plain MBR's, with the
            recoverer's own decoding; None if plain MBR answers.
        seconds: What the last call of `recover` took: by the name of each source, for the
            "channel" and the "kinds of text", and for the "choice", which is everything else, such
            as the embedding of the candidates for MBR and their features. Samples that were found
            in the cache count with the time that they took when they were drawn.
    """

    sources: Sequence[tuple[Source, float]]
    decoding: Decoding
    fallback: str
    scs: SCS | None = None
    calibration: Calibration | None = None
    name: str = ""
    joining: Joining | None = None
    channel: Channel | None = None
    rescored: int = 16
    choice: LogLinear | None = None
    stated: float = SHARE
    named: float = NAMED
    seconds: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.name = self.name or " + ".join(source.name for source, _ in self.sources)
        written = [source for source, _ in self.sources if isinstance(source, WriterSource)]
        self._namer = KindNamer(written[0].writer, written[0].keeps) if written else None

    @classmethod
    def of_writer(
        cls, writer: "Writer", decoding: Decoding, fallback: str, scs: SCS | None = None
    ) -> "PosteriorRecoverer":
        """The recoverer of a single model."""
        return cls([(WriterSource(writer), 1.0)], decoding, fallback, scs)

    def recover(
        self,
        pairs: Sequence[Pair],
        progress: Callable[[int], None] = lambda _: None,
        decoding: Decoding | None = None,
    ) -> list[Prediction]:
        """One prediction for each pair, in order.

        Args:
            pairs: Pairs with distinct ids. The id and the seed of the decoding determine a pair's
                samples.
            progress: Called with the number of pairs just done.
            decoding: Used instead of the recoverer's own. Predictions then have no confidence,
                since the calibration is for the recoverer's own decoding.

        Raises:
            PromptRecoveryError: If the decoding needs a metric and there is none, or it cannot
                choose from several sources.
        """
        self._check(decoding or self.decoding)
        self.seconds.clear()
        begun = time.perf_counter()
        predictions = self.answers(pairs, self.said(pairs, decoding, progress), decoding)
        others = sum(self.seconds.values())
        self.seconds["choice"] = max(time.perf_counter() - begun - others, 0.0)
        for source, _ in self.sources:
            if isinstance(source, WriterSource):
                self.seconds[source.name] += source.saved
        return predictions

    def said(
        self,
        pairs: Sequence[Pair],
        decoding: Decoding | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Said:
        """What the sources say about the pairs; takes the arguments of `recover`."""
        shared = _SharedProgress(progress, len(self.sources))
        parts: Said = {}
        for number, (source, _) in enumerate(self.sources):
            with self._timed(source.name):
                said = source.posteriors(pairs, decoding or self.decoding, shared)
            for index, posterior in said.items():
                parts.setdefault(index, [None] * len(self.sources))[number] = posterior
        return dict(sorted(parts.items()))

    def answers(
        self,
        pairs: Sequence[Pair],
        said: Said,
        decoding: Decoding | None = None,
        features: Mapping[int, Features] | None = None,
    ) -> list[Prediction]:
        """One prediction for each pair from what the sources said about it, in order.

        Args:
            pairs: The pairs that `said` is about.
            said: What the sources said; the weights are the recoverer's present ones.
            decoding: As for `recover`.
            features: The features of the candidates, if they are known already.
        """
        own = decoding in (None, self.decoding)
        calibration = self.calibration if own else None
        joined = self.joined(pairs, said, decoding)
        if own and self.choice is not None:
            if features is None:
                with counting("scoring the candidates", len(pairs), "pairs") as advance:
                    features = self._features(pairs, said, joined, advance)
            candidates = {i: self.choice.rank(found) for i, found in features.items()}
        else:
            chosen = (decoding or self.decoding).choose(list(joined.values()), self.scs)
            candidates = dict(zip(joined, chosen, strict=True))
        return [
            _predicted(
                pair.id,
                candidates.get(i, []),
                self.fallback,
                calibration,
                joined[i].familiarity if i in joined else None,
            )
            for i, pair in enumerate(pairs)
        ]

    def alone(self, number: int) -> "PosteriorRecoverer":
        """The same recoverer with one of its sources only, and no confidence."""
        source = self.sources[number]
        return PosteriorRecoverer([source], self.decoding, self.fallback, self.scs)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features that a choice weighs; empty if the decoding and the sources ask for none."""
        heard = () if self.channel is None else ("channel",)
        if not isinstance(self.decoding, Choice):
            return ("prior", *heard) if heard else ()
        written = any(isinstance(source, WriterSource) for source, _ in self.sources)
        retrieved = any(not isinstance(source, WriterSource) for source, _ in self.sources)
        both = ("written", "retrieved") if written and retrieved else ()
        found = ("embedding",) if retrieved else ()
        likely = ("log_probability",) if written else ()
        return ("prior", *both, *found, *likely, "length", *heard)

    def features(
        self,
        pairs: Sequence[Pair],
        said: Said,
        progress: Callable[[int], None] = lambda _: None,
    ) -> dict[int, Features]:
        """The features of the best candidates of each pair that has any, by its index.

        Args:
            pairs: The pairs that `said` is about.
            said: What the sources said.
            progress: Called with the number of pairs just done.
        """
        return self._features(pairs, said, self.joined(pairs, said), progress)

    def _features(
        self,
        pairs: Sequence[Pair],
        said: Said,
        joined: Mapping[int, Posterior],
        progress: Callable[[int], None],
    ) -> dict[int, Features]:
        assert self.scs is not None
        count = self.decoding.candidates if isinstance(self.decoding, Choice) else self.rescored
        writers = [s.writer if isinstance(s, WriterSource) else None for s, _ in self.sources]
        channel = None if self.channel is None else self._heard
        make = FeatureMaker(self.feature_names, self.scs, count, writers, channel)
        found = {}
        for index, posterior in joined.items():
            features = make(pairs[index], said[index], posterior)
            if features is not None:
                found[index] = features
            progress(1)
        progress(len(pairs) - len(joined))
        return found

    def _heard(self, pair: Pair, texts: Sequence[str]) -> list[float]:
        assert self.channel is not None
        with self._timed("channel"):
            return self.channel(pair, texts)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begun

    def joined(
        self, pairs: Sequence[Pair], said: Said, decoding: Decoding | None = None
    ) -> dict[int, Posterior]:
        """The weighted sum of the posteriors of each pair about which a source says anything.

        Args:
            pairs: The pairs that `said` is about.
            said: What the sources said.
            decoding: As for `recover`. If it uses the metric, what a lead-in states counts, too,
                and prompts for unfamiliar pairs name the text.
        """
        found = {
            index: posterior
            for index, parts in said.items()
            if (posterior := self._joined(parts)) is not None
        }
        if not (decoding or self.decoding).uses_metric:
            return found
        trust = {index: self._trust(posterior) for index, posterior in found.items()}
        unfamiliar = [i for i in found if named_share(self.named, trust[i])]
        kinds = self._kinds({i: pairs[i].original_text for i in unfamiliar})
        for index, posterior in found.items():
            told = with_stated(posterior, pairs[index].rewritten_text, self.stated, trust[index])
            named = self.named if index in kinds else 0.0
            found[index] = with_named(told, kinds.get(index), named, trust[index])
        return found

    def _kinds(self, originals: Mapping[int, str]) -> dict[int, str | None]:
        """The kind of each text that prompts are to name; empty if they are to name none."""
        if self.joining is None or not originals:
            return {}
        if self._namer is None:
            return dict.fromkeys(originals)
        with self._timed("kinds of text"):
            return dict(zip(originals, self._namer(list(originals.values())), strict=True))

    def _trust(self, posterior: Posterior) -> float:
        """How far to trust a retriever with the pair of a posterior; 0 if there is none."""
        return 0.0 if self.joining is None else self.joining.trust(posterior.familiarity)

    def _joined(self, parts: Sequence[Posterior | None]) -> Posterior | None:
        if self.joining is not None:
            return self.joining.join(parts)
        weights = [weight for _, weight in self.sources]
        said = [(p, w) for p, w in zip(parts, weights, strict=True) if p is not None]
        return weighted_sum(said) if said else None

    def _check(self, decoding: Decoding) -> None:
        if decoding.uses_metric and self.scs is None:
            raise PromptRecoveryError(
                f"{self.name}: {type(decoding).__name__} needs a metric; give the recoverer an scs"
            )
        if len(self.sources) > 1 and not decoding.uses_metric:
            raise PromptRecoveryError(
                f"{self.name}: several sources choose together by a decoding that uses the metric, "
                "such as decoding=mbr"
            )


class _SharedProgress:
    """Counts a pair as done when all sources are done with it."""

    def __init__(self, progress: Callable[[int], None], sources: int) -> None:
        self._progress, self._sources = progress, sources
        self._seen = self._told = 0

    def __call__(self, count: int) -> None:
        self._seen += count
        done = self._seen // self._sources - self._told
        self._told += done
        self._progress(done)


def _predicted(
    id_: str,
    candidates: Sequence[Candidate],
    fallback: str,
    calibration: Calibration | None,
    familiarity: float | None,
) -> Prediction:
    """The best candidate of a pair, or the fallback if there is none."""
    if not candidates:
        return Prediction(id_, fallback, fallback=True)
    best = candidates[0]
    confidence = None if calibration is None else calibration(best.score, familiarity)
    return Prediction(id_, best.text, False, tuple(candidates), confidence)
