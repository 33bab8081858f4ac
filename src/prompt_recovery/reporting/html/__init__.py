"""Self-contained HTML pages, without scripts or external resources."""

from prompt_recovery.reporting.html.charts import Interval, Line, interval_chart, line_chart
from prompt_recovery.reporting.html.evidence import evidence_css, evidence_html
from prompt_recovery.reporting.html.page import Section, page, write_page
from prompt_recovery.reporting.html.parts import Fact, facts, heat_table, html_table, paragraph

__all__ = [
    "Fact",
    "Interval",
    "Line",
    "Section",
    "evidence_css",
    "evidence_html",
    "facts",
    "heat_table",
    "html_table",
    "interval_chart",
    "line_chart",
    "page",
    "paragraph",
    "write_page",
]
