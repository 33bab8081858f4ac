"""Labelled texts and pairs from rewrite examples, to train and to judge a detector."""

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.changes.pair import PairMeasures, words_kept
from prompt_recovery.changes.text import TextMeasures, measure_text
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import normalise
from prompt_recovery.detection.features import Features, pair_features, text_features

Kind = Literal["rewrite", "original", "reversed", "unrelated", "edited"]
Measure = Callable[[str], TextMeasures]

FOLDS = 5


@dataclass(frozen=True, eq=False)
class Item:
    """A labelled text or pair.

    Attributes:
        features: Its features.
        kind: "rewrite" if an LLM rewrote it. A single text is otherwise an "original". A pair is
            otherwise "reversed" (the original stands in the place of the rewritten text),
            "unrelated" (the second text belongs to another original) or "edited" (the second text
            is a copy of the original with mechanical edits, as a person may make them).
        group: The normalised original text: items of one group are never on both sides.
        words: The number of words of the text, or of the shorter text of a pair.
    """

    features: Features
    kind: Kind
    group: str
    words: int

    @property
    def label(self) -> int:
        """1 if an LLM rewrote it, else 0."""
        return int(self.kind == "rewrite")

    @property
    def fold(self) -> int:
        """The number of its group's fold in cross-fitting, in [0, 5)."""
        return _number(self.group) % FOLDS


def labels_of(items: Sequence[Item]) -> NDArray[np.int64]:
    """The labels of n items, int64 [n]."""
    return np.array([item.label for item in items], np.int64)


def text_items(examples: Sequence[RewriteExample], measure: Measure = measure_text) -> list[Item]:
    """Two items of each example: its original and its rewritten text."""
    items = []
    for example in examples:
        group = normalise(example.original_text)
        both: tuple[tuple[Kind, str], ...] = (
            ("original", example.original_text),
            ("rewrite", example.rewritten_text),
        )
        for kind, text in both:
            items.append(Item(text_features(text, measure(text)), kind, group, len(text.split())))
    return items


def pair_items(examples: Sequence[RewriteExample], measure: Measure = measure_text) -> list[Item]:
    """Two items of each example: the pair itself, and one that is not a rewrite.

    Half of the latter are reversed, a quarter unrelated and a quarter edited; the id of the example
    says which, and what is drawn for it.
    """
    items = []
    for example in examples:
        group = normalise(example.original_text)
        kind, first, second = _negative(example, examples)
        pair: tuple[Kind, str, str] = ("rewrite", example.original_text, example.rewritten_text)
        for name, before, after in (pair, (kind, first, second)):
            features = pair_features(before, after, measured_pair(before, after, measure))
            words = min(len(before.split()), len(after.split()))
            items.append(Item(features, name, group, words))
    return items


def measured_pair(original: str, rewritten: str, measure: Measure = measure_text) -> PairMeasures:
    """The measures of a pair, with a function that measures a text and may remember it."""
    before, after = measure(original), measure(rewritten)
    ratio = after.words / max(before.words, 1)
    return PairMeasures(before, after, ratio, words_kept(original, rewritten))


def _negative(example: RewriteExample, examples: Sequence[RewriteExample]) -> tuple[Kind, str, str]:
    rng = random.Random(_number(example.id))
    draw = rng.random()
    if draw < 0.5:
        return "reversed", example.rewritten_text, example.original_text
    if draw < 0.75:
        own = normalise(example.original_text)
        for other in rng.choices(examples, k=20):
            if normalise(other.original_text) != own:
                texts = (other.original_text, other.rewritten_text)
                return "unrelated", example.original_text, rng.choice(texts)
    return "edited", example.original_text, edited(example.original_text, rng)


def edited(text: str, rng: random.Random) -> str:
    """A copy of a text as a person may make it without writing anything new.

    It is whole, or without some sentences, in another order of sentences, without some words, or
    with slips of the keyboard.
    """
    how = rng.randrange(5)
    sentences = re.split(r"(?<=[.!?])\s+", text.strip())
    words = text.split()
    if how == 1 and len(sentences) > 1:
        return " ".join(s for s in sentences if rng.random() < 0.6) or sentences[0]
    if how == 2:
        return " ".join(rng.sample(sentences, len(sentences)))
    if how == 3:
        return " ".join(w for w in words if rng.random() < 0.85) or text
    if how == 4:
        return " ".join(_slip(w, rng) if rng.random() < 0.08 else w for w in words)
    return text


def _slip(word: str, rng: random.Random) -> str:
    """A word with two neighbouring letters swapped, or one left out."""
    if len(word) < 3:
        return word
    i = rng.randrange(len(word) - 1)
    swapped = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return swapped if rng.random() < 0.5 else word[:i] + word[i + 1 :]


@cache
def _number(text: str) -> int:
    """A large number that depends on a text alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big")
