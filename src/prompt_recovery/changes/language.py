"""The language of a text."""

from functools import cache
from typing import Any


def language_of(text: str) -> str:
    """Returns the name of the language of a text in Latin script, or "" if it is not clear.

    Only words that begin with a lower-case letter are considered, because the names of foreign
    people and places mislead a detector that looks at letter sequences.

    Returns:
        The name in capitals, such as "ENGLISH", or "".
    """
    words = [word for word in text.split() if word[:1].islower()]
    if len(words) < 10:
        return ""
    language = detector().detect_language_of(" ".join(words))
    return language.name if language else ""


@cache
def detector() -> Any:
    """Loads a detector for the languages that rewriters know best (2 seconds, 200 MB).

    A text in another language in Latin script is usually classified as a related one of these,
    which is enough to tell it from English. Lingua's low accuracy mode loads much faster, but
    misclassifies one English text in two hundred.
    """
    from lingua import Language, LanguageDetectorBuilder

    languages = (
        Language.ENGLISH,
        Language.FRENCH,
        Language.GERMAN,
        Language.SPANISH,
        Language.ITALIAN,
        Language.PORTUGUESE,
        Language.DUTCH,
    )
    builder = LanguageDetectorBuilder.from_languages(*languages)
    return builder.with_minimum_relative_distance(0.5).build()
