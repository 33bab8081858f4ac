"""Cuts two texts into the pieces that are left out together, such as runs of changed words."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from prompt_recovery.recovery.spans import TextName
from prompt_recovery.templates import word_changes

Ranges = Sequence[tuple[int, int]]
"""Parts of a text as (start, end) of characters, in order."""

LONGEST = 8
"""The largest number of words in a piece."""
_ISLAND = 2  # so few kept words between changed ones count as changed
_CHARACTERS = 16  # of a word; longer ones, such as those of scripts without spaces, are divided
_WORD = re.compile(rf"\S{{1,{_CHARACTERS}}}")
_SENTENCE_END = re.compile(r"""[.!?…。！？]["'”’»)\]]*$""")


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive words of one of the two texts.

    Attributes:
        text: The text.
        start: The index of the first character.
        end: The index after the last character of its last word.
        until: The index after the white space that follows, which is left out with the words.
    """

    text: TextName
    start: int
    end: int
    until: int


def words(text: str) -> list[tuple[int, int]]:
    """The start and end of each word; words of more than 16 characters are divided."""
    return [match.span() for match in _WORD.finditer(text)]


def pieces(original_text: str, rewritten_text: str, longest: int = LONGEST) -> list[Piece]:
    """Cuts both texts into pieces, the original one first.

    A piece ends where a sentence or a line ends, and where a run of changed words begins or ends.
    Runs of at most two kept words within changed ones count as changed.

    Args:
        original_text: The original text.
        rewritten_text: The rewritten text.
        longest: The largest number of words in a piece; longer runs are divided evenly.
    """
    before: list[bool] = []
    after: list[bool] = []
    for old, new in word_changes(original_text, rewritten_text):
        before += [old != new] * len(old)
        after += [old != new] * len(new)
    return [
        *_pieces(original_text, "original", before, longest),
        *_pieces(rewritten_text, "rewritten", after, longest),
    ]


def _pieces(text: str, name: TextName, changed: Sequence[bool], longest: int) -> list[Piece]:
    found: list[tuple[int, int]] = []
    flags: list[bool] = []
    number = -1
    for start, end in words(text):
        # A part of a divided word belongs to the same word as the part before it.
        number += not (found and found[-1][1] == start)
        flags.append(changed[number])
        found.append((start, end))
    flags = _without_islands(flags)
    cuts = [0]
    for i in range(1, len(found)):
        (_, end), (start, _) = found[i - 1], found[i]
        sentence = _SENTENCE_END.search(text[found[i - 1][0] : end]) and start > end
        if flags[i] != flags[i - 1] or sentence or "\n" in text[end:start]:
            cuts.append(i)
    cuts.append(len(found))
    result = []
    for first, last in pairwise(cuts):
        parts = max(-(-(last - first) // longest), 1)
        edges = [first + (last - first) * n // parts for n in range(parts + 1)]
        for a, b in pairwise(edges):
            if a < b:
                until = found[b][0] if b < len(found) else len(text)
                result.append(Piece(name, found[a][0], found[b - 1][1], until))
    return result


def _without_islands(flags: Sequence[bool]) -> list[bool]:
    """The flags, with short runs of False between True ones as True."""
    result = list(flags)
    start: int | None = None  # of a run of False after a True
    for i, flag in enumerate(flags):
        if flag:
            if start is not None and 0 < i - start <= _ISLAND:
                result[start:i] = [True] * (i - start)
            start = i + 1
    return result


def within(parts: Iterable[Piece], ranges: dict[TextName, Ranges]) -> list[Piece]:
    """The pieces as far as a model reads them.

    Args:
        parts: The pieces.
        ranges: The parts of each text that the model reads.
    """
    found = []
    for piece in parts:
        for start, end in ranges[piece.text]:
            first, last = max(piece.start, start), min(piece.end, end)
            if first < last:
                found.append(Piece(piece.text, first, last, min(piece.until, end)))
    return found


def without(text: str, ranges: Ranges, left_out: Iterable[Piece], joint: str) -> str:
    """What a model reads of a text when pieces are left out.

    Args:
        text: The text.
        ranges: The parts of the text that the model reads.
        left_out: Pieces of this text, each within one of the ranges, that don't overlap.
        joint: What stands between the ranges.
    """
    ordered = sorted(left_out, key=lambda piece: piece.start)
    parts = []
    for start, end in ranges:
        kept: list[str] = []
        at = start
        for piece in ordered:
            if start <= piece.start < end:
                kept.append(text[at : piece.start])
                at = piece.until
        parts.append("".join([*kept, text[at:end]]))
    return joint.join(parts)
