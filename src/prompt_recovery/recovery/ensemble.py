"""Several recoverers, and the neighbours of a pair, that choose one answer together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.confidence import Calibration
from prompt_recovery.recovery.decoding import MBR
from prompt_recovery.recovery.interface import Candidate, Pair, Prediction
from prompt_recovery.recovery.mbr import Samples, rank
from prompt_recovery.recovery.recoverer import ModelRecoverer, predicted
from prompt_recovery.recovery.retrieval import Voters


@dataclass
class Ensemble:
    """Minimum Bayes risk over the samples of all members, which may have different backbones, and
    over the prompts of a pair's neighbours among the training examples.

    Attributes:
        members: at least one; the first one's metric and fallback are the ensemble's.
        decoding: how many samples each member draws, and how.
        weights: how much a sample of each member counts, > 0; alike if not given.
        voters: neighbours that stand for election and vote, too.
        calibration: from an answer's expected SCS among the samples to that against the truth.
        name: in tables.

    Raises:
        PromptRecoveryError: another number of weights than of members, or one that is not > 0.
    """

    members: Sequence[ModelRecoverer]
    decoding: MBR
    weights: Sequence[float] = field(default_factory=list)
    voters: Voters | None = None
    calibration: Calibration | None = None
    name: str = ""

    def __post_init__(self) -> None:
        self.weights = list(self.weights) or [1.0] * len(self.members)
        if len(self.weights) != len(self.members) or min(self.weights) <= 0:
            raise PromptRecoveryError(
                f"weights={self.weights}: give one > 0 for each of the {len(self.members)} runs"
            )
        names = [member.name for member in self.members] + ["neighbours"] * bool(self.voters)
        self.name = self.name or " + ".join(names)
        self.fallback = self.members[0].fallback

    def recover(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """One prediction for each pair, in order; the score of a candidate is its expected SCS."""
        mean = sum(self.weights) / len(self.weights)
        said: list[list[Samples]] = [[] for _ in pairs]
        for number, (member, weight) in enumerate(zip(self.members, self.weights, strict=True)):
            # Members with one backbone must not draw the same samples.
            decoding = replace(self.decoding, seed=self.decoding.seed + number)
            last = number == len(self.members) - 1
            found = member.ask(
                pairs,
                decoding,
                partial(decoding.samples_of, member),
                progress if last else lambda _: None,
            )
            for index, samples in found.items():
                said[index].append(replace(samples, weight=weight / mean))
        if self.voters is not None:
            votes = len(self.members) * self.decoding.samples
            for index, prompts in self.voters.votes(pairs, votes).items():
                said[index].append(prompts)
        scs = self.members[0].metric()
        texts = {text for groups in said for samples in groups for text in samples.texts}
        scs.encoder.embed(sorted(texts) or [""])  # all at once
        return [
            predicted(
                pair.id,
                [Candidate(*c) for c in rank(groups, scs, self.decoding.by_probability)],
                self.fallback,
                self.calibration,
            )
            for pair, groups in zip(pairs, said, strict=True)
        ]
