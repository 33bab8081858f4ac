"""A verdict on a text or a pair, and what it rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Lt

from prompt_recovery.detection.classifier import Scorecard
from prompt_recovery.detection.features import Features
from prompt_recovery.recovery.interface import Candidate
from prompt_recovery.tables import counted

Answer = Literal["rewritten", "not rewritten", "cannot tell"]
Certainty = Annotated[float, Ge(0.5), Lt(1)]

CERTAINTY: float = 0.8
"""The probability from which a verdict is given."""
MIN_WORDS = 30
"""The number of words below which no verdict is given."""
_SHOWN = 5


@dataclass(frozen=True)
class Part:
    """The share of one feature in a verdict.

    Attributes:
        name: The feature, in words.
        value: Its value.
        log_odds: What it adds to the log-odds of an LLM's rewrite.
    """

    name: str
    value: float
    log_odds: float


@dataclass(frozen=True)
class Verdict:
    """How likely it is that an LLM rewrote a text.

    Attributes:
        answer: "rewritten", "not rewritten" or "cannot tell".
        probability: The calibrated probability that an LLM rewrote it, if rewrites are as frequent
            as other texts; None for a text that is too short.
        reason: Why it cannot be told, or what the answer says, as a sentence.
        parts: The features that count most, the strongest first.
        prompts: The likeliest prompts, the best first; empty without a recoverer.
    """

    answer: Answer
    probability: float | None
    reason: str
    parts: Sequence[Part] = ()
    prompts: Sequence[Candidate] = ()

    def with_prompts(self, prompts: Sequence[Candidate]) -> "Verdict":
        """The same verdict with the likeliest prompts."""
        return replace(self, prompts=tuple(prompts))

    @property
    def values(self) -> dict[str, Any]:
        """Plain values, as a file holds them."""
        return {
            "answer": self.answer,
            "probability": self.probability,
            "reason": self.reason,
            "evidence": {part.name: round(part.log_odds, 3) for part in self.parts},
            "prompts": [prompt.text for prompt in self.prompts],
        }


def verdict_of(values: Mapping[str, Any]) -> Verdict:
    """A verdict from plain values, as `asdict` gives them; further values are left alone.

    Raises:
        KeyError, TypeError, ValueError: If they are not a verdict.
    """
    parts = tuple(
        Part(str(part["name"]), float(part["value"]), float(part["log_odds"]))
        for part in values["parts"]
    )
    prompts = tuple(Candidate(**c) for c in values["prompts"])
    answer, p, reason = (values[name] for name in ("answer", "probability", "reason"))
    if answer not in get_args(Answer) or not isinstance(reason, str):
        raise ValueError("it is no verdict")
    if not all(isinstance(prompt.text, str) for prompt in prompts):
        raise TypeError("a prompt is no text")
    return Verdict(answer, None if p is None else float(p), reason, parts, prompts)


def too_short(words: int, text: str) -> Verdict:
    """The verdict on a text, or on a pair, with fewer words than `MIN_WORDS`.

    Args:
        words: The number of words of the text, or of the shorter text of the pair.
        text: What this text is called, such as "the text".
    """
    reason = f"{text} has {counted(words, 'word')}, and a verdict needs at least {MIN_WORDS}"
    return Verdict("cannot tell", None, reason)


def judge(
    card: Scorecard,
    features: Features,
    certainty: float = CERTAINTY,
    others: str = "pairs that are not rewrites",
) -> Verdict:
    """The verdict of a scorecard.

    Args:
        card: The scorecard.
        features: The features of a text or a pair that is long enough.
        certainty: The probability from which a verdict is given, in [0.5, 1).
        others: What the items that are not rewrites are called.
    """
    p = card.probability(features)
    shares = card.parts(features)
    strongest = sorted(shares, key=lambda name: -abs(shares[name]))[:_SHOWN]
    parts = tuple(
        Part(name.replace("_", " "), float(features[name]), shares[name]) for name in strongest
    )
    strange = card.unfamiliar(features)
    if len(strange) > card.most_unfamiliar:
        names = ", ".join(name.replace("_", " ") for name in strange[:3])
        reason = f"it is unlike the texts that the detector was trained on: {names}, …"
        return Verdict("cannot tell", p, reason, parts)
    if max(p, 1 - p) < certainty:
        return Verdict(
            "cannot tell", p, f"neither answer has a probability of {certainty} or more", parts
        )
    if p > 0.5:
        return Verdict(
            "rewritten", p, "it reads like the rewrites that the detector was trained on", parts
        )
    return Verdict("not rewritten", p, f"it reads like {others}", parts)
