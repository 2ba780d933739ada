"""Mixing weights: how much each level of the backbone counts in both aggregation networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vsm_fast.extras import required
from vsm_fast.lab.figures.page import FAINT, SMALL
from vsm_fast.scorer import VSMScorer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"semantic": "#0072B2", "visual": "#E69F00"}  # of Okabe and Ito's scheme
_BAR = 0.36


@dataclass(frozen=True, eq=False)
class MixingWeights:
    """Weights of the levels in the sums of both networks, as the networks use them.

    Attributes:
        levels: Names of the ``L`` levels.
        weights: By branch, ``"semantic"`` and ``"visual"``: float64 [L].
        first_is_one: The first level enters with weight 1, not with its softmax weight, as in
            the published networks; the weights then do not sum to 1.
    """

    levels: tuple[str, ...]
    weights: dict[str, NDArray[np.float64]]
    first_is_one: bool


def read_mixing_weights(scorer: VSMScorer) -> MixingWeights:
    """The mixing weights of a model.

    Source: arXiv 2509.21989, the aggregation networks.
    """
    networks = {"semantic": scorer.network.semantic, "visual": scorer.network.visual}
    return MixingWeights(
        scorer.config.backbone.levels,
        {
            branch: network.mixing().detach().double().cpu().numpy()
            for branch, network in networks.items()
        },
        scorer.config.aggregation.first_level_weight == "one",
    )


def draw_mixing(axes: Axes, mixing: MixingWeights) -> None:
    """Draw the weights as bars; a first level of fixed weight is hatched."""
    place = np.arange(len(mixing.levels))
    highest = max(float(weights.max()) for weights in mixing.weights.values())
    for side, (branch, weights) in zip((-1, 1), mixing.weights.items(), strict=True):
        middle = place + side * _BAR / 2
        bars = axes.bar(middle, weights, _BAR * 0.94, color=_COLOURS[branch], linewidth=0)
        if mixing.first_is_one:
            bars[0].set(facecolor="white", edgecolor=_COLOURS[branch], hatch="////", linewidth=0.8)
        for x, weight in zip(middle, weights, strict=True):
            axes.text(x, weight + 0.02 * highest, f"{weight:.2f}", ha="center", va="bottom",
                      size=SMALL, color=FAINT)  # fmt: skip
    axes.set(
        xticks=place,
        xticklabels=mixing.levels,
        ylim=(0, 1.18 * highest),
        ylabel="weight in the sum",
    )
    axes.set_xlim(-0.6, len(mixing.levels) - 0.4)
    axes.tick_params(length=2, pad=2)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def draw_mixing_key(axes: Axes) -> None:
    """Name the colours of both branches above the right end of the axes."""
    patches = required("matplotlib.patches", "a figure")
    axes.legend(
        handles=[patches.Patch(color=colour, label=name) for name, colour in _COLOURS.items()],
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0,
        ncols=2,
        frameon=False,
        handlelength=1,
        handleheight=0.8,
        columnspacing=1.2,
    )
