"""Figures of an evaluation, made for print: one panel a metric, the same scales in all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vsm_fast.extras import required
from vsm_fast.lab.evaluation.evaluating import OTHER_SUBJECT, UNALTERED, Evaluation
from vsm_fast.lab.evaluation.localisation import roc_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SLIGHT = 0.3  # altered share up to which a pair counts as slightly altered
_COLUMNS = 4
_MIN_DENSITY = 5  # values below which a density curve would be invented

# Okabe and Ito's colours: told apart with every common colour vision deficiency.
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


@dataclass(frozen=True)
class _Look:
    """How a metric appears: its title, its axis and, where it has one, its range."""

    title: str
    axis: str
    limits: tuple[float, float] | None = None


_LOOKS = {
    "psnr": _Look("PSNR of the masked crop", "PSNR (dB)"),
    "ssim": _Look("SSIM of the masked crop", "SSIM"),
    "lab-histogram": _Look("Colour histogram (Lab)", "intersection"),
    "feature-cosine": _Look("Backbone features, global", "cosine"),
    "semantic-cosine": _Look("Semantic descriptors, global", "cosine"),
    "visual-cosine": _Look("Visual descriptors, global", "cosine"),
    "patch-nearest": _Look("Backbone features, patch NN", "mean best cosine"),
    "clip-i": _Look("CLIP-I", "cosine"),
    "dino": _Look("DINO", "cosine"),
    "dinov2": _Look("DINOv2", "cosine"),
    "dino-patches": _Look("DINO, patch NN", "mean best cosine"),
    "lpips": _Look("LPIPS of the masked crop", "− LPIPS"),
}


def _look(evaluation: Evaluation, metric: str) -> _Look:
    if metric.startswith("vsm@"):
        own = " (model's own)" if metric == evaluation.headline else ""
        return _Look(f"VSM, $\\tau_v$ = {metric[4:]}{own}", "VSM", (-0.03, 1.03))
    return _LOOKS.get(metric, _Look(metric, metric))


def oracle_bins(evaluation: Evaluation) -> dict[str, NDArray[np.bool_]]:
    """Pairs by how much was altered, bool [P] each.

    ``consistent`` (nothing), ``slightly altered`` (a share of at most 0.3), ``strongly altered``
    (more) and ``other subject``.
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


def _styled(draw: Callable[[Evaluation], Figure | None]) -> Callable[[Evaluation], Figure | None]:
    """Draw in this module's style and leave the caller's as it was."""

    @wraps(draw)
    def styled(evaluation: Evaluation) -> Figure | None:
        matplotlib = required("matplotlib", "a figure of the evaluation")
        with matplotlib.rc_context(_STYLE):
            return draw(evaluation)

    return styled


