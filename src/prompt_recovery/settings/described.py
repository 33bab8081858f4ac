"""What the docstrings of declarations say about settings, for `--help`."""

import inspect
import re
from typing import Any

_SECTION = re.compile(r"^(?:Attributes|Args):\n(.*?)(?=^\S|\Z)", re.M | re.S)
_ENTRY = re.compile(r"^    (\w+):[ ]?(.*?)(?=^    \w+:|\Z)", re.M | re.S)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])")


def description(target: Any, name: str, sentences: int = 3) -> str:
    """Returns what the docstring of a class or a function says about one of its settings.

    Fields that a class inherits are described by the class that declares them. `None` is written as
    on the command line, `null`.

    Args:
        target: The class or function.
        name: The setting.
        sentences: The largest number of sentences to return.

    Returns:
        The sentences in one line, or an empty text if the docstring doesn't describe the setting.
    """
    for kind in inspect.getmro(target) if isinstance(target, type) else (target,):
        section = _SECTION.search(inspect.cleandoc(kind.__doc__ or ""))
        entries = _ENTRY.findall(section[1]) if section else []
        for found, text in entries:
            if found == name:
                said = " ".join(text.split()).replace("None", "null")
                return " ".join(_SENTENCE.split(said)[:sentences])
    return ""
