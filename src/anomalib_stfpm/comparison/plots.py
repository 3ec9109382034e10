"""Plots of a comparison, as SVG that takes the colour of its text from the page."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from anomalib_stfpm.comparison.record import Row

# Okabe and Ito's colours, told apart by people who see few of them, on white and on black.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_GOOD, _DEFECTIVE = "#009e73", "#d55e00"
_OF_THE_PAGE = "#010203"  # stands for the colour of the page's text until the SVG is written
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "anomalib-stfpm",
    "text.parse_math": False,  # a name may hold any sign
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _OF_THE_PAGE),
}


def colours(models: Sequence[str]) -> dict[str, str]:
    """Give every model a colour.

    Example:
        >>> colours(["STFPM", "PaDiM"])
        {'STFPM': '#0072b2', 'PaDiM': '#d55e00'}
    """
    return {model: _COLOURS[index % len(_COLOURS)] for index, model in enumerate(models)}


def accuracy_against_latency(rows: Sequence[Row], palette: Mapping[str, str]) -> str | None:
    """Plot image AUROC against latency, in float32 and, joined to it, in 8 bits."""
    rows = [row for row in rows if row["image_AUROC"] is not None and row.get("f32_median_ms") is not None]
    if not rows:
        return None
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        for row in rows:
            colour = palette[row["model"]]
            points = [(row["f32_median_ms"], row["image_AUROC"])]
            if row.get("int8_median_ms") is not None and row["int8_image_AUROC_change"] is not None:
                points.append((row["int8_median_ms"], row["image_AUROC"] + row["int8_image_AUROC_change"]))
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1, zorder=1)
            for index, (milliseconds, accuracy) in enumerate(points):
                filled, label = ("none", None) if index else (colour, row["model"])
                axes.scatter(milliseconds, accuracy, s=70, facecolor=filled, edgecolor=colour, label=label, zorder=2)
        axes.set_xscale("log")
        for each in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            each(ScalarFormatter())
        axes.set(xlabel="ms an image (filled: float32, hollow: 8 bits)", ylabel="image AUROC")
        axes.legend()
        return _svg(figure, "Image AUROC against latency")


def curve(curves: Mapping[str, Sequence[Sequence[float]]], kind: str, palette: Mapping[str, str]) -> str | None:
    """Plot a curve of every model."""
    if not curves:
        return None
    labels = {
        "ROC": ("good images taken for defective", "defective images found"),
        "PRO": ("good pixels taken for defective", "mean share of a defect found"),
    }
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        for model, (x, y) in curves.items():
            axes.plot(x, y, color=palette[model], label=model)
        axes.set(xlabel=labels[kind][0], ylabel=labels[kind][1], ylim=(0, 1.02))
        axes.legend(loc="lower right")
        return _svg(figure, f"{kind} curves")


def histograms(scores: Mapping[str, tuple[Sequence[float], Sequence[float], float | None]]) -> str:
    """Plot how the scores of good and defective images are spread, a panel a model."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6, 1.6 * len(scores)), layout="constrained")
        panels = figure.subplots(len(scores), squeeze=False)[:, 0]
        for axes, (model, (good, defective, threshold)) in zip(panels, scores.items(), strict=True):
            everything = [*good, *defective]
            reach = (min(everything), max(everything)) if everything else (0.0, 1.0)
            for values, colour, label in ((good, _GOOD, "good"), (defective, _DEFECTIVE, "defective")):
                axes.hist(values, bins=40, range=reach, color=colour, alpha=0.6, label=label)
            if threshold is not None:
                axes.axvline(threshold, color=_OF_THE_PAGE, linestyle="--", linewidth=1, label="threshold")
            axes.set_title(model, fontsize=11, loc="left")
        panels[0].legend()
        panels[-1].set_xlabel("image score")
        return _svg(figure, "Scores of good and defective images")


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, title: str) -> str:
    text = io.StringIO()
    nothing: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(text, format="svg", transparent=True, metadata={**nothing, "Title": title})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(_OF_THE_PAGE, "currentColor")
