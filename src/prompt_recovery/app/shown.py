"""HTML of what the page shows of a pair and its answer. All texts are escaped."""

from collections.abc import Sequence
from html import escape
from typing import Any

from prompt_recovery.changes.pair import measures
from prompt_recovery.changes.shown import measures_html
from prompt_recovery.changes.text import has_measures
from prompt_recovery.data.splits import normalise
from prompt_recovery.detection.detector import detect
from prompt_recovery.detection.shown import verdict_html
from prompt_recovery.errors import printable
from prompt_recovery.recovery.assemble import Assembled
from prompt_recovery.recovery.interface import Pair, Prediction
from prompt_recovery.tables import counted
from prompt_recovery.templates import word_changes

_SHOWN_WORDS = 1500  # number of words of each text to show in the difference
ALTERNATIVES = 7
MOST_ALTERNATIVES = 50
_PREVIEW = 8  # number of answers of a file that are shown
_EXPECTED = (
    "SCS (sharpened cosine similarity) says how similar an answer is to the true prompt: 1 is the "
    "same, and unrelated prompts have about 0. This is what answers with such a score had on "
    "average on the validation examples of the run."
)
_SCORE = (
    "What candidates are ranked by. By default, it says how similar this prompt is, on average, to "
    "all others that the recoverer considers, before this is calibrated to the expected SCS."
)


def answer_html(prediction: Prediction, alternatives: int = ALTERNATIVES) -> str:
    """Renders the recovered prompt and its alternatives with their scores."""
    parts = [f'<div class="pr-answer">{escape(prediction.rewrite_prompt)}</div>']
    note = ""
    if prediction.fallback:  # the expected SCS is that of the candidate that it replaces
        note = "This is the mean prompt: the recoverer has no better answer."
    elif prediction.confidence is not None:
        note = f"{_explained('expected SCS', _EXPECTED)} {prediction.confidence:.2f}"
    if note:
        parts.append(f'<div class="pr-quiet">{note}</div>')
    first = 0 if prediction.fallback else 1
    others = prediction.candidates[first : first + min(max(alternatives, 0), MOST_ALTERNATIVES)]
    if others:
        rows = "".join(f"<tr><td>{escape(c.text)}</td><td>{c.score:.3f}</td></tr>" for c in others)
        parts.append(
            '<table class="pr-others"><thead><tr><th>Alternatives</th>'
            f"<th>{_explained('score', _SCORE)}</th></tr></thead><tbody>{rows}</tbody></table>"
        )
    return "".join(parts)


def difference_html(original_text: str, rewritten_text: str) -> str:
    """Renders both texts as one, with removed words struck out and added words marked."""
    cut = [text.split() for text in (original_text, rewritten_text)]
    before, after = (" ".join(words[:_SHOWN_WORDS]) for words in cut)
    parts = []
    for old, new in word_changes(before, after):
        if old == new:
            parts.append(escape(" ".join(old)))
            continue
        parts += [f"<del>{escape(' '.join(old))}</del>"] if old else []
        parts += [f"<ins>{escape(' '.join(new))}</ins>"] if new else []
    if max(map(len, cut)) > _SHOWN_WORDS:
        parts.append(f'<span class="pr-quiet">… (the first {_SHOWN_WORDS:,} words)</span>')
    return f'<div class="pr-difference">{" ".join(parts)}</div>'


def measured_html(original_text: str, rewritten_text: str) -> str:
    """Renders measures of a pair and the verdict of `detect`, if the extra `measures` is there."""
    if not has_measures():
        return ""
    verdict = detect(rewritten_text, original=original_text)
    return measures_html(measures(original_text, rewritten_text)) + verdict_html(verdict)


def notes_html(ready: Assembled, pair: Pair) -> str:
    """Renders what a reader of an answer should know about its pair.

    That is, whether the texts are the same, and whether a model could not read all of them.
    """
    notes = []
    if normalise(pair.original_text) == normalise(pair.rewritten_text):
        notes.append("The two texts are the same, so there is nothing to recover.")
    recoverer: Any = ready.recoverer
    for source, _ in getattr(recoverer, "sources", ()):
        share = source.share_read(pair) if hasattr(source, "share_read") else 1.0
        if share < 1:
            notes.append(
                f"{source.name} has read {max(share, 0.01):.0%} of the two texts: they are longer "
                "than its input, and were cut."
            )
    return "".join(f'<div class="pr-note">{escape(note)}</div>' for note in notes)


def problem_html(message: str) -> str:
    """Renders what keeps the recoverer from answering."""
    return f'<div class="pr-problem" role="alert">{escape(printable(message))}</div>'


def summary_html(predictions: Sequence[Prediction]) -> str:
    """Renders the number of answers and the first few of them."""
    fallbacks = sum(p.fallback for p in predictions)
    rows = "".join(
        f"<tr><td>{escape(p.id)}: {escape(p.rewrite_prompt)}</td>"
        f"<td>{'–' if p.confidence is None else f'{p.confidence:.2f}'}</td></tr>"
        for p in predictions[:_PREVIEW]
    )
    first = f" The first {_PREVIEW}:" if len(predictions) > _PREVIEW else ""
    return (
        f'<div class="pr-quiet">{counted(len(predictions), "answer")}, {fallbacks:,} of them the '
        f'mean prompt.{first}</div><table class="pr-others"><thead><tr><th>Answers</th>'
        f"<th>{_explained('expected SCS', _EXPECTED)}</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _explained(term: str, meaning: str) -> str:
    return f'<abbr title="{escape(meaning)}" tabindex="0">{escape(term)}</abbr>'
