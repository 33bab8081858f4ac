"""Measures of one text (extra `[measures]`).

Reading level, sentiment, formality, person and tense are made for English. For other languages,
they are computed, too, but mean little.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from prompt_recovery.changes.language import language_of
from prompt_recovery.settings.extras import has_extra, require_extra

Person = Literal["first", "second", "third", "none"]
Tense = Literal["past", "present", "future", "none"]

_READ = 20_000  # characters of a text
_HIGHEST_GRADE = 30.0  # of a text without full stops, which would count as one long sentence
_PERSONS: dict[Person, frozenset[str]] = {
    "first": frozenset("i me my mine myself we us our ours ourselves".split()),
    "second": frozenset("you your yours yourself yourselves thou thee thy thine ye".split()),
    "third": frozenset(
        "he him his himself she her hers herself it its itself they them their theirs themselves "
        "one oneself".split()
    ),
}
_FUTURE = frozenset({"will", "shall", "'ll", "ll", "wo"})
_ARTICLES = frozenset({"the", "a", "an"})


@dataclass(frozen=True)
class TextMeasures:
    """Measures of one text, of which the first 20,000 characters are read.

    Attributes:
        words: The number of words between blanks, in the whole text.
        reading_level: The automated readability index (Smith and Senter, 1967), by textstat, in
            0 … 30: the US school grade that can read the text. It needs no syllables, for which
            textstat would download a dictionary.
        sentiment: TextBlob's polarity, in -1 (negative) … 1 (positive).
        formality: The F-score of Heylighen and Dewaele (1999), in 0 … 100, higher is more formal:
            `(noun + adjective + preposition + article - pronoun - verb - adverb - interjection +
            100) / 2`, where each name stands for the share of such words in per cent, according to
            TextBlob's tagger. A text without words has 50.
        person: The person that most of the personal pronouns have.
        tense: The tense of most of the finite verbs.
        list_items: The number of items of Markdown lists, and of lines that begin with "•".
        headings: The number of Markdown headings, and of paragraphs that are set in bold.
        emoji: The number of emoji.
        language: The name in lower case, such as "english"; "" if it is not clear.
    """

    words: int
    reading_level: float
    sentiment: float
    formality: float
    person: Person
    tense: Tense
    list_items: int
    headings: int
    emoji: int
    language: str


def require_measures() -> None:
    """Checks that the libraries of the extra `measures` are installed.

    Raises:
        PromptRecoveryError: If one of them is not.
    """
    require_extra("measures", "the measurement of texts")


def has_measures() -> bool:
    """Returns whether the libraries of the extra `measures` are installed."""
    return has_extra("measures")


def measure_text(text: str) -> TextMeasures:
    """Measures a text.

    Raises:
        PromptRecoveryError: If the extra `measures` is not installed.
    """
    require_measures()
    import emoji
    import textstat
    from textblob.en import sentiment

    read = text[:_READ].encode("utf-8", "ignore").decode()
    tagged = _tagged(read)
    grade = float(textstat.automated_readability_index(read))
    list_items, headings = _blocks(read)
    return TextMeasures(
        words=len(text.split()),
        reading_level=min(max(grade, 0.0), _HIGHEST_GRADE),
        sentiment=float(sentiment(read)[0]),
        formality=_formality(tagged),
        person=_person(tagged),
        tense=_tense(tagged),
        list_items=list_items,
        headings=headings,
        emoji=0 if read.isascii() else int(emoji.emoji_count(read)),
        language=language_of(read).lower(),
    )


Tagged = Sequence[tuple[str, str]]  # words in lower case and Penn Treebank tags


def _tagged(text: str) -> Tagged:
    from textblob.en import tag

    # The tagger takes "/" for the separator of its own format.
    words = tag(text.replace("/", " ").replace("’", "'"), tokenize=True)
    return [(str(word).lower(), str(name)) for word, name in words if name[:1].isalpha()]


def _formality(tagged: Tagged) -> float:
    if not tagged:
        return 50.0
    more = ("NN", "JJ", "IN", "TO")
    less = ("PRP", "WP", "VB", "MD", "RB", "UH")
    balance = 0
    for word, name in tagged:
        if word in _ARTICLES or name.startswith(more):
            balance += 1
        elif name.startswith(less):
            balance -= 1
    return (100 * balance / len(tagged) + 100) / 2


def _person(tagged: Tagged) -> Person:
    counts = {p: sum(word in words for word, _ in tagged) for p, words in _PERSONS.items()}
    best = max(counts, key=lambda person: counts[person])
    return best if counts[best] else "none"


def _tense(tagged: Tagged) -> Tense:
    counts: Counter[Tense] = Counter()
    for word, name in tagged:
        if word in _FUTURE and name in ("MD", "VB", "NN", "FW"):
            counts["future"] += 1
        elif name == "VBD":
            counts["past"] += 1
        elif name in ("VBP", "VBZ"):
            counts["present"] += 1
    return max(counts, key=lambda tense: counts[tense]) if counts else "none"


def _blocks(text: str) -> tuple[int, int]:
    """The numbers of list items and of headings."""
    tokens = _markdown().parse(text)
    items = sum(token.type == "list_item_open" for token in tokens)
    items += sum(line.lstrip().startswith("•") for line in text.splitlines())
    headings = sum(token.type == "heading_open" for token in tokens)
    headings += sum(
        token.type == "inline"
        and re.fullmatch(r"\*\*[^*]+\*\*:?", token.content.strip()) is not None
        for token in tokens
    )
    return items, headings


@cache
def _markdown() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")
