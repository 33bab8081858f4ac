"""Evidence as HTML: both texts, in which the words that support a prompt are marked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from markupsafe import Markup

from prompt_recovery.recovery.spans import Evidence, Method, Quantity, Span
from prompt_recovery.reporting.html.page import render

_FAINT = 0.08  # of the strongest weight; weaker ones aren't marked, but have their number on hover
_NUMBERED = 5  # spans whose number is always visible, in each view
_LONGEST = 3000  # maximum number of characters shown of a text
_UNREAD = 200  # maximum number of characters shown of what a model has not read between two spans

_QUANTITIES: dict[Quantity, str] = {
    "log_probability": "the log-probability of the prompt",
    "cosine": "the cosine similarity of the predicted embedding to that of the prompt",
}
_HOW: dict[Method, str] = {
    "occlusion": "A number says by how much {} falls when the words are left out",
    "integrated_gradients": "A number is what the words contribute to {}",
}


@dataclass(frozen=True)
class _Part:
    """Consecutive characters of a text: marked, not marked, or unread."""

    text: str
    kind: Literal["", "for", "against"] = ""
    share: float = 0.0
    title: str = ""
    number: str = ""
    unread: bool = False


def evidence_css() -> str:
    """The style of `evidence_html`, for pages that aren't made by `page`."""
    return (files(__package__) / "evidence.css").read_text(encoding="utf-8")


def evidence_html(evidence: Sequence[Evidence], original_text: str, rewritten_text: str) -> Markup:
    """Renders both texts once for each model, with the words that support the prompt marked.

    Words that support it have a solid line below them and words that count against it a dotted
    one, thicker and with a stronger background for higher weights. All weights are shown on hover,
    and the highest ones beside the words. Words that the model didn't read are in italics.

    Args:
        evidence: The evidence of each model.
        original_text: The original text. All texts are escaped.
        rewritten_text: The rewritten text.
    """
    texts = {"original": original_text, "rewritten": rewritten_text}
    views = []
    for one in evidence:
        marked = _marked(one, texts)
        unread = any(part.unread for _, parts in marked for part in parts)
        views.append({"name": one.source, "caption": _caption(one, unread), "texts": marked})
    return render("evidence.html.jinja", views=views)


def _caption(evidence: Evidence, unread: bool) -> str:
    how = _HOW[evidence.method].format(_QUANTITIES[evidence.quantity])
    value = _number(evidence, evidence.value, signed=False)
    return (
        f"{how} ({value} with all words). Words with a solid line support the "
        "prompt, and words with a dotted line count against it."
        f"{' Words in italics were not read.' if unread else ''}"
    )


def _number(evidence: Evidence, value: float, signed: bool = True) -> str:
    digits = 2 if evidence.quantity == "log_probability" else 3
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def _marked(evidence: Evidence, texts: Mapping[str, str]) -> list[tuple[str, list[_Part]]]:
    """Both texts by their names, in parts."""
    weights = sorted((abs(span.weight) for span in evidence.spans), reverse=True)
    highest = max([*weights, 1e-12])
    numbered = weights[: max(_NUMBERED, 1)][-1] if weights else highest
    found = []
    for name, text in texts.items():
        parts, at = [], 0
        for span in evidence.spans:
            if span.text != name or span.start >= _LONGEST:
                continue
            parts += _between(text[at : span.start])
            parts.append(_marked_part(evidence, span, text, highest, numbered))
            at = span.end
        end = max(at, _LONGEST)
        parts += _between(text[at:end], ends=len(text) <= end)
        found.append((name, parts))
    return found


def _marked_part(
    evidence: Evidence, span: Span, text: str, highest: float, numbered: float
) -> _Part:
    number = _number(evidence, span.weight)
    share = abs(span.weight) / highest
    words = text[span.start : span.end]
    if share < _FAINT:
        return _Part(words, title=number)
    return _Part(
        words,
        "for" if span.weight > 0 else "against",
        round(share, 2),
        number,
        number if abs(span.weight) >= numbered else "",
    )


def _between(text: str, ends: bool = True) -> list[_Part]:
    """What is in no span: white space, or words that the model didn't read.

    The middle of a long unread part is left out.

    Args:
        text: What is between two spans, before the first one or after the last one.
        ends: Whether the text isn't cut off at its end.
    """
    if not text:
        return []
    unread = bool(text.strip())
    half = _UNREAD // 2
    if unread and len(text) > _UNREAD:
        head, tail = text[:half].rsplit(maxsplit=1)[0], text[-half:].split(maxsplit=1)[-1]
        text = f"{head} […] {tail}" if ends else head
    if not ends:
        text += " […]"
    return [_Part(text, title="not read by this model" if unread else "", unread=unread)]
