"""A verdict for terminals and for web pages."""

from html import escape

from prompt_recovery.detection.verdict import Verdict
from prompt_recovery.tables import Table, to_html

_ANSWERS = {
    "rewritten": "Probably rewritten by an LLM",
    "not rewritten": "Probably not rewritten by an LLM",
    "cannot tell": "Cannot tell whether an LLM rewrote it",
}
_PROMPTS = 5
_TERMS = {
    "log words": "length (logarithm of the number of words)",
    "long words": "share of words with more than 6 letters",
    "distinct words": "share of distinct words",
    "capitals": "share of capital letters",
    "lead in": "lead-in such as “Sure”",
    "digits": "numbers per word",
    "reading level": "reading level (school grade)",
    "first person": "written in the first person",
    "second person": "written in the second person",
    "past tense": "written in the past tense",
    "present tense": "written in the present tense",
    "words kept": "share of words kept",
    "telling words kept": "share of words with more than 4 letters kept",
    "numbers kept": "share of numbers kept",
    "new words": "share of new words",
    "same beginning": "same first words",
    "same end": "same last words",
}
_PER_WORD = (
    "commas", "exclamation marks", "question marks", "semicolons and colons", "dashes",
    "quotation marks", "apostrophes", "parentheses", "asterisks", "ellipses", "list items",
    "headings", "emoji",
)  # fmt: skip


def headline(verdict: Verdict) -> str:
    """The verdict in one line."""
    answer = _ANSWERS[verdict.answer]
    if verdict.probability is None:
        return f"{answer} ({verdict.reason})"
    return f"{answer} ({verdict.reason}). Probability of a rewrite: {verdict.probability:.2f}"


def verdict_tables(verdict: Verdict) -> list[Table]:
    """What the verdict rests on, and the likeliest prompts, where there are any."""
    tables = []
    if verdict.parts:
        rows = [
            [term(part.name), f"{part.value:.3g}", _side(part.log_odds)] for part in verdict.parts
        ]
        headings = ["measure", "value", "suggests (log-odds)"]
        tables.append(Table(headings, rows, "What counts most"))
    if verdict.prompts:
        prompts = [[c.text, f"{c.score:.3f}"] for c in verdict.prompts[:_PROMPTS]]
        tables.append(Table(["prompt", "score"], prompts, "The likeliest prompts", wide=[0]))
    return tables


def verdict_html(verdict: Verdict) -> str:
    """The verdict as HTML of class `pr-verdict`, with everything escaped."""
    tables = "".join(map(to_html, verdict_tables(verdict)))
    return f'<div class="pr-verdict"><p>{escape(headline(verdict))}</p>{tables}</div>'


def term(name: str) -> str:
    """The name of a feature in words that a reader understands."""
    for prefix, form in (
        ("rewritten ", "{} (rewritten text)"),
        ("change of ", "change of the {}"),
    ):
        if name.startswith(prefix):
            return form.format(term(name.removeprefix(prefix)))
    return f"{name} per word" if name in _PER_WORD else _TERMS.get(name, name)


def _side(log_odds: float) -> str:
    return f"{'a rewrite' if log_odds > 0 else 'no rewrite'} ({log_odds:+.2f})"
