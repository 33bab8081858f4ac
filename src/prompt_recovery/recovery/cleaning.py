"""A model's answer without chatter."""

import re

from prompt_recovery.rewriters.base import without_reasoning

# Words that introduce an answer. An instruction such as "Turn it into a request for a refund:
# polite but firm" has others before or after "request".
_INTRODUCING = (
    r"(?:absolutely|answer|an?|ai['’]?s?|at|be|been|believe|best|certainly|could|course|final|following|for|given"
    r"|good|guess|have|here(?:['’]s)?|hidden|i|inferred|is|it|likely|likeliest|llm['’]?s?|may|might"
    r"|model['’]?s?|most|my|new|of|okay|ok|one|original|plausible|possible|predicted|probable|probably"
    r"|recovered|reworded|simple|short|single|sure|that|the|think|this|underlying|used|user['’]?s?|was|would"
    r"|your)"
)
_LEAD = re.compile(
    rf"^(\*{{0,3}})(?:{_INTRODUCING}[,.!]?\s+){{0,12}}(?:re-?writ(?:e|ing|ten) |editing )?"
    r"(?:(?:prompt|instruction)s?\b(?:\s+(?:behind|could|given|is|may|might|must|that|used|was|which"
    r"|would)\b[^\n:]{0,60})?|requests?\b(?:\s+(?:is|was|would be))?)(?:\1\s*:|\s*:\1)\s*",
    re.IGNORECASE,
)


def clean_prompt(text: str) -> str:
    """A model's answer without chatter: no reasoning, its first paragraph, no lead-in, no enclosing
    quotes."""
    text, _ = without_reasoning(text)
    text = _LEAD.sub("", text.strip(), count=1).strip()
    first = text.split("\n\n", 1)[0]
    first = re.sub(r"\s+", " ", first).strip()
    for left, right in ('""', "''", "“”", "``", ("**", "**")):
        if len(first) > len(left + right) and first.startswith(left) and first.endswith(right):
            inside = first[len(left) : -len(right)]
            first = inside.strip() if _belong_together(inside, left, right) else first
    return first


def _belong_together(inside: str, left: str, right: str) -> bool:
    """Whether the marks around a text are a pair, unlike the outer ones of `"Make it" a "poem"`."""
    closing = re.search(rf"(?<=\S){re.escape(right)}(?!\w)", inside)
    opening = re.search(rf"(?<!\w){re.escape(left)}(?=\S)", inside)
    return closing is None or (opening is not None and opening.start() < closing.start())
