"""Deletion and insertion curves: whether evidence names the words that the model depends on.

The deletion curve shows the quantity when more and more of the words with the highest weights are
left out; the insertion curve shows it when only these words are kept (RISE, Petsiuk et al., BMVC
2018, arXiv 1806.07421). Weights are faithful if the deletion curve falls faster, and the insertion
curve rises faster, than with the same pieces in random order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prompt_recovery.recovery.evidence.pieces import Piece, words
from prompt_recovery.recovery.evidence.reading import Reading
from prompt_recovery.recovery.spans import Span, TextName

FRACTIONS = (0.1, 0.25, 0.5)
"""The least shares of the words that are left out, or kept, at the points of a curve."""

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Curves:
    """The deletion and the insertion curve of one order of the pieces.

    Attributes:
        deletion: Points (share of the words that are left out, quantity), from 0 to 1.
        insertion: Points (share of the words that are kept, quantity), from 0 to 1.
    """

    deletion: Points
    insertion: Points


def piece_weights(parts: Sequence[Piece], spans: Sequence[Span]) -> list[float]:
    """The weight of each piece: the sum over spans, by the share of the span that is in it."""
    weights = []
    for part in parts:
        inside = [
            span.weight
            * max(min(part.end, span.end) - max(part.start, span.start), 0)
            / (span.end - span.start)
            for span in spans
            if span.text == part.text
        ]
        weights.append(sum(inside))
    return weights


def by_weight(weights: Sequence[float]) -> list[int]:
    """The indices of pieces, those with the highest weights first."""
    return sorted(range(len(weights)), key=lambda i: (-weights[i], i))


def at_random(count: int, seed: int) -> list[int]:
    """The indices of `count` pieces in random order."""
    return np.random.default_rng(seed).permutation(count).tolist()


def curves(
    reading: Reading,
    texts: Mapping[TextName, str],
    parts: Sequence[Piece],
    orders: Mapping[str, Sequence[int]],
    fractions: Sequence[float] = FRACTIONS,
) -> dict[str, Curves]:
    """The curves of several orders of the same pieces; all inputs are computed together.

    Args:
        reading: A model that reads the texts.
        texts: Both texts.
        parts: n ≥ 1 pieces of the texts, all that the model reads.
        orders: The indices of the pieces, the most important one first, by a name of the order.
        fractions: The least shares of words at the points between 0 and 1, ascending.
    """
    sizes = [len(words(texts[part.text][part.start : part.end])) for part in parts]
    everything = frozenset(range(len(parts)))
    wanted: dict[str, tuple[list[frozenset[int]], list[float]]] = {}
    for name, order in orders.items():
        shares = np.cumsum([sizes[i] for i in order]) / sum(sizes)
        counts = sorted({int(np.searchsorted(shares, f - 1e-9)) + 1 for f in fractions})
        counts = [0, *(c for c in counts if c < len(parts)), len(parts)]
        wanted[name] = (
            [frozenset(order[:count]) for count in counts],
            [0.0 if count == 0 else float(shares[count - 1]) for count in counts],
        )
    variants = {top for tops, _ in wanted.values() for top in tops}
    variants |= {everything - top for top in variants}
    ordered = sorted(variants, key=sorted)
    values = reading.values([[parts[i] for i in left_out] for left_out in ordered])
    value_of = dict(zip(ordered, values, strict=True))
    return {
        name: Curves(
            tuple((x, value_of[top]) for x, top in zip(shares, tops, strict=True)),
            tuple((x, value_of[everything - top]) for x, top in zip(shares, tops, strict=True)),
        )
        for name, (tops, shares) in wanted.items()
    }


def area(points: Points) -> float:
    """The area under a curve from 0 to 1, by the trapezoidal rule: its mean height."""
    x, y = np.array(points, np.float64).T
    return float(np.trapezoid(y, x))
