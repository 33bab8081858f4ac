"""Pairs as vectors, for baselines that work in embedding space."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.encoder import Encoder
from prompt_recovery.recovery.interface import Pair, Prediction, is_usable


def answered(
    pairs: Sequence[Pair],
    answer: Callable[[Sequence[Pair]], Sequence[str | None]],
    fallback: str,
    progress: Callable[[int], None],
) -> list[Prediction]:
    """Returns one prediction for each pair, in order.

    Args:
        pairs: Pairs with distinct ids.
        answer: Answers all usable pairs at once, with None where it has no answer. It is not called
            if there are none.
        fallback: The answer for all other pairs.
        progress: Called with the number of pairs when all are done.
    """
    usable = [p for p in pairs if is_usable(p)]
    found = zip([p.id for p in usable], answer(usable) if usable else [], strict=True)
    answers = {id_: text for id_, text in found if text is not None}
    progress(len(pairs))
    return [
        Prediction(p.id, answers.get(p.id, fallback), fallback=p.id not in answers) for p in pairs
    ]


def text_vectors(
    pairs: Sequence[Pair] | Sequence[RewriteExample], encoder: Encoder
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the embeddings of the original and of the rewritten texts, each fp32 [n, d].

    Encoders only read the beginning of a long text (MiniLM: 256 tokens).
    """
    originals = encoder.embed([p.original_text for p in pairs])
    return originals, encoder.embed([p.rewritten_text for p in pairs])


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales rows to length 1. A row of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
