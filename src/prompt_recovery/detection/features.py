"""The features that a verdict rests on: how a text is written, and how two texts differ.

They describe form, not content: a classifier of topics would learn which passages a dataset took
for its originals. Shares are of the words unless something else is said.
"""

import math
import re
from collections.abc import Mapping

from prompt_recovery.changes.pair import PairMeasures
from prompt_recovery.changes.text import TextMeasures
from prompt_recovery.data.splits import normalise

Features = Mapping[str, float]

_READ = 20_000  # characters, as many as the measures read
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


_NOTHING = TextMeasures(0, 0.0, 0.0, 50.0, "none", "none", 0, 0, 0, "")


def text_features(text: str, measured: TextMeasures) -> dict[str, float]:
    """The features of one text, all of them finite."""
    read = text[:_READ].strip()
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
        "reading_level": measured.reading_level,
        "sentiment": measured.sentiment,
        "formality": measured.formality,
        "list_items": measured.list_items / count,
        "headings": measured.headings / count,
        "emoji": measured.emoji / count,
    }
    found |= {name: len(p.findall(read)) / count for name, p in _PATTERNS.items()}
    found |= {
        f"{person}_person": float(measured.person == person) for person in ("first", "second")
    }
    found |= {f"{tense}_tense": float(measured.tense == tense) for tense in ("past", "present")}
    return found


def pair_features(original: str, rewritten: str, measured: PairMeasures) -> dict[str, float]:
    """The features of a pair: those of the rewritten text, by how much it differs, and how much of
    the original it keeps."""
    before = text_features(original, measured.original)
    after = text_features(rewritten, measured.rewritten)
    found = {f"rewritten_{name}": value for name, value in after.items()}
    found |= {f"change_of_{name}": after[name] - before[name] for name in after}
    old, new = (normalise(text[:_READ]).split() for text in (original, rewritten))
    telling = {word for word in old if len(word) > 4}
    numbers = {word for word in old if word.isdigit()}
    found |= {
        "words_kept": measured.words_kept,
        "telling_words_kept": len(telling & set(new)) / max(len(telling), 1),
        "numbers_kept": len(numbers & set(new)) / len(numbers) if numbers else 0.5,
        "new_words": len(set(new) - set(old)) / max(len(set(new)), 1),
        "same_beginning": float(old[:3] == new[:3]),
        "same_end": float(old[-3:] == new[-3:]),
    }
    return found


TEXT_FEATURES = frozenset(text_features("", _NOTHING))
"""The names of the features of a text."""
PAIR_FEATURES = frozenset(pair_features("", "", PairMeasures(_NOTHING, _NOTHING, 0.0, 0.0)))
"""The names of the features of a pair."""
