"""Charts as HTML and SVG, in the page's colours, which are readable on a phone."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from prompt_recovery.reporting.html.page import render

COLOURS = 6  # number of line colours in page.css
_WIDTH, _HEIGHT = 360, 246
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 348, 26, 206
_CHARACTER = 7.5  # width of a character of a tick's label, with the space between labels


@dataclass(frozen=True)
class Interval:
    """A value with its interval, such as a mean score; low ≤ high."""

    name: str
    value: float
    low: float
    high: float
    best: bool = False


@dataclass(frozen=True)
class Line:
    """A line through points (x, y); `marks` shows the points themselves."""

    name: str
    points: Sequence[tuple[float, float]]
    marks: bool = False


def interval_chart(rows: Sequence[Interval], caption: str, digits: int = 3) -> Markup:
    """Draws horizontal bars from zero with intervals, one per row.

    Args:
        rows: At least one row, in order.
        caption: Description of the values.
        digits: Number of decimal places.
    """
    lowest = min(0.0, *(min(r.low, r.value) for r in rows))
    highest = max(0.01, *(max(r.high, r.value) for r in rows))
    ticks = _ticks(lowest, highest, 4)
    left, right = min(lowest, ticks[0]), max(highest, ticks[-1])

    def place(value: float) -> float:
        return round(100 * (value - left) / (right - left), 2)

    shown = [
        {
            "row": row,
            "text": f"{row.value:.{digits}f}",
            "title": f"{row.value:.{digits}f} ({row.low:.{digits}f} … {row.high:.{digits}f})",
            "bar": (place(min(row.value, 0)), place(max(row.value, 0)) - place(min(row.value, 0))),
            "range": (place(row.low), max(place(row.high) - place(row.low), 0)),
            "dot": place(row.value),
        }
        for row in rows
    ]
    scale = [(f"{tick:g}", place(tick)) for tick in ticks]
    return render("intervals.html.jinja", rows=shown, scale=scale, zero=place(0), caption=caption)


def line_chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    caption: str,
    diagonal: bool = False,
) -> Markup:
    """Draws lines in one chart whose axes cover all points.

    Args:
        lines: At least one line with at least one point. Colours repeat after six lines.
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical axis.
        caption: Description of the chart.
        diagonal: Draw the line x = y, and give both axes the same range.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    if diagonal:
        xs = ys = xs + ys
    x_ticks, y_ticks = _fitting(min(xs), max(xs)), _ticks(min(ys), max(ys), 5)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return (
            round(_LEFT + across * (_RIGHT - _LEFT), 1),
            round(_BOTTOM - up * (_BOTTOM - _TOP), 1),
        )

    drawn = [
        {
            "name": line.name,
            "colour": number % COLOURS,
            "marks": [place(x, y) for x, y in line.points] if line.marks else [],
            "path": " ".join(f"{a},{b}" for a, b in (place(x, y) for x, y in line.points)),
        }
        for number, line in enumerate(lines)
    ]
    return render(
        "lines.html.jinja",
        width=_WIDTH,
        height=_HEIGHT,
        box=(_LEFT, _TOP, _RIGHT, _BOTTOM),
        lines=drawn,
        x_ticks=[(f"{t:g}", place(t, y_ticks[0])[0]) for t in x_ticks],
        y_ticks=[(f"{t:g}", place(x_ticks[0], t)[1]) for t in y_ticks],
        x_label=x_label,
        y_label=y_label,
        diagonal=diagonal,
        caption=caption,
    )


def _fitting(low: float, high: float) -> list[float]:
    """Returns ticks of the horizontal axis whose labels do not overlap."""
    for count in (5, 4, 3, 2):
        ticks = _ticks(low, high, count)
        if max(len(f"{t:g}") for t in ticks) * len(ticks) * _CHARACTER <= _RIGHT - _LEFT:
            break
    return ticks


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Returns round numbers that cover a range."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    return [round(float(t), 10) for t in MaxNLocator(count).tick_values(low, high)]
