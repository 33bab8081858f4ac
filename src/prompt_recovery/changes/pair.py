"""Measures of what a rewriter did to a text (extra `[measures]`)."""

from dataclasses import asdict, dataclass
from typing import Any

from prompt_recovery.changes.text import TextMeasures, measure_text
from prompt_recovery.data.splits import normalise
from prompt_recovery.templates import word_changes


@dataclass(frozen=True)
class PairMeasures:
    """Measures of a pair of texts.

    Attributes:
        original: The measures of the original text.
        rewritten: The measures of the rewritten text.
        length_ratio: The number of words of the rewritten text for each word of the original.
        words_kept: The share of the original's words that are in the rewritten text in the same
            order, ignoring case and punctuation, in [0, 1].
    """

    original: TextMeasures
    rewritten: TextMeasures
    length_ratio: float
    words_kept: float

    @property
    def reading_level_shift(self) -> float:
        """By how many school grades the rewritten text is harder to read, in -30 … 30."""
        return self.rewritten.reading_level - self.original.reading_level

    @property
    def sentiment_shift(self) -> float:
        """By how much the rewritten text is more positive, in -2 … 2."""
        return self.rewritten.sentiment - self.original.sentiment

    @property
    def formality_shift(self) -> float:
        """By how much the rewritten text is more formal, in -100 … 100."""
        return self.rewritten.formality - self.original.formality

    @property
    def values(self) -> dict[str, Any]:
        """All measures as plain values, with the names of columns."""
        texts = {
            f"{side}_{name}": value
            for side in ("original", "rewritten")
            for name, value in asdict(getattr(self, side)).items()
        }
        pair = ("length_ratio", "words_kept", "reading_level_shift", "sentiment_shift")
        return {name: getattr(self, name) for name in (*pair, "formality_shift")} | texts


def measures(original: str, rewritten: str) -> PairMeasures:
    """Measures what a rewriter did to a text.

        pr.measures("It rained.", "Arr, the sky be weepin'!").length_ratio

    Args:
        original: The original text.
        rewritten: What the rewriter made of it. Either text may be blank.

    Raises:
        PromptRecoveryError: If the extra `measures` is not installed.
    """
    before, after = measure_text(original), measure_text(rewritten)
    return PairMeasures(
        before,
        after,
        length_ratio=after.words / max(before.words, 1),
        words_kept=words_kept(original, rewritten),
    )


def words_kept(original: str, rewritten: str) -> float:
    """The share of the original's words that the rewritten text keeps, as in `PairMeasures`."""
    changes = word_changes(normalise(original), normalise(rewritten))
    kept = sum(len(before) for before, after in changes if before == after)
    return kept / max(sum(len(before) for before, _ in changes), 1)
