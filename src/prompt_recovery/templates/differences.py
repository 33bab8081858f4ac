"""The differences between two texts, word by word."""

import difflib
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

_MOST_STEPS = 10_000_000  # of a comparison: about a second


def word_changes(original_text: str, rewritten_text: str) -> list[tuple[list[str], list[str]]]:
    """Runs of words as (before, after) pairs; the two are equal where the words were kept.

    If texts repeat a few words so often that a comparison would take minutes, some kept words are
    not found.
    """
    before, after = original_text.split(), rewritten_text.split()
    matcher = _Matcher(before, after)
    return [(before[i:j], after[k:m]) for _, i, j, k, m in matcher.get_opcodes()]


class _Matcher(difflib.SequenceMatcher[str]):
    """A `SequenceMatcher` that stops looking for further matches after a number of steps.

    Each search compares every word with all places where the other text has it, and there are as
    many searches as matches.
    """

    b2j: dict[str, list[int]]

    def __init__(self, before: Sequence[str], after: Sequence[str]) -> None:
        super().__init__(None, before, after, autojunk=False)
        counts = Counter(before)
        places = {word: count * len(self.b2j.get(word, ())) for word, count in counts.items()}
        total = sum(places.values())
        for word in sorted(places, key=lambda w: (-places[w], w)):
            if total <= _MOST_STEPS // 20:
                break
            total -= places[word]
            self.b2j.pop(word, None)
        steps = (1 + len(self.b2j.get(word, ())) for word in before)
        self._steps = [0, *accumulate(steps)]
        self._left = _MOST_STEPS

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> difflib.Match:
        end = len(self._steps) - 1 if ahi is None else ahi
        self._left -= self._steps[end] - self._steps[alo]
        if self._left < 0:
            return difflib.Match(alo, blo, 0)
        return super().find_longest_match(alo, ahi, blo, bhi)


def word_difference(original_text: str, rewritten_text: str) -> str:
    """Both texts as one, with `[-removed-]` and `{+added+}` words.

    Runs of more than eight kept words are shortened to their first and last three.
    """
    parts: list[str] = []
    for before, after in word_changes(original_text, rewritten_text):
        if before == after:
            parts += before if len(before) <= 8 else [*before[:3], "…", *before[-3:]]
            continue
        if before:
            parts.append(f"[-{' '.join(before)}-]")
        if after:
            parts.append(f"{{+{' '.join(after)}+}}")
    return " ".join(parts)
