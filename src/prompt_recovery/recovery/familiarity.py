"""Familiarity: how near a pair is to the training examples.

It is measured by the words of the rewritten text: the highest cosine of its TF-IDF vector and that
of a training rewrite. For a retriever trained on the starter, validation pairs lie between 0.19 and
0.66 (2 % and 98 % quantile), and pairs of two other sources between 0.05 and 0.15: in 99.9 % of all
comparisons, a validation pair is more familiar than one of these. The cosine of the predicted
embedding and the nearest training prompts, or the entropy of the posterior, cannot tell them apart
(43 to 54 %): a retriever is as sure of itself on texts unlike any that it knows.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.arrays import UNREADABLE, opened_arrays
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.storage import atomic_write

_WORDS = 2**18  # hashed words, so that a record holds no text
_READ = 20_000  # characters of a text
_MOST = 20_000  # training texts
_WORD = re.compile(r"\b\w\w+\b")


@dataclass(frozen=True, eq=False)
class Familiarity:
    """The word counts of training rewrites: a sparse matrix of n ≥ 1 texts in the CSR format.

    Attributes:
        words: int64 [m], the hashed words of all texts, one text after the other, each word once.
        counts: fp64 [m], how often each of them occurs in its text.
        starts: int64 [n + 1], where each text starts in both.
    """

    words: NDArray[np.int64]
    counts: NDArray[np.float64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, examples: Sequence[RewriteExample]) -> "Familiarity":
        """Counts the words of the rewritten texts of at least one example."""
        texts = [_counted(example.rewritten_text) for example in examples[:_MOST]]
        return cls(
            np.concatenate([words for words, _ in texts]),
            np.concatenate([counts for _, counts in texts]),
            np.cumsum([0, *(len(words) for words, _ in texts)]),
        )

    def __call__(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        """The familiarity of each pair of usable texts, fp64 [n], in [0, 1]."""
        return np.array([self._highest(pair.rewritten_text) for pair in pairs], np.float64)

    def among_themselves(self, most: int = 200) -> NDArray[np.float64]:
        """How familiar training texts would be if they were not known themselves, fp64 [≤ most].

        This is about as familiar as validation texts are: for the starter, the 2 % and 50 %
        quantiles are 0.17 and 0.44, and those of its validation texts 0.19 and 0.42.

        Args:
            most: The largest number of texts that are compared with all others, evenly chosen.
        """
        if self._size == 1:
            return np.zeros(1)
        chosen = np.unique(np.linspace(0, self._size - 1, min(most, self._size)).astype(int))
        found = np.zeros(len(chosen))
        for n, text in enumerate(chosen):
            own = slice(self.starts[text], self.starts[text + 1])
            cosines = self._cosines(self.words[own], self._known[own])
            found[n] = np.delete(cosines, text).max()
        return found

    def _highest(self, text: str) -> float:
        """The highest cosine of a text and a training text."""
        words, counts = _counted(text)
        own = _damped(counts) * self._rarity[words]
        length = float(np.sqrt(own @ own))
        if length == 0.0:
            return 0.0
        return float(self._cosines(words, own / length).max())

    def _cosines(
        self, words: NDArray[np.int64], values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The cosine of a TF-IDF vector of length 1 and each training text, fp64 [n]."""
        dense = np.zeros(_WORDS)
        dense[words] = values
        return self._summed(self._known * dense[self.words])

    @cached_property
    def _rarity(self) -> NDArray[np.float64]:
        """The smoothed inverse document frequency of each word, fp64 [262144]."""
        texts = np.bincount(self.words, minlength=_WORDS)
        return np.asarray(np.log((1 + self._size) / (1 + texts)) + 1, np.float64)

    @cached_property
    def _known(self) -> NDArray[np.float64]:
        """The TF-IDF vectors of the training texts, of length 1, fp64 [m]."""
        values = _damped(self.counts) * self._rarity[self.words]
        lengths = np.sqrt(self._summed(values * values))
        return np.asarray(values / lengths[self._texts], np.float64)

    @cached_property
    def _texts(self) -> NDArray[np.int64]:
        """int64 [m], the number of the text that each word belongs to."""
        return np.repeat(np.arange(self._size), np.diff(self.starts))

    @property
    def _size(self) -> int:
        return len(self.starts) - 1

    def _summed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(self._texts, values, minlength=self._size), np.float64)

    def write(self, path: Path) -> None:
        """Writes the counts to an `.npz` file, as `scipy.sparse.save_npz` does."""
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                indices=self.words.astype(np.int32),
                indptr=self.starts.astype(np.int32),
                format=np.array(b"csr"),
                shape=np.array([self._size, _WORDS]),
                data=self.counts,
            )

    @classmethod
    def read(cls, path: Path) -> "Familiarity | None":
        """The counts in a file; None if there is no such file.

        Raises:
            PromptRecoveryError: If the file is damaged.
        """
        if not path.is_file():
            return None
        try:
            with opened_arrays(path) as file:
                size, width = (int(value) for value in file["shape"])
                words, starts = file["indices"].astype(np.int64), file["indptr"].astype(np.int64)
                counts = file["data"].astype(np.float64)
            ordered = (np.diff(starts) >= 0).all() and starts[0] == 0
            if size < 1 or width != _WORDS or len(starts) != size + 1 or not ordered:
                raise ValueError("another shape")
            if not len(words) == len(counts) == starts[-1] or not (counts > 0).all():
                raise ValueError("other counts")
            if len(words) and not 0 <= words.min() <= words.max() < _WORDS:
                raise ValueError("other words")
        except UNREADABLE as error:
            raise PromptRecoveryError(
                f"{path}: is damaged ({type(error).__name__}); copy the retriever folder again"
            ) from error
        return cls(words, counts, starts)


def _damped(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 + np.log(counts)


def _counted(text: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The hashed words of a text in ascending order, and how often each occurs.

    The words are those of scikit-learn's `HashingVectorizer`, whose import takes seconds.
    """
    clean = unicodedata.normalize("NFC", text[:_READ]).encode("utf-8", "replace").decode()
    found = Counter(_hashed(word) for word in _WORD.findall(clean.lower()))
    words = sorted(found)
    return np.array(words, np.int64), np.array([found[word] for word in words], np.float64)


@lru_cache(maxsize=1 << 17)
def _hashed(word: str) -> int:
    """MurmurHash3 (x86, 32 bits, seed 0) of a word in UTF-8, reduced to the number of words."""
    data = word.encode()
    value = 0
    for start in range(0, len(data), 4):
        block = int.from_bytes(data[start : start + 4], "little") * 0xCC9E2D51 & _BITS
        value ^= _rotated(block, 15) * 0x1B873593 & _BITS
        if start + 4 <= len(data):
            value = (_rotated(value, 13) * 5 + 0xE6546B64) & _BITS
    value ^= len(data)
    value = (value ^ value >> 16) * 0x85EBCA6B & _BITS
    value = (value ^ value >> 13) * 0xC2B2AE35 & _BITS
    value ^= value >> 16
    return abs(value - (1 << 32) if value >> 31 else value) % _WORDS


_BITS = (1 << 32) - 1


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & _BITS
