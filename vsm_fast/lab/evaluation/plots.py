"""Figures of an evaluation for print: one panel per metric, with shared scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vsm_fast.extras import required
from vsm_fast.lab.evaluation.localisation import roc_curve
from vsm_fast.lab.evaluation.run import OTHER_SUBJECT, UNALTERED, Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

matplotlib = required("matplotlib", "a figure of the evaluation")

SLIGHT = 0.3  # maximum altered share of a slightly altered pair
_COLUMNS = 4
_MIN_DENSITY = 5  # distinct values; fewer do not support a density curve

# Okabe and Ito's colours: distinguishable with every common colour vision deficiency.
_COLOURS = {
    "consistent": "#009E73",
    "slightly altered": "#E69F00",
    "strongly altered": "#D55E00",
    "other subject": "#56595C",
}
_BLUE, _INK = "#0072B2", "#222222"
_STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": _INK,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.facecolor": "white",
}


# Title and axis label of each baseline.
_LABELS = {
    "psnr": ("PSNR of the masked crop", "PSNR (dB)"),
    "ssim": ("SSIM of the masked crop", "SSIM"),
    "lab-histogram": ("Colour histogram (Lab)", "intersection"),
    "feature-cosine": ("Backbone features, global", "cosine"),
    "semantic-cosine": ("Semantic descriptors, global", "cosine"),
    "visual-cosine": ("Visual descriptors, global", "cosine"),
    "patch-nearest": ("Backbone features, patch NN", "mean best cosine"),
    "clip-i": ("CLIP-I", "cosine"),
    "dino": ("DINO", "cosine"),
    "dinov2": ("DINOv2", "cosine"),
    "dino-patches": ("DINO, patch NN", "mean best cosine"),
    "lpips": ("LPIPS of the masked crop", "− LPIPS"),
}


def _labels(evaluation: Evaluation, metric: str) -> tuple[str, str, tuple[float, float] | None]:
    """Return the title, the axis label and, for VSM, the limits of a metric."""
    if metric.startswith("vsm@"):
        own = " (model's own)" if metric == evaluation.headline else ""
        return f"VSM, $\\tau_v$ = {metric[4:]}{own}", "VSM", (-0.03, 1.03)
    return (*_LABELS.get(metric, (metric, metric)), None)


_Draw = Callable[[Evaluation], "Figure | None"]
_styled: Callable[[_Draw], _Draw] = matplotlib.rc_context(_STYLE)  # restores the caller's style


def oracle_bins(evaluation: Evaluation) -> dict[str, NDArray[np.bool_]]:
    """Group the pairs by altered share, bool [P] each.

    ``consistent`` (0), ``slightly altered`` (at most 0.3), ``strongly altered`` (more) and
    ``other subject``.
    """
    kinds = np.array([pair.kind for pair in evaluation.pairs])
    other = kinds == OTHER_SUBJECT
    share = 1 - evaluation.oracle
    plain = ~other & ((share == 0) | (kinds == UNALTERED))
    altered = ~other & ~plain
    return {
        "consistent": plain,
        "slightly altered": altered & (share <= SLIGHT),
        "strongly altered": altered & (share > SLIGHT),
        "other subject": other,
    }


@_styled
def draw_scatter(evaluation: Evaluation) -> Figure | None:
    """Draw each metric against the oracle, with the regression line and the correlations.

    Leaves out pairs of two subjects, as the correlations do.

    Returns:
        The figure; None if no metric has a value.
    """
    bins = oracle_bins(evaluation)
    bins.pop(OTHER_SUBJECT)
    judged = np.any(list(bins.values()), axis=0) & np.isfinite(evaluation.oracle)
    metrics = [m for m in evaluation.metrics if np.isfinite(evaluation.column(m)[judged]).any()]
    if not metrics:
        return None
    figure, axes = _panels(len(metrics))
    oracle = evaluation.oracle
    for metric, ax in zip(metrics, axes, strict=True):
        values = evaluation.column(metric)
        title, label, limits = _labels(evaluation, metric)
        for name, members in bins.items():
            ax.scatter(
                oracle[members], values[members], s=9, alpha=0.55, linewidths=0,
                color=_COLOURS[name], label=name, rasterized=True,
            )  # fmt: skip
        defined = judged & np.isfinite(values)
        correlation = evaluation.overall(metric)
        if np.isfinite(correlation.pearson.value):
            slope, start = np.polyfit(oracle[defined], values[defined], 1)
            ends = np.array([oracle[defined].min(), oracle[defined].max()])
            ax.plot(ends, slope * ends + start, color=_INK, linewidth=1.2)
        ax.set_title(title, pad=15)
        ax.set_ylabel(label)
        if limits:
            ax.set_ylim(*limits)
        r, rho = (
            "–" if np.isnan(value) else f"{value:.2f}"
            for value in (correlation.pearson.value, correlation.spearman.value)
        )
        ax.text(0, 1.04, f"r = {r}   ρ = {rho}", transform=ax.transAxes, color=_INK)
    figure.supxlabel("oracle: unaltered share of the subject", fontsize=9, color=_INK)
    _legend(figure, axes[0])
    return figure


@_styled
def draw_kde(evaluation: Evaluation) -> Figure | None:
    """Draw the density of each metric per group of :func:`oracle_bins`.

    Gaussian kernels with Scott's bandwidth. A group of fewer than five distinct values has a
    line at each value instead of a curve.

    Returns:
        The figure; None if no group has enough values.

    Raises:
        ImportError: If scipy is not installed. Names the extra.
    """
    gaussian_kde = required("scipy.stats", "the density figure").gaussian_kde
    groups = oracle_bins(evaluation)
    curves: dict[str, dict[str, NDArray[np.float64]]] = {}
    for metric in evaluation.metrics:
        column = evaluation.column(metric)
        defined = {name: column[m & np.isfinite(column)] for name, m in groups.items()}
        if any(len(np.unique(values)) >= _MIN_DENSITY for values in defined.values()):
            curves[metric] = {name: values for name, values in defined.items() if len(values)}
    if not curves:
        return None
    figure, axes = _panels(len(curves))
    for (metric, members), ax in zip(curves.items(), axes, strict=True):
        title, label, limits = _labels(evaluation, metric)
        everything = np.concatenate(list(members.values()))
        margin = 0.08 * np.ptp(everything)
        low, high = limits or (everything.min() - margin, everything.max() + margin)
        x = np.linspace(low, high, 300)
        for name, values in members.items():
            if len(np.unique(values)) < _MIN_DENSITY:
                for number, value in enumerate(np.unique(values)):
                    entry = "_" if number else name  # one entry in the legend
                    ax.axvline(value, color=_COLOURS[name], linewidth=1.3, label=entry)
                continue
            density = gaussian_kde(values)(x)
            ax.fill_between(x, density, color=_COLOURS[name], alpha=0.18, linewidth=0)
            ax.plot(x, density, color=_COLOURS[name], linewidth=1.3, label=name)
        ax.set_xlim(low, high)
        ax.set_ylim(bottom=0)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.set_title(title)
        ax.set_xlabel(label)
    _legend(figure, max(axes, key=lambda ax: len(ax.get_legend_handles_labels()[0])))
    return figure


@_styled
def draw_localisation(evaluation: Evaluation) -> Figure | None:
    """Draw the ROC curves of matched points and of the heat map's pixels.

    Returns:
        The figure; None if no pair has anything to localise.
    """
    sources = (
        ("matched points", evaluation.points, [p.points for p in evaluation.pairs], _BLUE),
        ("heat map pixels", evaluation.pixels, [p.pixels for p in evaluation.pairs], "#D55E00"),
    )
    if not evaluation.points.pairs and not evaluation.pixels.pairs:
        return None
    figure, (ax,) = _panels(1, side=3.4)
    ax.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle=(0, (4, 3)))
    for name, figures, histograms, colour in sources:
        if not figures.pairs:
            continue
        usable = [h for h in histograms if h is not None and h.sum(axis=1).all()]
        counts = np.sum(usable, axis=0, dtype=np.int64)
        area = figures.auroc
        interval = f" [{area.low:.3f}, {area.high:.3f}]" if np.isfinite(area.low) else ""
        ax.plot(*roc_curve(counts), color=colour, linewidth=1.6,
                label=f"{name}\nAUROC {area.value:.3f}{interval}")  # fmt: skip
    ax.set_title(f"Localisation of the altered part ({evaluation.points.pairs} pairs)")
    ax.set_xlabel("false positive rate: unaltered places marked")
    ax.set_ylabel("true positive rate: altered places marked")
    ax.set_aspect("equal")
    ax.set_xlim(-0.01, 1.01)
    ax.set_ylim(-0.01, 1.01)
    ax.legend(loc="lower right", handlelength=1.4, labelspacing=0.8)
    return figure


def _panels(count: int, side: float = 2.1) -> tuple[Figure, Sequence[Axes]]:
    """Create a figure with ``count`` panels in rows of at most four, without a window."""
    from matplotlib.figure import Figure

    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    size = (columns * side * 1.12, rows * side + 0.35)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in grid[count:]:
        ax.set_axis_off()
    return figure, list(grid[:count])


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="outside upper left", ncols=len(labels), fontsize=8, markerscale=1.6
    )
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
