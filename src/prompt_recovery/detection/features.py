"""The features that a verdict rests on: how a text is written, and how two texts differ.

They describe form, not content: a classifier of topics would learn which passages a dataset uses as
originals. Shares are of the words unless stated otherwise.
"""

from collections.abc import Mapping

from prompt_recovery.changes.form import READ, kept_form, text_form
from prompt_recovery.changes.pair import PairMeasures
from prompt_recovery.changes.text import TextMeasures

Features = Mapping[str, float]

_NOTHING = TextMeasures(0, 0.0, 0.0, 50.0, "none", "none", 0, 0, 0, "")


def text_features(text: str, measured: TextMeasures) -> dict[str, float]:
    """The features of one text, all of them finite."""
    count = max(len(text[:READ].split()), 1)
    found = text_form(text) | {
        "reading_level": measured.reading_level,
        "sentiment": measured.sentiment,
        "formality": measured.formality,
        "list_items": measured.list_items / count,
        "headings": measured.headings / count,
        "emoji": measured.emoji / count,
    }
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
    return found | {"words_kept": measured.words_kept} | kept_form(original, rewritten)


TEXT_FEATURES = frozenset(text_features("", _NOTHING))
"""The names of the features of a text."""
PAIR_FEATURES = frozenset(pair_features("", "", PairMeasures(_NOTHING, _NOTHING, 0.0, 0.0)))
"""The names of the features of a pair."""
