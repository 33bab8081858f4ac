"""Pairs as vectors, for baselines that work in embedding space."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample, problem_with_text
from prompt_recovery.metrics.encoder import Encoder
from prompt_recovery.recovery.recoverer import Pair


def usable(pair: Pair | RewriteExample) -> bool:
    """Whether both texts can be read."""
    return not problem_with_text(pair.original_text) and not problem_with_text(pair.rewritten_text)


def text_vectors(
    pairs: Sequence[Pair] | Sequence[RewriteExample], encoder: Encoder
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """fp32 [n, d] twice: the embeddings of the original and of the rewritten texts.

    Encoders read the beginning of a long text only (MiniLM: 256 tokens).
    """
    originals = encoder.embed([p.original_text for p in pairs])
    return originals, encoder.embed([p.rewritten_text for p in pairs])


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
