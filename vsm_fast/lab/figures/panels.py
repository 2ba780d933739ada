"""Panels: one image with components, segments or matched points drawn over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vsm_fast.lab.figures.correspondences import Correspondences, position_colours, spread_out
from vsm_fast.lab.figures.page import Panel
from vsm_fast.lab.figures.views import SubjectView, SubjectViews
from vsm_fast.results.overlay import dimmed, luminance

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Paul Tol's scheme "muted" (personal.sron.nl/~pault): told apart with every common colour vision
# deficiency. More colours than these nine would not be.
_SEGMENT_COLOURS = np.array(
    [
        (204, 102, 119),
        (51, 34, 136),
        (221, 204, 119),
        (17, 119, 51),
        (136, 204, 238),
        (136, 34, 85),
        (68, 170, 153),
        (153, 153, 51),
        (170, 68, 153),
    ],
    np.float32,
)
MAX_CLUSTERS = len(_SEGMENT_COLOURS)
FAILED = "#1a1a1a"  # crosses; form and not colour tells them from the dots
_SEGMENT_BLEND = 0.72  # share of a segment's colour; the rest is the photograph's lightness
_PLACE_BLEND = 0.8
_PALE = 0.55  # share of white under points


def photograph_panel(view: SubjectView) -> Panel:
    """The image as it is."""
    return Panel(view.photograph)


def components_panel(view: SubjectView, colours: NDArray[np.float32]) -> Panel:
    """Colours of the points, float32 [n, 3] in [0, 1], smoothed over the subject."""
    return Panel(_on_subject(view, view.paint(colours) * 255, 1.0))


def segments_panel(view: SubjectView, labels: NDArray[np.int64], clusters: int) -> Panel:
    """Segments of the points, int64 [n]; each pixel takes the segment that weighs most there."""
    chosen = np.eye(clusters, dtype=np.float32)[labels]
    painted = view.paint(chosen)
    inside = ~np.isnan(painted).any(axis=-1)
    colours = np.full((*inside.shape, 3), np.nan, np.float32)
    colours[inside] = _SEGMENT_COLOURS[painted[inside].argmax(axis=-1)]
    return Panel(_on_subject(view, colours, _SEGMENT_BLEND))


def places_panel(view: SubjectView) -> Panel:
    """The reference with the colour of each of its places: the key to matched points."""
    colours = position_colours(view.centres(), frame_of(view)).astype(np.float32)
    return Panel(_on_subject(view, view.paint(colours) * 255, _PLACE_BLEND))


def semantic_panel(views: SubjectViews, matches: Correspondences, most: int) -> Panel:
    """The generation; each matched point has the colour of its semantic match."""
    return _points_panel(views, matches, matches.semantic_targets, None, most)


def visual_panel(views: SubjectViews, matches: Correspondences, most: int) -> Panel:
    """The generation; each matched point has the colour of its visual match, or is a cross."""
    return _points_panel(views, matches, matches.visual_targets, matches.passed, most)


def frame_of(view: SubjectView) -> NDArray[np.float64]:
    """The smallest and the largest (x, y) of a subject's points, float64 [2, 2]."""
    centres = view.centres()
    return np.stack([centres.min(axis=0), centres.max(axis=0)])


def pale_photograph(view: SubjectView) -> NDArray[np.uint8]:
    """The subject in pale colours, the rest in pale grey: ground for coloured points."""
    around = dimmed(luminance(view.photograph))
    ground = np.where(view.mask[..., None], view.photograph, around)
    return np.rint(ground * (1 - _PALE) + 255 * _PALE).astype(np.uint8)


def draw_points(
    axes: Axes,
    places: NDArray[np.float64],
    colours: NDArray[np.float64],
    passed: NDArray[np.bool_] | None,
    size: float,
) -> None:
    """Dots, and crosses for points that failed.

    Args:
        axes: Of an image, in its pixels.
        places: float [m, 2], (x, y).
        colours: float [m, 3] in [0, 1].
        passed: bool [m]; None = all.
        size: Diameter in points.
    """
    if passed is None:
        passed = np.ones(len(places), bool)
    dots, crosses = places[passed], places[~passed]
    axes.scatter(
        dots[:, 0], dots[:, 1], s=size**2, c=colours[passed], edgecolors="white", linewidths=0.35,
        zorder=3,
    )  # fmt: skip
    for colour, width in (("white", 1.9), (FAILED, 0.9)):
        axes.scatter(
            crosses[:, 0], crosses[:, 1], s=(0.75 * size) ** 2, c=colour, marker="x",
            linewidths=width, zorder=3,
        )  # fmt: skip


def _points_panel(
    views: SubjectViews,
    matches: Correspondences,
    targets: NDArray[np.int64],
    passed: NDArray[np.bool_] | None,
    most: int,
) -> Panel:
    generation, reference = views[matches.generation], views[matches.reference]
    places = generation.centres()[matches.points]
    drawn = spread_out(places, most) if len(places) else np.empty(0, np.int64)
    target_places = reference.centres()[targets[drawn]]
    colours = position_colours(target_places, frame_of(reference))

    def decorate(axes: Axes) -> None:
        draw_points(axes, places[drawn], colours, None if passed is None else passed[drawn], 3.6)

    return Panel(pale_photograph(generation), decorate)


def _on_subject(view: SubjectView, colours: NDArray[np.float32], share: float) -> NDArray[np.uint8]:
    """Colours, [H, W, 3] in [0, 255] and NaN off the subject, over the dimmed photograph."""
    grey = luminance(view.photograph)
    mixed = colours * share + grey * (1 - share)
    shown = np.where(np.isnan(colours).any(axis=-1, keepdims=True), dimmed(grey), mixed)
    return np.asarray(np.rint(shown.clip(0, 255)), np.uint8)
