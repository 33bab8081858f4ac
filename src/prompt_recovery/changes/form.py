"""Measures of how a text is written and how a rewriter changed it, all by counting.

These measures describe form, not content, and need no library. Shares are of the words unless
stated otherwise.
"""

import math
import re

from prompt_recovery.changes.pair import words_kept
from prompt_recovery.data.splits import normalise

READ = 20_000
"""The number of characters of a text that are read, as many as by the other measures."""

_SENTENCE = re.compile(r"[.!?]+(?=\s|$)")
_LEAD_IN = re.compile(
    r"(?:sure|certainly|of course|absolutely|okay|here(?:'s|’s| is| are)|i'd be happy)\b|\*\*",
    re.IGNORECASE,
)
_COUNTED = {
    "commas": ",",
    "exclamation_marks": "!",
    "question_marks": r"\?",
    "semicolons_and_colons": "[;:]",
    "dashes": "[–—]| - ",
    "quotation_marks": '["“”„«»]',
    "apostrophes": "['’]",
    "digits": r"\d+",
    "parentheses": r"\(",
    "asterisks": r"\*",
    "ellipses": r"\.\.\.|…",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _COUNTED.items()}


def text_form(text: str) -> dict[str, float]:
    """The measures of one text, all of them finite."""
    read = text[:READ].strip()
    words = read.split()
    count = max(len(words), 1)
    plain = normalise(read).split()
    sentences = max(len(_SENTENCE.findall(read)), 1)
    letters = max(sum(map(str.isalpha, read)), 1)
    lines = [line for line in read.splitlines() if line.strip()]
    found = {
        "log_words": math.log1p(len(words)),
        "letters_per_word": letters / count,
        "long_words": sum(len(word) > 6 for word in plain) / count,
        "words_per_sentence": len(words) / sentences,
        "distinct_words": len(set(plain[:60])) / max(len(plain[:60]), 1),
        "capitals": sum(map(str.isupper, read)) / letters,
        "words_per_line": len(words) / max(len(lines), 1),
        "lead_in": float(bool(_LEAD_IN.match(read))),
    }
    return found | {name: len(p.findall(read)) / count for name, p in _PATTERNS.items()}


def kept_form(original: str, rewritten: str) -> dict[str, float]:
    """How much a rewritten text keeps of the original one, apart from the words kept in order."""
    old, new = (normalise(text[:READ]).split() for text in (original, rewritten))
    telling = {word for word in old if len(word) > 4}
    numbers = {word for word in old if word.isdigit()}
    return {
        "telling_words_kept": len(telling & set(new)) / max(len(telling), 1),
        "numbers_kept": len(numbers & set(new)) / len(numbers) if numbers else 0.5,
        "new_words": len(set(new) - set(old)) / max(len(set(new)), 1),
        "same_beginning": float(old[:3] == new[:3]),
        "same_end": float(old[-3:] == new[-3:]),
    }


def pair_form(original: str, rewritten: str) -> dict[str, float]:
    """The measures of a pair: those of the rewritten text, by how much it differs, and how much of
    the original it keeps."""
    before, after = text_form(original), text_form(rewritten)
    found = {f"rewritten_{name}": value for name, value in after.items()}
    found |= {f"change_of_{name}": after[name] - before[name] for name in after}
    found["words_kept"] = words_kept(original[:READ], rewritten[:READ])
    return found | kept_form(original, rewritten)
