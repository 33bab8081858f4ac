"""Familiarity: how near a pair is to the training examples.

It is measured by the words of the rewritten text: the highest cosine of its TF-IDF vector and that
of a training rewrite. For a retriever trained on the starter, validation pairs lie between 0.19
and 0.66 (2 % and 98 % quantile), and pairs of two other sources between 0.05 and 0.15: of a
validation pair and one of these, the former is nearer in 99.9 % of the cases. The cosine of the
predicted embedding and the nearest training prompts, or the entropy of the posterior, cannot tell
them apart (43 to 54 %): a retriever is as sure of itself on texts unlike any that it knows.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.storage import MALFORMED

_WORDS = 2**18  # hashed words, so that a record holds no text
_READ = 20_000  # characters of a text
_MOST = 20_000  # training texts


@dataclass(frozen=True, eq=False)
class Familiarity:
    """The word counts of training rewrites.

    Attributes:
        counts: A scipy CSR matrix, fp64 [n, 262144], n ≥ 1: how often each hashed word occurs.
    """

    counts: Any

    @classmethod
    def of(cls, examples: Sequence[RewriteExample]) -> "Familiarity":
        """Counts the words of the rewritten texts of at least one example."""
        return cls(_counted([e.rewritten_text for e in examples[:_MOST]]))

    def __call__(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        """The familiarity of each pair of usable texts, fp64 [n], in [0, 1]."""
        if not pairs:
            return np.zeros(0)
        transform, known = self._known
        vectors = transform.transform(_counted([pair.rewritten_text for pair in pairs]))
        return np.asarray((vectors @ known).max(axis=1).toarray()[:, 0], np.float64)

    @cached_property
    def _known(self) -> tuple[Any, Any]:
        from sklearn.feature_extraction.text import TfidfTransformer

        transform = TfidfTransformer(sublinear_tf=True).fit(self.counts)
        return transform, transform.transform(self.counts).T.tocsr()

    def write(self, path: Path) -> None:
        """Writes the counts to an `.npz` file."""
        from scipy.sparse import save_npz

        save_npz(path, self.counts)

    @classmethod
    def read(cls, path: Path) -> "Familiarity | None":
        """The counts in a file; None if there is no such file.

        Raises:
            PromptRecoveryError: If the file is damaged.
        """
        from zipfile import BadZipFile

        from scipy.sparse import csr_matrix, load_npz

        if not path.is_file():
            return None
        try:
            counts = csr_matrix(load_npz(path), dtype=np.float64)
            counts.check_format(full_check=True)
            if counts.shape[0] < 1 or counts.shape[1] != _WORDS:
                raise ValueError("another shape")
        except (OSError, EOFError, BadZipFile, *MALFORMED) as error:
            raise PromptRecoveryError(
                f"{path}: is damaged ({type(error).__name__}); copy the retriever folder again"
            ) from error
        return cls(counts)


def _counted(texts: Sequence[str]) -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    words = HashingVectorizer(n_features=_WORDS, alternate_sign=False, norm=None)
    clean = [
        unicodedata.normalize("NFC", text[:_READ]).encode("utf-8", "replace").decode()
        for text in texts
    ]
    return words.transform(clean).tocsr()
