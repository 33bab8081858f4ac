"""Integrated gradients on the input embeddings, by Captum (extra `explain`)."""

from collections.abc import Mapping
from typing import Any

import torch

from prompt_recovery.recovery.evidence.pieces import words
from prompt_recovery.recovery.evidence.reading import Reading
from prompt_recovery.recovery.spans import Span, TextName, require_method

STEPS = 36
"""The number of points on the path from the neutral to the actual embeddings."""
_RULE = "riemann_middle"


def require_captum() -> Any:
    """Imports and returns `captum.attr`.

    Raises:
        PromptRecoveryError: If it isn't installed.
    """
    require_method("integrated_gradients")
    import captum.attr

    return captum.attr


def integrated_gradients(
    reading: Reading, texts: Mapping[TextName, str], steps: int = STEPS
) -> tuple[list[Span], float, float]:
    """The attribution of each word, the sum of those of its tokens.

    The path is straight, and its integral is approximated by the midpoint rule. The quantity
    changes most in the middle of the path, where the points of Gauss-Legendre quadrature, the
    default of Captum, are farthest apart. A token that belongs to two words counts for the first.

    Args:
        reading: A model that reads the texts.
        texts: Both texts.
        steps: The number of points on the path.

    Returns:
        The words that the model reads with their attributions, in order; the quantity of the actual
        input; and the error: the sum of the attributions minus the difference of the quantity
        between the actual and the neutral input, which would be 0 with infinitely many points.

    Raises:
        PromptRecoveryError: If Captum isn't installed, or tokens cannot be attributed to words.
    """
    attr = require_captum()
    given = reading.inputs()
    with given.context(), torch.enable_grad():
        found = attr.IntegratedGradients(given).attribute(
            given.embeddings,
            baselines=given.neutral,
            n_steps=steps,
            method=_RULE,
            internal_batch_size=given.rows,
        )
        with torch.no_grad():
            actual = float(given(given.embeddings)[0])
            neutral = float(given(given.neutral)[0])
    weights = found[0].sum(-1).tolist()
    spans = []
    total = 0.0
    for name, text in texts.items():
        sums: dict[int, float] = {}
        edges = words(text)
        number = 0
        for place, weight in sorted(
            ((p, w) for p, w in zip(given.places, weights, strict=True) if p and p.text == name),
            key=lambda pair: pair[0].start,
        ):
            while number + 1 < len(edges) and edges[number][1] <= place.start:
                number += 1
            sums[number] = sums.get(number, 0.0) + weight
        total += sum(sums.values())
        spans += [Span(name, *edges[number], weight) for number, weight in sorted(sums.items())]
    return spans, actual, total - (actual - neutral)
