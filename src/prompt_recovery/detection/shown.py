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


def headline(verdict: Verdict) -> str:
    """The verdict in one line."""
    answer = _ANSWERS[verdict.answer]
    if verdict.probability is None:
        return f"{answer} ({verdict.reason})"
    return f"{answer}: probability {verdict.probability:.2f} ({verdict.reason})"


def verdict_tables(verdict: Verdict) -> list[Table]:
    """What the verdict rests on, and the likeliest prompts, where there are any."""
    tables = []
    if verdict.parts:
        rows = [[part.name, f"{part.value:.3g}", _side(part.log_odds)] for part in verdict.parts]
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


def _side(log_odds: float) -> str:
    return f"{'a rewrite' if log_odds > 0 else 'no rewrite'} ({log_odds:+.2f})"
