from collections.abc import Sequence
from pathlib import Path

from prompt_recovery.reporting.evaluation.scores import Evaluation
from prompt_recovery.storage import atomic_write

_INK, _QUIET, _ACCENT = "#1f2430", "#9aa3b2", "#2a6fdb"


def result_chart(
    evaluations: Sequence[Evaluation], curve: Sequence[tuple[int, float]], path: Path
) -> None:
    """Writes a PNG with the test SCS and interval of each recoverer, and `val/scs` by step.

    The curve is left out if it has only one point.

    Args:
        evaluations: Evaluations of the recoverers. The first one is highlighted.
        curve: (optimiser step, val/scs) pairs.
        path: The file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # The background is opaque, so that the picture is readable on dark pages, too.
    figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=150, facecolor="white")
    learned = len(curve) > 1  # a single validation is no learning curve
    ratios = [3, 2] if learned else [1]
    bars, *further = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
    right = max(max(e.interval[1], float(e.scs.mean()), 0.01) for e in evaluations)
    for row, e in enumerate(reversed(evaluations)):
        mean = float(e.scs.mean())
        colour = _ACCENT if e is evaluations[0] else _QUIET
        bars.barh(row, mean, color=colour, height=0.6)
        bars.plot(e.interval, [row, row], color=_INK, linewidth=1.5)
        bars.text(
            max(e.interval[1], mean) + 0.02 * right, row, f"{mean:.3f}", va="center", color=_INK
        )
    names = [e.name for e in reversed(evaluations)]
    bars.set_yticks(range(len(names)), names, parse_math=False)
    bars.set_xlim(min(0.0, *(e.interval[0] for e in evaluations)), 1.2 * right)
    bars.set_xlabel("mean SCS on prompts never seen in training (95 % interval)")
    bars.xaxis.set_major_locator(MaxNLocator(5))
    for line in further:
        line.plot([s for s, _ in curve], [v for _, v in curve], marker="o", color=_ACCENT)
        line.set_xlabel("optimiser step")
        line.set_ylabel("val/scs")
        line.set_ylim(0, 1.15 * max(v for _, v in curve) or 1.0)
        line.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in (bars, *further):
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
