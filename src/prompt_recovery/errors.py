"""The error that a user can fix, and functions that make texts safe to print."""

import unicodedata

_LONGEST_REASON = 300


class PromptRecoveryError(Exception):
    """An error that the user can fix; its message is one line that says what to do.

    Entry points print it without a traceback and exit with status 1.
    """


def printable(text: str) -> str:
    """Returns a text in one line without control characters, for a terminal or a log.

    Everything that is printed and contains a text, an id or a name from elsewhere must be passed
    through this function. An escape sequence could clear the screen or rename the window, and a
    direction mark could make a text look like another one. Broken Unicode is replaced.
    """
    if text.isascii() and text.isprintable():
        return text
    shown = [_shown(character) for character in text]
    return " ".join("".join(shown).split())


_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Zl", "Zp") or character in "\t\n\v\f\r\x85":
        return " "
    if category == "Cs":
        return "\N{REPLACEMENT CHARACTER}"
    return "" if category == "Cc" or character in _DIRECTIONS else character


def first_line(error: BaseException) -> str:
    """Returns the first line of another library's error message, shortened if it is long."""
    text = str(error).strip().split("\n", 1)[0]
    said = printable(text) or type(error).__name__
    return said if len(said) <= _LONGEST_REASON else f"{said[:_LONGEST_REASON]} …"
