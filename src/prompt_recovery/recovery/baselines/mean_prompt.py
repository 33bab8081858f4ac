"""The mean prompt: the one text that scores best on average."""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS, sharpen
from prompt_recovery.recovery.interface import ConstantRecoverer
from prompt_recovery.settings import AtLeastOne, Count, checked

log = logging.getLogger(__name__)

_LONGEST_RUN = 6  # words that are put in together
_PATIENCE = 4  # rounds without a better text


def mean_prompt(scs: SCS, prompts: Sequence[str], block: int = 1024) -> str:
    """The training prompt with the highest mean SCS to all training prompts.

    Args:
        scs: the metric.
        prompts: at least one; repeated ones count as often as they come.
        block: candidates compared at a time; bounds memory at block × len(prompts) floats.
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
    """Climbs from the best training prompt to a text of their words with a higher mean SCS.

    Each round makes random changes to the best text so far (a run of one to six words of some
    prompt is put in or takes the place of a run, or a run is left out) and keeps the best of them
    if it is better. It ends early when a few rounds find nothing.

    Args:
        scs: the metric.
        prompts: at least one; repeated ones count as often as they come.
        rounds: at most.
        proposals: changed texts a round.
        seed: of the changes.
        progress: called after each round with its number and the best step so far.

    Returns:
        The steps, each better than the one before; the first is the best training prompt.
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
    """A text with one random change; may be the same, or empty."""
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
    """The embeddings of distinct prompts, and how often each comes."""

    def __init__(self, scs: SCS, prompts: Sequence[str]) -> None:
        counts: dict[str, int] = {}
        for prompt in prompts:
            counts[prompt] = counts.get(prompt, 0) + 1
        self.vectors = scs.encoder.embed(list(counts))
        self.weights = np.array(list(counts.values()), np.float32) / len(prompts)


def _mean_scs(
    scs: SCS, candidates: Sequence[str], truths: _Truths, block: int = 1024
) -> NDArray[np.float32]:
    """fp32 [n]: the mean SCS of each candidate to the prompts."""
    vectors = scs.encoder.embed(candidates)
    parts = []
    for start in range(0, len(vectors), block):
        cosine = np.clip(vectors[start : start + block] @ truths.vectors.T, -1, 1)
        parts.append(np.asarray(sharpen(cosine, scs.exponent), np.float32) @ truths.weights)
    return np.concatenate(parts)


@checked("baseline")
@dataclass(frozen=True)
class MeanPrompt:
    """The constant with the best mean SCS on the training prompts, found by `search`.

    Attributes:
        rounds: at most; 0 is the best of the training prompts themselves.
        proposals: changed texts a round, ≥ 1.
        seed: of the changes.
        name: in tables.
    """

    rounds: Count = 40
    proposals: AtLeastOne = 128
    seed: int = 0
    name: str = "mean prompt"

    def fit(self, examples: Sequence[RewriteExample], scs: SCS) -> ConstantRecoverer:
        """Searches, and shows how far it is."""
        with Progress(transient=True) as bars:
            bar = bars.add_task(f"{self.name}: embedding the prompts", total=self.rounds)

            def show(number: int, best: Step) -> None:
                said = f"{self.name}: {best.mean_scs:.4f} on training prompts"
                bars.update(bar, completed=number, description=said)

            prompts = [e.rewrite_prompt for e in examples]
            steps = search(scs, prompts, self.rounds, self.proposals, self.seed, show)
        for step in steps[:: max(len(steps) // 8, 1)]:
            log.info("%s, round %d: %.4f %s", self.name, step.round, step.mean_scs, step.text)
        return ConstantRecoverer(steps[-1].text, self.name)