@_styled
def draw_scatter(evaluation: Evaluation) -> Figure | None:
    """Each metric against the oracle, one panel a metric, with the regression line and r.

    Pairs of two subjects are left out, as they are of the correlations.

    Returns:
        The figure; None when no metric has a value.

    Raises:
        ImportError: matplotlib is not installed; names the extra.
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
        values, look = evaluation.column(metric), _look(evaluation, metric)
        for name, members in bins.items():
            ax.scatter(
                oracle[members], values[members], s=9, alpha=0.55, linewidths=0,
                color=_COLOURS[name], label=name, rasterized=True,
            )  # fmt: skip
        known = judged & np.isfinite(values)
        found = evaluation.overall(metric)
        if np.isfinite(found.pearson.value):
            slope, start = np.polyfit(oracle[known], values[known], 1)
            ends = np.array([oracle[known].min(), oracle[known].max()])
            ax.plot(ends, slope * ends + start, color=_INK, linewidth=1.2)
        ax.set_title(look.title, pad=15)
        ax.set_ylabel(look.axis)
        if look.limits:
            ax.set_ylim(*look.limits)
        figures = f"r = {_text(found.pearson.value)}   ρ = {_text(found.spearman.value)}"
        ax.text(0, 1.04, figures, transform=ax.transAxes, color=_INK)
    figure.supxlabel("oracle: unaltered share of the subject", fontsize=9, color=_INK)
    _legend(figure, axes[0])
    return figure


@_styled
def draw_kde(evaluation: Evaluation) -> Figure | None:
    """Density of each metric for consistent, slightly, strongly altered and other-subject pairs.

    Gaussian kernels with Scott's bandwidth. Groups of fewer than five different values have no
    curve but a line at each value.

    Returns:
        The figure; None when no group has enough values.

    Raises:
        ImportError: matplotlib or scipy is not installed; names the extra.
    """
    gaussian_kde = required("scipy.stats", "the density figure").gaussian_kde
    groups = oracle_bins(evaluation)
    curves: dict[str, dict[str, NDArray[np.float64]]] = {}
    for metric in evaluation.metrics:
        column = evaluation.column(metric)
        known = {name: column[m & np.isfinite(column)] for name, m in groups.items()}
        if any(len(np.unique(values)) >= _MIN_DENSITY for values in known.values()):
            curves[metric] = {name: values for name, values in known.items() if len(values)}
    if not curves:
        return None
    figure, axes = _panels(len(curves))
    for (metric, wanted), ax in zip(curves.items(), axes, strict=True):
        look = _look(evaluation, metric)
        everything = np.concatenate(list(wanted.values()))
        margin = 0.08 * np.ptp(everything)
        low, high = look.limits or (everything.min() - margin, everything.max() + margin)
        x = np.linspace(low, high, 300)
        for name, values in wanted.items():
            if len(np.unique(values)) < _MIN_DENSITY:
                for number, value in enumerate(np.unique(values)):
                    label = "_" if number else name  # one entry in the legend
                    ax.axvline(value, color=_COLOURS[name], linewidth=1.3, label=label)
                continue
            density = gaussian_kde(values)(x)
            ax.fill_between(x, density, color=_COLOURS[name], alpha=0.18, linewidth=0)
            ax.plot(x, density, color=_COLOURS[name], linewidth=1.3, label=name)
        ax.set_xlim(low, high)
        ax.set_ylim(bottom=0)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.set_title(look.title)
        ax.set_xlabel(look.axis)
    _legend(figure, max(axes, key=lambda ax: len(ax.get_legend_handles_labels()[0])))
    return figure


@_styled
def draw_localisation(evaluation: Evaluation) -> Figure | None:
    """ROC of matched points and of the heat map's pixels, and the overlap by threshold.

    Returns:
        The figure; None when no pair has something to localise.

    Raises:
        ImportError: matplotlib is not installed; names the extra.
    """
    sources = (
        ("matched points", evaluation.points, [p.points for p in evaluation.pairs], _BLUE),
        ("heat map's pixels", evaluation.pixels, [p.pixels for p in evaluation.pairs], "#D55E00"),
    )
    if not evaluation.points.pairs and not evaluation.pixels.pairs:
        return None
    figure, (ax,) = _panels(1, side=3.4)
    ax.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle=(0, (4, 3)))
    for name, found, histograms, colour in sources:
        if not found.pairs:
            continue
        known = [counts for counts in histograms if counts is not None]
        counts = np.sum([h for h in known if h.sum(axis=1).all()], axis=0, dtype=np.int64)
        area = found.auroc
        interval = f" [{area.low:.3f}, {area.high:.3f}]" if np.isfinite(area.low) else ""
        ax.plot(*roc_curve(counts), color=colour, linewidth=1.6,
                label=f"{name}\nAUROC {area.value:.3f}{interval}")  # fmt: skip
    ax.set_title(f"Where was it altered? ({evaluation.points.pairs} pairs)")
    ax.set_xlabel("false positive rate: unaltered places marked")
    ax.set_ylabel("true positive rate: altered places marked")
    ax.set_aspect("equal")
    ax.set_xlim(-0.01, 1.01)
    ax.set_ylim(-0.01, 1.01)
    ax.legend(loc="lower right", handlelength=1.4, labelspacing=0.8)
    return figure


def _panels(count: int, side: float = 2.1) -> tuple[Figure, Sequence[Axes]]:
    """A figure with ``count`` panels in rows of at most four; no window, no global state."""
    figures = required("matplotlib.figure", "a figure of the evaluation")
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    figure = figures.Figure(
        figsize=(columns * side * 1.12, rows * side + 0.35), layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in grid[count:]:
        ax.set_axis_off()
    return figure, grid[:count]


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="outside upper left", ncols=len(labels), fontsize=8, markerscale=1.6
    )
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)


def _text(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"
