"""A model's answer without chatter."""

import re

_LEAD = re.compile(
    r"^[^\n:]{0,80}\b(?:prompt|instruction|request)\b[^\n:]{0,40}:\s*",
    re.IGNORECASE,
)


def clean_prompt(text: str) -> str:
    """A model's answer without chatter: its first paragraph, no lead-in, no enclosing quotes."""
    text = _LEAD.sub("", text.strip(), count=1).strip()
    first = text.split("\n\n", 1)[0]
    first = re.sub(r"\s+", " ", first).strip()
    for left, right in ('""', "''", "“”", "``", ("**", "**")):
        if len(first) > len(left + right) and first.startswith(left) and first.endswith(right):
            first = first[len(left) : -len(right)].strip()
    return first
