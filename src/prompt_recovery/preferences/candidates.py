"""Candidates: guesses at the prompts of examples, from several sources, kept as they come."""

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import normalise
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.cleaning import clean_prompt
from prompt_recovery.recovery.decoding import uniforms
from prompt_recovery.storage import Journal, locked

if TYPE_CHECKING:
    from prompt_recovery.recovery.writer import Writer  # loads torch

BATCH = 16  # examples; a batch is finished whole or not at all


@dataclass(frozen=True, slots=True)
class Candidate:
    """One guess at a prompt.

    Attributes:
        text: cleaned of chatter, never empty.
        source: where it came from: sampled, zero_shot, corrupted, others or api.
        scs: against the truth, in [-1, 1]; NaN before scoring.
    """

    text: str
    source: str
    scs: float = float("nan")


class CandidateSource(Protocol):
    """Whatever proposes candidates. The same example must get the same ones every time."""

    @property
    def name(self) -> str:
        """What its candidates are marked with."""
        ...

    def propose(self, examples: Sequence[RewriteExample]) -> list[list[str]]:
        """Raw answers for each example, in order; they may be empty or repeat."""
        ...


@dataclass(frozen=True)
class SampledCandidates:
    """Samples of a writer, each example's prompt read once for all of them.

    Attributes:
        writer: the model; with `adapter=False` its backbone, zero-shot.
        temperatures: one sample for each.
        max_new_tokens: most tokens of a sample.
        seed: with an example's id, determines its samples.
        name: sampled or zero_shot.
    """

    writer: "Writer"
    temperatures: Sequence[float]
    max_new_tokens: int
    seed: int
    name: str = "sampled"

    def propose(self, examples: Sequence[RewriteExample]) -> list[list[str]]:
        """As many samples of each example as there are temperatures."""
        shape = (len(self.temperatures), self.max_new_tokens)
        drawn = uniforms([(self.seed, self.name, e.id) for e in examples], *shape)
        prompts = [self.writer.prompt_tokens(e) for e in examples]
        rows = self.writer.write(prompts, self.temperatures, drawn, self.max_new_tokens)
        return [[completion.raw for completion in row] for row in rows]


@dataclass(frozen=True)
class CorruptedTruths:
    """True prompts with something wrong in them: words lost, or half of another prompt.

    Attributes:
        prompts: those that lend words.
        count: candidates of each example.
        seed: with an example's id, determines them.
        name: corrupted.
    """

    prompts: Sequence[str]
    count: int
    seed: int
    name: str = "corrupted"

    def propose(self, examples: Sequence[RewriteExample]) -> list[list[str]]:
        """`count` corruptions of each example's true prompt."""
        return [
            [self._corrupt(e.rewrite_prompt, seeded_random(self.seed, self.name, e.id, n))
             for n in range(self.count)]
            for e in examples
        ]  # fmt: skip

    def _corrupt(self, prompt: str, rng: random.Random) -> str:
        words = prompt.split()
        other = rng.choice(self.prompts).split()
        match rng.randrange(3):
            case 0:  # every third word or so is lost
                return " ".join(w for w in words if rng.random() > 0.34) or words[0]
            case 1:  # its beginning, another's end
                return " ".join([*words[: (len(words) + 1) // 2], *other[len(other) // 2 :]])
            case _:  # two words are another's
                for _ in range(2):
                    words[rng.randrange(len(words))] = rng.choice(other)
                return " ".join(words)


@dataclass(frozen=True)
class OtherPrompts:
    """Prompts of other examples that are near the truth, and wrong: hard negatives.

    Attributes:
        prompts: to choose from.
        scs: says what is near.
        count: candidates of each example.
        seed: with an example's id, determines them.
        nearest: how many of the nearest to choose from.
        name: others.
    """

    prompts: Sequence[str]
    scs: SCS
    count: int
    seed: int
    nearest: int = 32
    name: str = "others"

    def propose(self, examples: Sequence[RewriteExample]) -> list[list[str]]:
        """`count` of the nearest other prompts of each example."""
        scores = self.scs.matrix([e.rewrite_prompt for e in examples], self.prompts)
        rows = []
        for example, row in zip(examples, scores, strict=True):
            order = [
                self.prompts[i]
                for i in np.argsort(-row)[: self.nearest + self.count]
                if normalise(self.prompts[i]) != normalise(example.rewrite_prompt)
            ]
            rng = seeded_random(self.seed, self.name, example.id, 0)
            rows.append(rng.sample(order, min(self.count, len(order))))
        return rows


Answers = dict[str, list[list[str]]]
"""id → [source, raw answer] of an example."""
Asking = Callable[[Sequence[Sequence[RewriteExample]]], Iterable[Answers]]
"""Takes batches of examples; gives the answers to each batch, in order."""


def collect_candidates(
    examples: Sequence[RewriteExample],
    sources: Sequence[CandidateSource],
    store: Path,
    progress: Callable[[int], None] = lambda _: None,
    asking: Asking | None = None,
) -> dict[str, list[Candidate]]:
    """Asks every source about every example, and keeps the answers in a file as they come.

    The file has a line for each batch of examples, written and synced when the batch is done. A
    process that is killed loses the batch it was at; the next one goes on behind the last whole
    line. A second process waits for the first and then finds everything.

    Args:
        examples: with distinct ids.
        sources: asked in this order.
        store: the file; its name must change when anything changes that the answers depend on.
        progress: called with the number of examples just done.
        asking: asks those same sources elsewhere, on a cluster say; None asks them here.

    Returns:
        id → its distinct candidates, cleaned, in the order of the sources.

    Raises:
        PromptRecoveryError: the file cannot be written.
    """
    order = sorted(examples, key=lambda e: (-len(e.original_text + e.rewritten_text), e.id))
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    found: dict[str, list[Candidate]] = {}
    with locked(store):
        expected = iter(batches)
        journal = Journal(store, lambda value: _answers(value, next(expected, [])), in_order=True)
        done = journal.values
        missing = batches[len(done) :]
        asked = iter(asking(missing) if asking else (ask(b, sources) for b in missing))
        for number, batch in enumerate(batches):
            if number < len(done):
                answers = done[number]
            else:
                answers = next(asked)
                journal.append(answers)
            for example in batch:
                found[example.id] = _distinct(answers[example.id])
            progress(len(batch))
    return {e.id: found[e.id] for e in examples}


def ask(batch: Sequence[RewriteExample], sources: Sequence[CandidateSource]) -> Answers:
    """Asks every source about a batch of examples."""
    answers: Answers = {e.id: [] for e in batch}
    for source in sources:
        for example, texts in zip(batch, source.propose(batch), strict=True):
            answers[example.id] += [[source.name, text] for text in texts]
    return answers


def _answers(value: Any, batch: Sequence[RewriteExample]) -> Answers:
    """The answers to a batch from a line of the store.

    Raises:
        KeyError, TypeError, ValueError: it holds something else.
    """
    answers = {e.id: [[source, text] for source, text in value[e.id]] for e in batch}
    if not all(isinstance(s, str) for row in answers.values() for pair in row for s in pair):
        raise TypeError("an answer is not a text")
    return answers


def _distinct(answers: Sequence[Sequence[str]]) -> list[Candidate]:
    kept: dict[str, Candidate] = {}
    for source, text in answers:
        cleaned = clean_prompt(text)
        if cleaned:
            kept.setdefault(normalise(cleaned), Candidate(cleaned, source))
    return list(kept.values())


def _digest(*parts: Any) -> bytes:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()


def seeded_random(*parts: Any) -> random.Random:
    """A generator that depends on these parts alone."""
    return random.Random(_digest(*parts))
