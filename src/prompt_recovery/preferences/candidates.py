"""Candidates: guesses at the prompts of examples, collected from several sources."""

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
from prompt_recovery.recovery.bank import nearest
from prompt_recovery.recovery.cleaning import clean_prompt
from prompt_recovery.recovery.decoding import uniforms
from prompt_recovery.recovery.interface import pairs_of
from prompt_recovery.storage import Journal, locked

if TYPE_CHECKING:
    from prompt_recovery.recovery.retriever import Retriever  # loads torch
    from prompt_recovery.recovery.writer import Writer

BATCH = 16  # examples whose candidates are saved together
_EQUAL = 8  # prompts of a bank that may differ from the truth in spelling only


@dataclass(frozen=True, slots=True)
class PreferenceCandidate:
    """A guess at a prompt that may become a preference.

    What a recoverer chooses from is `recovery.Candidate`.

    Attributes:
        text: The guess without chatter, never empty.
        source: Where it came from: sampled, zero_shot, corrupted, others, retrieved
            or api.
        scs: SCS against the truth, in [-1, 1]; NaN before scoring.
    """

    text: str
    source: str
    scs: float = float("nan")


class CandidateSource(Protocol):
    """Proposes candidates. The same example must always get the same candidates."""

    @property
    def name(self) -> str:
        """Name of the source, stored with its candidates."""
        ...

    def propose(self, examples: Sequence[RewriteExample]) -> list[list[str]]:
        """Returns raw answers for each example, in order. They may be empty or repeat."""
        ...


@dataclass(frozen=True)
class SampledCandidates:
    """Samples a writer, processing each example's prompt once for all of its samples.

    Attributes:
        writer: The model. With `adapter=False`, its backbone is sampled zero-shot.
        temperatures: The temperature of each sample.
        max_new_tokens: Maximum number of tokens in a sample.
        seed: Determines the samples, together with the example's id.
        name: sampled or zero_shot.
    """

    writer: "Writer"
    temperatures: Sequence[float]
    max_new_tokens: int
    seed: int
    name: str = "sampled"

    def propose(self, examples: Sequence[RewriteExample]) -> list[list[str]]:
        """Returns one sample per temperature for each example."""
        shape = (len(self.temperatures), self.max_new_tokens)
        drawn = uniforms([(self.seed, self.name, e.id) for e in examples], *shape)
        prompts = [self.writer.prompt_tokens(e) for e in examples]
        rows = self.writer.write(prompts, self.temperatures, drawn, self.max_new_tokens)
        return [[completion.raw for completion in row] for row in rows]


