"""Measures of a pair as a table, for terminals and for web pages."""

from prompt_recovery.changes.pair import PairMeasures
from prompt_recovery.tables import Table, to_html


def measures_table(measured: PairMeasures) -> Table:
    """The measures of a pair in columns for the original, the rewritten text and the change."""
    before, after = measured.original, measured.rewritten
    rows = [
        ["words", f"{before.words:,}", f"{after.words:,}", f"{measured.length_ratio:.2f} times"],
        ["words kept", "", "", f"{measured.words_kept:.0%}"],
        [
            "reading level (school grade)",
            f"{before.reading_level:.1f}",
            f"{after.reading_level:.1f}",
            f"{measured.reading_level_shift:+.1f}",
        ],
        [
            "sentiment (-1 … 1)",
            f"{before.sentiment:.2f}",
            f"{after.sentiment:.2f}",
            f"{measured.sentiment_shift:+.2f}",
        ],
        [
            "formality (0 … 100)",
            f"{before.formality:.0f}",
            f"{after.formality:.0f}",
            f"{measured.formality_shift:+.0f}",
        ],
    ]
    for name in ("person", "tense", "language"):
        old, new = (str(getattr(text, name)) or "not clear" for text in (before, after))
        rows.append([name, old, new, "same" if old == new else "changed"])
    for name in ("list_items", "headings", "emoji"):
        counts = (int(getattr(text, name)) for text in (before, after))
        old_count, new_count = counts
        if old_count or new_count:
            change = f"{new_count - old_count:+d}"
            rows.append([name.replace("_", " "), str(old_count), str(new_count), change])
    return Table(["", "original", "rewritten", "change"], rows, "What the rewriter did")


def measures_html(measured: PairMeasures) -> str:
    """The same table as HTML of class `pr-measures`, with everything escaped."""
    return f'<div class="pr-measures">{to_html(measures_table(measured))}</div>'
