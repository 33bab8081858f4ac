"""Draws the figures of the concept pages, with the package's own functions.

python docs/figures.py
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from headline import ROWS, found
from matplotlib.figure import Figure

from prompt_recovery.metrics.scs import sharpen
from prompt_recovery.storage import atomic_write

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "figures"
# Readable on white; on a dark page, `stylesheets/site.css` makes pictures brighter.
_INK, _ACCENT, _OTHER = "#6c7685", "#2a6fdb", "#b85c16"
# The dark end of viridis cannot be seen on a dark page.
_SEEN = mpl.colors.ListedColormap(mpl.colormaps["viridis"](np.linspace(0.3, 1, 256)))
mpl.rcParams.update(
    {
        "svg.hashsalt": "prompt-recovery",
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "font.size": 10,
    }
)


def trees() -> Figure:
    """Which token attends to which in a tree of five prompt tokens and two completions of three."""
    part = np.repeat([0, 1, 2], [5, 3, 3])
    places = np.arange(len(part))
    sees = (places[None] <= places[:, None]) & ((part[None] == 0) | (part[None] == part[:, None]))
    figure, axes = _axes(5.2, 4.6)
    for row, column in np.argwhere(sees):
        colour = [_INK, _ACCENT, _OTHER][part[row]]
        axes.add_patch(mpl.patches.Rectangle((column, row), 0.9, 0.9, facecolor=colour, alpha=0.75))
    axes.set(xlim=(-0.1, len(part)), ylim=(len(part), -0.1), aspect="equal")
    names = ["p₁", "p₂", "p₃", "p₄", "p₅", "a₁", "a₂", "a₃", "b₁", "b₂", "b₃"]
    axes.set_xticks(places + 0.45, names)
    axes.set_yticks(places + 0.45, names)
    axes.tick_params(length=0)
    axes.set_xlabel("attended token: prompt p, completions a and b")
    axes.set_ylabel("attending token")
    axes.spines[:].set_visible(False)
    return figure


def scs() -> Figure:
    """SCS against the cosine."""
    figure, axes = _axes(5.2, 3.2)
    cosine = np.linspace(-1, 1, 201)
    axes.plot(cosine, cosine, color=_INK, linewidth=1, linestyle="--", label="cosine")
    axes.plot(cosine, np.asarray(sharpen(cosine, 3.0)), color=_ACCENT, linewidth=2, label="SCS")
    axes.set(xlabel="cosine of the two embeddings", ylabel="score")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def mbr() -> Figure:
    """Samples in a plane; the one with the highest mean SCS to the others is chosen."""
    rng = np.random.default_rng(4)
    clusters = [((1.0, 0.9), 0.18, 9), ((0.2, 1.3), 0.25, 4), ((1.5, 0.1), 0.15, 3)]
    crowd = np.concatenate([rng.normal(at, wide, (size, 2)) for at, wide, size in clusters])
    points = np.column_stack([crowd, np.full(len(crowd), 0.7)])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    utility = np.asarray(sharpen(points @ points.T, 3.0))
    expected = (utility.sum(1) - 1) / (len(points) - 1)
    best = int(expected.argmax())
    figure, axes = _axes(5.2, 3.6)
    for i in range(len(crowd)):
        if i != best:
            axes.plot(*zip(crowd[best], crowd[i], strict=True), color=_ACCENT, alpha=0.25, zorder=1)
    shown = axes.scatter(*crowd.T, c=expected, cmap=_SEEN, s=60, zorder=2)
    axes.scatter(*crowd[best], s=220, facecolors="none", edgecolors=_OTHER, linewidths=2, zorder=3)
    axes.annotate("chosen", crowd[best], (14, 14), textcoords="offset points", color=_OTHER)
    axes.set(xticks=[], yticks=[], xlabel="samples, as points in the space of embeddings")
    figure.colorbar(shown, label="mean SCS to the others")
    return figure


def rounds() -> Figure:
    """One round of preference optimisation, and what goes on to the next."""
    figure, axes = _axes(5.6, 3.0)
    steps = [
        ("model", 0, 1), ("samples", 1, 1), ("scores", 2, 1),
        ("trained model", 0, 0), ("pairs", 1, 0), ("all candidates", 2, 0),
    ]  # fmt: skip
    places = {name: (2.6 * x, 1.5 * y) for name, x, y in steps}
    for name, (x, y) in places.items():
        colour = _ACCENT if "model" in name else _INK
        box = mpl.patches.FancyBboxPatch(
            (x - 0.75, y - 0.25), 1.5, 0.5, boxstyle="round,pad=0.05", fill=False, edgecolor=colour
        )
        axes.add_patch(box)
        axes.text(x, y, name, ha="center", va="center", color=colour, fontsize=9)
    arrows = [
        ("model", "samples", "writes"), ("samples", "scores", "SCS"),
        ("scores", "all candidates", "join those of\nearlier rounds"),
        ("all candidates", "pairs", "pair"), ("pairs", "trained model", "train"),
        ("trained model", "model", "next round"),
    ]  # fmt: skip
    for start, end, said in arrows:
        (x0, y0), (x1, y1) = places[start], places[end]
        across = 0.85 * np.sign(x1 - x0), 0.35 * np.sign(y1 - y0)
        axes.annotate(
            "", (x1 - across[0], y1 - across[1]), (x0 + across[0], y0 + across[1]),
            arrowprops={"arrowstyle": "->", "color": _OTHER if said == "next round" else _INK},
        )  # fmt: skip
        along = y0 == y1
        axes.text(
            (x0 + x1) / 2 + (0 if along else 0.12),
            (y0 + y1) / 2 + (0.12 if along else 0),
            said,
            ha="center" if along else "left",
            va="bottom" if along else "center",
            fontsize=9,
        )
    axes.set(xlim=(-0.95, 7.3), ylim=(-0.4, 1.95))
    axes.set_axis_off()
    return figure


def results() -> Figure:
    """The table of the README as bars: the mean over seeds, with their range."""
    rows = sorted(
        (sum(values) / len(values), min(values), max(values), name.replace("*", ""))
        for record, row, name in ROWS
        if (values := found(record, row))
    )
    figure, axes = _axes(5.2, 4.6)
    for place, (mean, low, high, name) in enumerate(rows):
        best = place == len(rows) - 1
        axes.barh(place, mean, color=_ACCENT if best else _INK, alpha=0.85, height=0.4)
        axes.plot([low, high], [place, place], color=_OTHER, linewidth=2)
        axes.text(max(mean, high) + 0.002, place, f"{mean:.3f}", va="center")
        axes.text(0, place + 0.25, name.split(" (")[0], va="bottom", fontsize=9)  # fits a phone
    axes.set_yticks([])
    axes.set(xlabel="mean test SCS, with its range over seeds", xlim=(0, 0.16))
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def evidence() -> Figure:
    """Deletion and insertion curves, from `experiments/evidence.report.json`."""
    record = json.loads((ROOT / "experiments" / "evidence.report.json").read_text("utf-8"))
    models = record["models"]
    figure = Figure(figsize=(5.6, 2.5 * len(models)), layout="constrained")
    figure.patch.set_alpha(0)
    panels = figure.subplots(len(models), 2, squeeze=False, sharex=True)
    names = {"writer": "language model", "retriever": "dense retriever"}
    shown = {
        "occlusion": ("occlusion", _ACCENT, "-"),
        "integrated_gradients": ("integrated gradients", _OTHER, "--"),
        "random": ("random order", _INK, ":"),
    }
    for row, (kind, model) in zip(panels, models.items(), strict=True):
        for axes, which in zip(row, ("deletion", "insertion"), strict=True):
            axes.patch.set_alpha(0)
            for order, (label, colour, style) in shown.items():
                heights = model["curves"][order][which]
                at = np.linspace(0, 1, len(heights))
                axes.plot(at, heights, color=colour, linestyle=style, linewidth=2, label=label)
            axes.set(title=f"{names[kind]}:\n{which}", ylabel=model["quantity"])
            axes.spines[["top", "right"]].set_visible(False)
    for axes, which in zip(panels[-1], ("left out", "kept"), strict=True):
        axes.set_xlabel(f"share of words {which}")
    panels[-1][-1].legend(frameon=False, loc="lower right", fontsize=8)
    return figure


def _axes(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    return figure, axes


if __name__ == "__main__":
    for draw in (trees, scs, mbr, rounds, results, evidence):
        with atomic_write(FOLDER / f"{draw.__name__}.svg") as temporary:
            draw().savefig(temporary, format="svg", metadata={"Date": None})
