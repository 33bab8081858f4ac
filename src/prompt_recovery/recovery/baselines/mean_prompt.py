"""The mean prompt: the one text that scores best on average.

It is the best training prompt or, if it is *searched*, the best text that a search finds from
there, which is usually a meaningless string of words.
"""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS, sharpen
from prompt_recovery.recovery.interface import ConstantRecoverer
from prompt_recovery.settings import AtLeastOne, Count, checked
from prompt_recovery.terminal import progress_bar

log = logging.getLogger(__name__)

_LONGEST_RUN = 6  # maximum number of consecutive words to insert
_PATIENCE = 4  # number of rounds without a better text after which the search ends


def mean_prompt(scs: SCS, prompts: Sequence[str], block: int = 1024) -> str:
    """Returns the training prompt with the highest mean SCS to all training prompts.

    Args:
        scs: The metric.
        prompts: At least one prompt. Repeated prompts count several times.
        block: Number of candidates to compare at a time, which limits the memory to
            block × len(prompts) floats.
    """
    candidates = sorted(set(prompts))
    return candidates[int(_mean_scs(scs, candidates, _Truths(scs, prompts), block).argmax())]


@dataclass(frozen=True)
class Step:
    """A better text than any before it."""

    round: int
    text: str
    mean_scs: float


def search(
    scs: SCS,
    prompts: Sequence[str],
    rounds: int,
    proposals: int,
    seed: int = 0,
    progress: Callable[[int, Step], None] = lambda _round, _best: None,
) -> list[Step]:
    """Searches for a text with a higher mean SCS by hill climbing from the best training prompt.

    Each round makes random changes to the best text so far: it inserts one to six consecutive words
    of a prompt, replaces some words with them, or removes some words. The best changed text is
    kept if it is better. The search ends early if several rounds find nothing better.

    Args:
        scs: The metric.
        prompts: At least one prompt. Repeated prompts count several times.
        rounds: Maximum number of rounds.
        proposals: Number of changed texts per round.
        seed: Seed of the changes.
        progress: Called after each round with its number and the best step so far.

    Returns:
        The steps, each better than the one before. The first is the best training prompt.
    """
    truths = _Truths(scs, prompts)
    candidates = sorted(set(prompts))
    means = _mean_scs(scs, candidates, truths)
    steps = [Step(0, candidates[int(means.argmax())], float(means.max()))]
    words = [p.split() for p in prompts]
    rng = random.Random(seed)
    for number in range(1, rounds + 1):
        best = steps[-1]
        changed = sorted({_changed(best.text.split(), words, rng) for _ in range(proposals)})
        changed = [text for text in changed if text and text != best.text]
        if changed:
            means = _mean_scs(scs, changed, truths)
            if means.max() > best.mean_scs:
                steps.append(Step(number, changed[int(means.argmax())], float(means.max())))
        progress(number, steps[-1])
        if number - steps[-1].round >= _PATIENCE:
            break
    return steps


def _changed(text: list[str], prompts: Sequence[list[str]], rng: random.Random) -> str:
    """Makes one random change to a text. The result may be the same text, or empty."""
    start = rng.randrange(len(text) + 1)
    end = min(start + rng.choice((0, 0, 1, 1, 2, 3)), len(text))
    run: list[str] = []
    if start == end or rng.random() < 0.7:
        source = rng.choice(prompts)
        length = rng.randint(1, min(_LONGEST_RUN, len(source)))
        first = rng.randrange(len(source) - length + 1)
        run = source[first : first + length]
    return " ".join(text[:start] + run + text[end:])


class _Truths:
    """The embeddings of distinct prompts with their frequencies."""

    def __init__(self, scs: SCS, prompts: Sequence[str]) -> None:
        counts: dict[str, int] = {}
        for prompt in prompts:
            counts[prompt] = counts.get(prompt, 0) + 1
        self.vectors = scs.encoder.embed(list(counts))
        self.weights = np.array(list(counts.values()), np.float32) / len(prompts)


def _mean_scs(
    scs: SCS, candidates: Sequence[str], truths: _Truths, block: int = 1024
) -> NDArray[np.float32]:
    """Returns the mean SCS of each candidate to the prompts, fp32 [n]."""
    vectors = scs.encoder.embed(candidates)
    parts = []
    for start in range(0, len(vectors), block):
        cosine = np.clip(vectors[start : start + block] @ truths.vectors.T, -1, 1)
        parts.append(np.asarray(sharpen(cosine, scs.exponent), np.float32) @ truths.weights)
    return np.concatenate(parts)


@checked("baseline")
@dataclass(frozen=True)
class MeanPrompt:
    """Answers with the constant text of highest mean SCS on the training prompts; see `search`.

    Attributes:
        rounds: Maximum number of rounds; 0 takes the best training prompt itself.
        proposals: Number of changed texts per round, ≥ 1.
        seed: Seed of the changes.
        name: Name shown in tables. If it is empty, "mean prompt" without a search and "mean prompt,
            searched" with one.
    """

    rounds: Count = 40
    proposals: AtLeastOne = 128
    seed: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            found = "mean prompt, searched" if self.rounds else "mean prompt"
            object.__setattr__(self, "name", found)

    def fit(self, examples: Sequence[RewriteExample], scs: SCS) -> ConstantRecoverer:
        """Searches for the text and shows the progress."""
        with progress_bar() as bars:
            rounds = f"{self.name}: rounds of the search" if self.rounds else self.name
            bar = bars.add_task(rounds, total=self.rounds)

            def show(number: int, best: Step) -> None:
                said = f"{self.name}: {best.mean_scs:.4f} on training prompts"
                bars.update(bar, completed=number, description=said)

            prompts = [e.rewrite_prompt for e in examples]
            steps = search(scs, prompts, self.rounds, self.proposals, self.seed, show)
        for step in steps[:: max(len(steps) // 4, 1)]:
            log.debug(
                "%s after %d rounds of the search: SCS %.3f on the training prompts, by %r",
                self.name,
                step.round,
                step.mean_scs,
                step.text,
            )
        return ConstantRecoverer(steps[-1].text, self.name)