@dataclass(frozen=True)
class CorruptedTruths:
    """Corrupts true prompts: some words are missing or come from another prompt.

    Attributes:
        prompts: The prompts from which other words are taken.
        count: Number of candidates per example.
        seed: Determines the candidates, together with the example's id.
        name: corrupted.
    """

    prompts: Sequence[str]
    count: int
    seed: int
    name: str = "corrupted"

    def propose(self, examples: Sequence[RewriteExample]) -> list[list[str]]:
        """Returns `count` corruptions of each example's true prompt."""
        return [
            [self._corrupt(e.rewrite_prompt, seeded_random(self.seed, self.name, e.id, n))
             for n in range(self.count)]
            for e in examples
        ]  # fmt: skip

    def _corrupt(self, prompt: str, rng: random.Random) -> str:
        words = prompt.split()
        other = rng.choice(self.prompts).split()
        match rng.randrange(3):
            case 0:  # drop about every third word
                return " ".join(w for w in words if rng.random() > 0.34) or words[0]
            case 1:  # join its beginning with the end of another prompt
                return " ".join([*words[: (len(words) + 1) // 2], *other[len(other) // 2 :]])
            case _:  # replace two words with words of another prompt
                for _ in range(2):
                    words[rng.randrange(len(words))] = rng.choice(other)
                return " ".join(words)


@dataclass(frozen=True)
class OtherPrompts:
    """Chooses prompts of other examples that are similar to the truth, as hard negatives.

    Attributes:
        prompts: The prompts to choose from.
        scs: The metric of similarity.
        count: Number of candidates per example.
        seed: Determines the candidates, together with the example's id.
        nearest: How many of the nearest prompts to choose from.
        name: others.
    """

    prompts: Sequence[str]
    scs: SCS
    count: int
    seed: int
    nearest: int = 32
    name: str = "others"

    def propose(self, examples: Sequence[RewriteExample]) -> list[list[str]]:
        """Returns `count` of the nearest other prompts for each example."""
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


@dataclass(frozen=True)
class RetrievedCandidates:
    """The prompts of a dense retriever's bank that are nearest to each pair, but not the truth.

    A retriever that was trained on the same examples knows them, so that its other prompts are
    nearer to the truth than they are for new pairs.

    Attributes:
        retriever: The retriever.
        count: Number of candidates per example.
        name: retrieved.
    """

    retriever: "Retriever"
    count: int
    name: str = "retrieved"

    def propose(self, examples: Sequence[RewriteExample]) -> list[list[str]]:
        """Returns `count` prompts for each example, the nearest first."""
        bank = self.retriever.bank
        predicted = self.retriever.encoder.embed(pairs_of(examples))
        found, _ = nearest(predicted, bank.vectors, self.count + _EQUAL)
        rows = []
        for example, row in zip(examples, found, strict=True):
            truth = normalise(example.rewrite_prompt)
            prompts = [bank.prompts[i] for i in row if normalise(bank.prompts[i]) != truth]
            rows.append(prompts[: self.count])
        return rows


Answers = dict[str, list[list[str]]]
"""Lists of [source, raw answer] by example id."""
Asking = Callable[[Sequence[Sequence[RewriteExample]]], Iterable[Answers]]
"""Takes batches of examples and returns the answers for each batch, in order."""


def collect_candidates(
    examples: Sequence[RewriteExample],
    sources: Sequence[CandidateSource],
    store: Path,
    progress: Callable[[int], None] = lambda _: None,
    asking: Asking | None = None,
) -> dict[str, list[PreferenceCandidate]]:
    """Asks every source about every example, and saves the answers in a file as they arrive.

    The file has one line per batch of examples, which is written and synced when the batch is
    done. A process that is killed loses its current batch only, and the next process resumes after
    the last complete line. A second process waits for the first and then reads its results.

    Args:
        examples: Examples with distinct ids.
        sources: The sources, which are asked in this order.
        store: The file. Its name must change whenever anything that the answers depend on does.
        progress: Called with the number of examples that have just been done.
        asking: Asks the same sources somewhere else, for instance on a cluster. None asks them in
            this process.

    Returns:
        The distinct, cleaned candidates of each example by id, in the order of the sources.

    Raises:
        PromptRecoveryError: If the file cannot be written.
    """
    order = sorted(examples, key=lambda e: (-len(e.original_text + e.rewritten_text), e.id))
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    found: dict[str, list[PreferenceCandidate]] = {}
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
    """Reads the answers for a batch from a line of the store.

    Raises:
        KeyError, TypeError, ValueError: If the line is malformed.
    """
    answers = {e.id: [[source, text] for source, text in value[e.id]] for e in batch}
    if not all(isinstance(s, str) for row in answers.values() for pair in row for s in pair):
        raise TypeError("an answer is not a text")
    return answers


def _distinct(answers: Sequence[Sequence[str]]) -> list[PreferenceCandidate]:
    kept: dict[str, PreferenceCandidate] = {}
    for source, text in answers:
        cleaned = clean_prompt(text)
        if cleaned:
            kept.setdefault(normalise(cleaned), PreferenceCandidate(cleaned, source))
    return list(kept.values())


def _digest(*parts: Any) -> bytes:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()


def seeded_random(*parts: Any) -> random.Random:
    """Returns a random generator that is seeded with these parts only."""
    return random.Random(_digest(*parts))
