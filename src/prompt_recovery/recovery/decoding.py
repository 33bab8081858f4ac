"""Decodings: how a writer is asked for answers, and how one of them is chosen.

A new decoding is one class here and one YAML file in `conf/decoding/`. If it ranks candidates by
SCS, it must set `uses_metric`; otherwise it cannot be combined with retrieval or with further runs.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.interface import Candidate
from prompt_recovery.recovery.mbr import rank, rank_with_combined
from prompt_recovery.recovery.posterior import Completion, Posterior
from prompt_recovery.settings import AtLeastOne, Count, Positive, checked

if TYPE_CHECKING:
    from prompt_recovery.recovery.writer import Writer  # loads torch

_KNOWN: dict[str, "type[Decoding]"] = {}


class Decoding(ABC):
    """How answers are written and chosen. Subclasses are frozen dataclasses of plain values.

    Attributes:
        name: The name in settings and records.
        uses_metric: Whether candidates are ranked by SCS. Scores of candidates from different
            sources are then comparable, while log-probabilities under different models aren't. Only
            then can several runs, or a run and a retrieval, choose together.
        max_new_tokens: The largest number of tokens of an answer.
    """

    name: ClassVar[str]
    uses_metric: ClassVar[bool] = False
    max_new_tokens: int

    def __init_subclass__(cls) -> None:
        _KNOWN[cls.name] = cls

    @property
    @abstractmethod
    def branches(self) -> int:
        """The number of answers to a prompt that are written at the same time."""

    @property
    def asked(self) -> dict[str, Any]:
        """What `ask` depends on besides the writer, the prompt, its id and the member."""
        return record(self)

    @abstractmethod
    def ask(
        self,
        writer: "Writer",
        prompts: Sequence[Sequence[int]],
        ids: Sequence[str],
        member: int = 0,
    ) -> list[Posterior]:
        """The posterior of a writer for each tokenised prompt.

        It depends on the prompt, its id, the seed and the member, but not on the rest of the batch.

        Args:
            writer: The model.
            prompts: The token ids of the prompts, which are one batch.
            ids: The ids of their pairs.
            member: How often the same writer comes before this one in an ensemble; each time, it
                draws different samples.
        """

    def choose(self, posteriors: Sequence[Posterior], scs: SCS | None) -> list[list[Candidate]]:
        """The candidates of each posterior, the best first: by log-probability per token.

        Texts that a retriever found are ordered by their weight.
        """
        return [_likeliest(posterior) for posterior in posteriors]


@checked("decoding")
@dataclass(frozen=True)
class Greedy(Decoding):
    """Greedy decoding: the likeliest token at each step.

    Attributes:
        max_new_tokens: The largest number of tokens of an answer.
    """

    name: ClassVar[str] = "greedy"
    max_new_tokens: AtLeastOne = 32

    @property
    def branches(self) -> int:
        """One answer."""
        return 1

    def ask(
        self,
        writer: "Writer",
        prompts: Sequence[Sequence[int]],
        ids: Sequence[str],
        member: int = 0,
    ) -> list[Posterior]:
        """One answer to each prompt."""
        rows = writer.write_greedily(prompts, self.max_new_tokens)
        return [Posterior.of_completions([completion]) for completion in rows]


@checked("decoding")
@dataclass(frozen=True)
class Beam(Decoding):
    """Beam search, with hypotheses compared by their log-probability per token.

    Attributes:
        beams: The number of hypotheses that are kept, and of candidates.
        max_new_tokens: The largest number of tokens of an answer.
    """

    name: ClassVar[str] = "beam"
    beams: AtLeastOne = 4
    max_new_tokens: AtLeastOne = 32

    @property
    def branches(self) -> int:
        """The number of beams."""
        return self.beams

    def ask(
        self,
        writer: "Writer",
        prompts: Sequence[Sequence[int]],
        ids: Sequence[str],
        member: int = 0,
    ) -> list[Posterior]:
        """The finished hypotheses."""
        rows = writer.write_beams(prompts, self.beams, self.max_new_tokens)
        return [_of_distinct(row) for row in rows]


@checked("decoding")
@dataclass(frozen=True)
class Sampling(Decoding):
    """Sampling: the sample with the highest log-probability per token is the answer.

    Attributes:
        samples: The number of samples for each prompt.
        temperature: The temperature, > 0.
        max_new_tokens: The largest number of tokens of an answer.
        seed: Determines the samples of a pair together with its id.
    """

    name: ClassVar[str] = "sampling"
    samples: AtLeastOne = 1
    temperature: Positive = 1.0
    max_new_tokens: AtLeastOne = 32
    seed: int = 0

    @property
    def branches(self) -> int:
        """The number of samples."""
        return self.samples

    def ask(
        self,
        writer: "Writer",
        prompts: Sequence[Sequence[int]],
        ids: Sequence[str],
        member: int = 0,
    ) -> list[Posterior]:
        """The distinct samples."""
        return [_of_distinct(row) for row in _sampled(self, writer, prompts, ids, member)]


@checked("decoding")
@dataclass(frozen=True)
class MBR(Decoding):
    """Minimum Bayes risk: the text with the highest expected SCS under the posterior is the answer.

    Needs a metric.

    Attributes:
        samples: The number of samples for each prompt, ≥ 2.
        temperature: The temperature, > 0.
        max_new_tokens: The largest number of tokens of an answer.
        by_probability: Weigh distinct samples by their probability under the model, instead of
            counting each sample once.
        seed: Determines the samples of a pair together with its id.
        combined: The number of best texts for different requests, any two of which are also joined
            to one prompt, which is the answer if its expected SCS is higher. 0 joins none.
    """

    name: ClassVar[str] = "mbr"
    uses_metric: ClassVar[bool] = True
    samples: Annotated[int, Ge(2)] = 16
    temperature: Positive = 0.7
    max_new_tokens: AtLeastOne = 32
    by_probability: bool = False
    seed: int = 0
    combined: Count = 6

    @property
    def branches(self) -> int:
        """The number of samples."""
        return self.samples

    @property
    def asked(self) -> dict[str, Any]:
        """All but what is done with the samples."""
        names = (f.name for f in fields(MBR) if f.name != "combined")
        return {"name": MBR.name, **{name: getattr(self, name) for name in names}}

    def ask(
        self,
        writer: "Writer",
        prompts: Sequence[Sequence[int]],
        ids: Sequence[str],
        member: int = 0,
    ) -> list[Posterior]:
        """The samples as a posterior."""
        return [
            Posterior.of_completions(row, self.by_probability)
            for row in _sampled(self, writer, prompts, ids, member)
        ]

    def choose(self, posteriors: Sequence[Posterior], scs: SCS | None) -> list[list[Candidate]]:
        """The texts of each posterior, the one with the highest expected SCS first."""
        if scs is None:
            raise PromptRecoveryError("MBR needs a metric; give the recoverer an scs")
        texts = {text for posterior in posteriors for text in posterior.texts}
        # Embeds all texts in one call; the encoder keeps their vectors, which `rank` then finds.
        scs.encoder.embed(sorted(texts) or [""])
        if self.combined:
            return rank_with_combined(posteriors, scs, self.combined)
        return [rank(posterior, scs) for posterior in posteriors]


@checked("decoding")
@dataclass(frozen=True)
class Choice(MBR):
    """MBR over a posterior that weighs several features of the best candidates.

    The weights are fitted on validation (see `recovery.choice`); where they don't help there, or
    there is no validation split, plain MBR answers.

    Attributes:
        samples: The number of samples for each prompt, ≥ 2.
        temperature: The temperature, > 0.
        max_new_tokens: The largest number of tokens of an answer.
        by_probability: Weigh distinct samples by their probability under the model, instead of
            counting each sample once.
        seed: Determines the samples of a pair together with its id.
        combined: As in `MBR`, where plain MBR answers.
        candidates: The number of best candidates under plain MBR that are weighed, ≥ 1.
    """

    name: ClassVar[str] = "choice"
    candidates: AtLeastOne = 12


def record(decoding: Decoding) -> dict[str, Any]:
    """The decoding as plain values, for `recoverer.yaml`."""
    return {"name": decoding.name, **asdict(decoding)}  # type: ignore[call-overload]


def from_record(values: dict[str, Any]) -> Decoding:
    """The decoding of a record; old records have no name, and mean greedy decoding.

    Raises:
        PromptRecoveryError: If the name is unknown, or a value is out of range.
    """
    kind: Any = _KNOWN.get(values.get("name", "greedy"))
    if kind is None:
        raise PromptRecoveryError(
            f"decoding '{values['name']}' is unknown: use one of {', '.join(_KNOWN)}"
        )
    known = {field.name for field in fields(kind)}
    made: Decoding = kind(**{name: value for name, value in values.items() if name in known})
    return made


def distinct(completions: Iterable[Completion]) -> list[Completion]:
    """The distinct answers that aren't blank, by descending log-probability per token.

    Of several answers with the same text, the one with the highest log-probability per token stays.
    """
    best: dict[str, Completion] = {}
    for completion in completions:
        known = best.get(completion.text)
        if completion.text and (
            known is None or completion.mean_log_probability > known.mean_log_probability
        ):
            best[completion.text] = completion
    return sorted(best.values(), key=lambda c: -c.mean_log_probability)


def uniforms(keys: Sequence[Sequence[Any]], branches: int, tokens: int) -> NDArray[np.float64]:
    """Random numbers in [0, 1), fp64 [len(keys), branches, tokens].

    Each row depends on its key only.
    """
    rows = []
    for key in keys:
        digest = hashlib.sha256("\0".join(map(str, key)).encode("utf-8", "surrogatepass")).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:16], "big"))
        rows.append(generator.random((branches, tokens)))
    return np.stack(rows)


def _sampled(
    decoding: Sampling | MBR,
    writer: "Writer",
    prompts: Sequence[Sequence[int]],
    ids: Sequence[str],
    member: int,
) -> list[list[Completion]]:
    # Members with one backbone must not draw the same samples.
    keys = [(decoding.seed + member, "recovery", id_) for id_ in ids]
    drawn = uniforms(keys, decoding.samples, decoding.max_new_tokens)
    temperatures = [decoding.temperature] * decoding.samples
    return writer.write(prompts, temperatures, drawn, decoding.max_new_tokens)


def _of_distinct(completions: Sequence[Completion]) -> Posterior:
    """The posterior over the distinct answers, weighted by their probability.

    Beam search and sampling choose by log-probability per token and don't read these weights, which
    are for callers of `PosteriorRecoverer.said`.
    """
    found = distinct(completions)
    return Posterior.of_completions(found or completions, by_probability=True)


def _likeliest(posterior: Posterior) -> list[Candidate]:
    """The texts that a model wrote, by descending log-probability per token.

    If no model wrote any, as in the posterior of a retriever, all texts by descending weight.
    """
    rows = zip(
        posterior.texts, posterior.log_probabilities, posterior.mean_log_probabilities, strict=True
    )
    candidates = [Candidate(text, total, mean) for text, total, mean in rows if mean is not None]
    if not candidates:
        rated = zip(posterior.texts, posterior.weights.tolist(), strict=True)
        candidates = [Candidate(text, None, weight) for text, weight in rated]
    return sorted(candidates, key=lambda c: -c.score)
