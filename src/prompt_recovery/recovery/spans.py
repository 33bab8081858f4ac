"""Evidence as data: which words of the two texts support a recovered prompt, and how much."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from prompt_recovery.settings.extras import require_extra

TextName = Literal["original", "rewritten"]
"""One of the two texts of a pair."""
Method = Literal["occlusion", "integrated_gradients"]
"""How evidence is measured; see `prompt_recovery.recovery.evidence`."""
Quantity = Literal["log_probability", "cosine"]
"""What is attributed to words: log p(prompt | texts), or the cosine of a predicted embedding."""
Explain = bool | Method
"""What `explain=` takes; `true` is occlusion."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of one of the two texts with its weight.

    Attributes:
        text: The text.
        start: The index of its first character in the text.
        end: The index after its last character, > `start`.
        weight: What it contributes to the quantity of its `Evidence`: the words support the
            prompt if this is positive, and count against it if this is negative.
    """

    text: TextName
    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one model found in the two texts for one prompt.

    Attributes:
        source: The name of the model.
        method: How the weights were measured.
        quantity: What the weights add to: log p(prompt | texts) in nats, or a cosine.
        value: The quantity with all words.
        spans: The spans in the order of the texts, the original one first; they don't overlap.
            Words that are in no span weren't read by the model.
    """

    source: str
    method: Method
    quantity: Quantity
    value: float
    spans: tuple[Span, ...]


def method_of(explain: Explain) -> Method | None:
    """The method that `explain=` asks for; None if it asks for no evidence."""
    if isinstance(explain, bool):
        return "occlusion" if explain else None
    return explain


def require_method(method: Method | None) -> None:
    """Checks that the library that measures evidence in this way is installed.

    Raises:
        PromptRecoveryError: If it isn't.
    """
    if method == "integrated_gradients":
        require_extra("explain", "explain=integrated_gradients", "use explain=occlusion")


def evidence_of(values: Mapping[str, Any]) -> Evidence:
    """Evidence from plain values, as `asdict` gives them.

    Raises:
        KeyError, TypeError, ValueError: If they are not evidence.
    """
    spans = tuple(Span(**span) for span in values["spans"])
    found = Evidence(**{**values, "spans": spans})
    known: list[tuple[Any, tuple[Any, ...]]] = [(s.text, get_args(TextName)) for s in spans]
    known += [(found.method, get_args(Method)), (found.quantity, get_args(Quantity))]
    numbers = [found.value, *(s.weight for s in spans)]
    if not isinstance(found.source, str) or any(value not in names for value, names in known):
        raise ValueError("it is no evidence")
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("a weight of evidence is not a number")
    if not all(type(s.start) is type(s.end) is int and 0 <= s.start < s.end for s in spans):
        raise ValueError("a span of evidence is not part of a text")
    return found
