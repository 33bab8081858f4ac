"""How an answer is chosen among what a model can say."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.interface import Candidate
from prompt_recovery.recovery.mbr import Samples, rank

if TYPE_CHECKING:
    from prompt_recovery.recovery.recoverer import ModelRecoverer


class Decoding(Protocol):
    """Whatever proposes answers; a frozen dataclass of plain values."""

    name: ClassVar[str]

    @property
    def max_new_tokens(self) -> int:
        """Most tokens of an answer."""
        ...

    @property
    def branches(self) -> int:
        """How many answers to a prompt are written at a time."""
        ...

    def candidates(
        self, recoverer: "ModelRecoverer", prompts: Sequence[Sequence[int]], ids: Sequence[str]
    ) -> list[list[Candidate]]:
        """Distinct answers to each tokenised prompt, the best first; none if all are blank.

        They depend on the prompt, its id and the seed, never on the rest of the batch.
        """
        ...


@dataclass(frozen=True)
class Greedy:
    """The likeliest token, step by step.

    Attributes:
        max_new_tokens: most tokens of an answer.
    """

    name: ClassVar[str] = "greedy"
    branches: ClassVar[int] = 1
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        _require_positive(self, "max_new_tokens")

    def candidates(
        self, recoverer: "ModelRecoverer", prompts: Sequence[Sequence[int]], ids: Sequence[str]
    ) -> list[list[Candidate]]:
        """One answer to each prompt."""
        rows = recoverer.write(prompts, [0.0], None, self.max_new_tokens)
        return [distinct(row) for row in rows]


@dataclass(frozen=True)
class Beam:
    """Beam search; hypotheses are compared by log-probability per token.

    Attributes:
        beams: hypotheses kept, and candidates.
        max_new_tokens: most tokens of an answer.
    """

    name: ClassVar[str] = "beam"
    beams: int = 4
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        _require_positive(self, "beams", "max_new_tokens")

    @property
    def branches(self) -> int:
        """The beams."""
        return self.beams

    def candidates(
        self, recoverer: "ModelRecoverer", prompts: Sequence[Sequence[int]], ids: Sequence[str]
    ) -> list[list[Candidate]]:
        """The finished hypotheses."""
        rows = recoverer.search(prompts, self.beams, self.max_new_tokens)
        return [distinct(row) for row in rows]


@dataclass(frozen=True)
class Sampling:
    """Samples, of which the one with the highest log-probability per token answers.

    Attributes:
        samples: of each prompt.
        temperature: > 0.
        max_new_tokens: most tokens of an answer.
        seed: with a pair's id, determines its samples.
    """

    name: ClassVar[str] = "sampling"
    samples: int = 1
    temperature: float = 1.0
    max_new_tokens: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        _require_positive(self, "samples", "temperature", "max_new_tokens")

    @property
    def branches(self) -> int:
        """The samples."""
        return self.samples

    def candidates(
        self, recoverer: "ModelRecoverer", prompts: Sequence[Sequence[int]], ids: Sequence[str]
    ) -> list[list[Candidate]]:
        """The distinct samples, the likeliest first."""
        return [distinct(row) for row in _sampled(self, recoverer, prompts, ids)]


@dataclass(frozen=True)
class MBR:
    """Minimum Bayes risk: the sample with the highest mean SCS to all others answers.

    Needs the recoverer's metric.

    Attributes:
        samples: of each prompt, ≥ 2.
        temperature: > 0.
        max_new_tokens: most tokens of an answer.
        by_probability: samples count by their probability under the model, in place of once each.
        seed: with a pair's id, determines its samples.
    """

    name: ClassVar[str] = "mbr"
    samples: int = 16
    temperature: float = 0.7
    max_new_tokens: int = 32
    by_probability: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _require_positive(self, "temperature", "max_new_tokens")
        if self.samples < 2:
            raise PromptRecoveryError(f"decoding.samples={self.samples}: MBR needs at least 2")

    @property
    def branches(self) -> int:
        """The samples."""
        return self.samples

    def candidates(
        self, recoverer: "ModelRecoverer", prompts: Sequence[Sequence[int]], ids: Sequence[str]
    ) -> list[list[Candidate]]:
        """The distinct samples, the one nearest to all others first."""
        rows = self.samples_of(recoverer, prompts, ids)
        scs = recoverer.metric()
        scs.encoder.embed(sorted({text for row in rows for text in row.texts}) or [""])  # at once
        return [
            [Candidate(*ranked) for ranked in rank([row], scs, self.by_probability)] for row in rows
        ]

    def samples_of(
        self, recoverer: "ModelRecoverer", prompts: Sequence[Sequence[int]], ids: Sequence[str]
    ) -> list[Samples]:
        """What a recoverer answers to each prompt, blank and repeated answers included."""
        return [
            Samples([c.text for c in row], [c.log_probability for c in row])
            for row in _sampled(self, recoverer, prompts, ids)
        ]


_KINDS: dict[str, Any] = {kind.name: kind for kind in (Greedy, Beam, Sampling, MBR)}


def record(decoding: Decoding) -> dict[str, Any]:
    """A decoding as plain values, for `recoverer.yaml`."""
    return {"name": decoding.name, **asdict(decoding)}  # type: ignore[call-overload]


def from_record(values: dict[str, Any]) -> Decoding:
    """The opposite of `record`; one without a name is greedy, as all were once.

    Raises:
        PromptRecoveryError: another name, or a value that is out of range.
    """
    kind = _KINDS.get(values.get("name", "greedy"))
    if kind is None:
        raise PromptRecoveryError(
            f"decoding '{values['name']}' is unknown: known are {', '.join(_KINDS)}"
        )
    known = {field.name for field in fields(kind)}
    made: Decoding = kind(**{name: value for name, value in values.items() if name in known})
    return made


def distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that say something, each text once with its highest score, the best first."""
    best: dict[str, Candidate] = {}
    for candidate in candidates:
        known = best.get(candidate.text)
        if candidate.text and (known is None or candidate.score > known.score):
            best[candidate.text] = candidate
    return sorted(best.values(), key=lambda c: -c.score)


def uniforms(keys: Sequence[Sequence[Any]], branches: int, tokens: int) -> NDArray[np.float64]:
    """fp64 [len(keys), branches, tokens], uniform in [0, 1); each row depends on its key alone."""
    rows = []
    for key in keys:
        digest = hashlib.sha256("\0".join(map(str, key)).encode("utf-8", "surrogatepass")).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:16], "big"))
        rows.append(generator.random((branches, tokens)))
    return np.stack(rows)


def _sampled(
    decoding: Sampling | MBR,
    recoverer: "ModelRecoverer",
    prompts: Sequence[Sequence[int]],
    ids: Sequence[str],
) -> list[list[Candidate]]:
    keys = [(decoding.seed, "recovery", id_) for id_ in ids]
    drawn = uniforms(keys, decoding.samples, decoding.max_new_tokens)
    temperatures = [decoding.temperature] * decoding.samples
    return recoverer.write(prompts, temperatures, drawn, decoding.max_new_tokens)


def _require_positive(decoding: Any, *names: str) -> None:
    for name in names:
        if not getattr(decoding, name) > 0:
            raise PromptRecoveryError(f"decoding.{name}={getattr(decoding, name)}: must be > 0")
