"""Panels: images with components, segments or places painted over their subjects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vsm_fast.lab.figures.correspondences import position_colours
from vsm_fast.lab.figures.views import SubjectView
from vsm_fast.results.overlay import dimmed, luminance

# Paul Tol's scheme "muted" (personal.sron.nl/~pault), which stays distinct under every common
# colour vision deficiency. More than these nine colours would not.
_SEGMENT_COLOURS = np.array(
    [
        (204, 102, 119), (51, 34, 136), (221, 204, 119), (17, 119, 51), (136, 204, 238),
        (136, 34, 85), (68, 170, 153), (153, 153, 51), (170, 68, 153),
    ],
    np.float32,
)  # fmt: skip
MAX_CLUSTERS = len(_SEGMENT_COLOURS)
_SEGMENT_BLEND = 0.72  # share of a segment's colour; the rest is the photograph's lightness
_PLACE_BLEND = 0.8
_PALE = 0.55  # share of white under points


def components_panel(view: SubjectView, colours: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Paint a subject in the colours of its points, float32 [n, 3] in [0, 1]."""
    return _painted(view, view.paint(colours) * 255, 1.0)


def segments_panel(
    view: SubjectView, labels: NDArray[np.int64], clusters: int
) -> NDArray[np.uint8]:
    """Paint a subject in the colours of its points' segments, int64 [n] in [0, clusters).

    Each pixel takes the segment of the highest weight there.
    """
    weights = view.paint(np.eye(clusters, dtype=np.float32)[labels])
    inside = ~np.isnan(weights).any(axis=-1)
    colours = np.full((*inside.shape, 3), np.nan, np.float32)
    colours[inside] = _SEGMENT_COLOURS[weights[inside].argmax(axis=-1)]
    return _painted(view, colours, _SEGMENT_BLEND)


def places_panel(view: SubjectView) -> NDArray[np.uint8]:
    """Paint a reference in the colours of its places, the legend of matched points."""
    colours = position_colours(view.centres(), view.frame()).astype(np.float32)
    return _painted(view, view.paint(colours) * 255, _PLACE_BLEND)


def pale_photograph(view: SubjectView) -> NDArray[np.uint8]:
    """Return a pale photograph, grey off the subject: the ground for coloured points."""
    around = dimmed(luminance(view.photograph))
    ground = np.where(view.mask[..., None], view.photograph, around)
    return np.rint(ground * (1 - _PALE) + 255 * _PALE).astype(np.uint8)


def _painted(view: SubjectView, colours: NDArray[np.float32], share: float) -> NDArray[np.uint8]:
    """Blend colours, [H, W, 3] in [0, 255] and NaN off the subject, with the dimmed photograph."""
    grey = luminance(view.photograph)
    mixed = colours * share + grey * (1 - share)
    shown = np.where(np.isnan(colours).any(axis=-1, keepdims=True), dimmed(grey), mixed)
    return np.asarray(np.rint(shown.clip(0, 255)), np.uint8)
