"""The wording of requests."""

import re

_POLITE = re.compile(
    r"^(?:please|pls|now|just|(?:can|could|would|will) (?:you|we|i)|i(?:'d| would) like you to"
    r"|i (?:need|want) you to|let's)[\s,]+|[\s,]+(?:please|pls|thanks|thank you)$",
    re.IGNORECASE,
)
_MARKS = ".!?:;, "


def plain_request(prompt: str) -> str:
    """The request on one line, without polite words around it and without marks at its end.

    "Could you make it rhyme, please?" becomes "make it rhyme".
    """
    said = ""
    shorter = " ".join(prompt.split()).rstrip(_MARKS)
    while said != shorter:
        said, shorter = shorter, _POLITE.sub("", shorter).rstrip(_MARKS)
    return said
