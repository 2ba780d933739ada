"""Figures of one kind each: components, segments, matches of one pair, mixing weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vsm_fast.extras import required
from vsm_fast.lab.figures.components import component_colours
from vsm_fast.lab.figures.correspondences import (
    Correspondences,
    correspond,
    position_colours,
    spread_out,
)
from vsm_fast.lab.figures.mixing import draw_mixing, draw_mixing_key, read_mixing_weights
from vsm_fast.lab.figures.page import (
    BODY,
    FAINT,
    HEADING,
    MARGIN,
    Group,
    Page,
    Panel,
    Row,
    draw_table,
    footer_of,
    row_height,
    styled,
    table_height,
    table_width,
)
from vsm_fast.lab.figures.panels import (
    FAILED,
    MAX_CLUSTERS,
    components_panel,
    draw_points,
    frame_of,
    pale_photograph,
    photograph_panel,
    segments_panel,
)
from vsm_fast.lab.figures.segments import renamed_like, segment
from vsm_fast.lab.figures.views import SubjectViews
from vsm_fast.scorer import VSMScorer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEFAULT_CLUSTERS = 6
DEFAULT_MATCHES = 60
BRANCHES = ("semantic", "visual")
_COLUMN = 2.35  # inches


def pca_figure(views: SubjectViews) -> Figure:
    """Principal components of the descriptors as colours; one row an image.

    Each branch has one basis and one scale for all images: equal colours are equal descriptors,
    within a branch.

    Args:
        views: The described images.

    Raises:
        TooFewPointsError: Fewer than four points in all.
        ImportError: matplotlib or scikit-learn is not installed; names the extra.
    """
    columns, headings = components_of(views)
    rows = [
        Row(view.name, points_note(views, index), [photograph_panel(view), *panels])
        for index, (view, panels) in enumerate(zip(views.views, columns, strict=True))
    ]
    group = Group("", ("image", *headings))
    return _table_figure(views, "Principal components of the descriptors", group, rows)


def segments_figure(
    views: SubjectViews, *, clusters: int = DEFAULT_CLUSTERS, seed: int = 0
) -> Figure:
    """Clusters of the descriptors as colours; one row an image.

    Args:
        views: The described images.
        clusters: Number of segments, 1 to 9.
        seed: Of k-means.

    Raises:
        ValueError: ``clusters`` is out of range.
        TooFewPointsError: Fewer different points than clusters.
        ImportError: matplotlib or scikit-learn is not installed; names the extra.
    """
    columns = segments_of(views, clusters, seed)
    rows = [
        Row(view.name, points_note(views, index), [photograph_panel(view), *panels])
        for index, (view, panels) in enumerate(zip(views.views, columns, strict=True))
    ]
    group = Group("", ("image", *BRANCHES))
    return _table_figure(views, f"k-means segments of the descriptors, k = {clusters}", group, rows)


def matches_figure(
    views: SubjectViews,
    reference: int = 0,
    generation: int = 1,
    *,
    max_matches: int = DEFAULT_MATCHES,
) -> Figure:
    """The matched points of one pair: where they go semantically and where visually.

    Both halves show the same points of the generation. On the right, crosses and dashed lines
    are points whose visual similarity is not above the threshold: those that VSM counts as
    inconsistent.

    Args:
        views: The described images.
        reference: Position of the reference.
        generation: Position of the generation.
        max_matches: Draw at most so many, spread evenly over the subject.

    Raises:
        ValueError: ``max_matches`` is below 1, or a position is not there.
        ImportError: matplotlib is not installed; names the extra.

    Source: arXiv 2509.21989, the definition of VSM.
    """
    matches = correspond(views, reference, generation)
    places = views[generation].centres()[matches.points]
    drawn = spread_out(places, max_matches) if len(places) else np.empty(0, np.int64)
    panels = [Panel(pale_photograph(views[index])) for index in (reference, generation)]
    between = 0.3
    height = row_height(panels, _COLUMN)
    half = 2 * _COLUMN + between
    with styled():
        page = Page(
            2 * MARGIN + 2 * half + 0.4,
            0.75 + height + 0.35,
            f"{views[reference].name}  →  {views[generation].name}",
            views.footer(),
        )
        page.text(MARGIN, page.top - 0.04, match_note(matches, len(drawn)), colour=FAINT)
        halves = (
            ("semantic nearest neighbours", matches.semantic_targets, None),
            ("visual nearest neighbours of the same points", matches.visual_targets,
             matches.passed),
        )  # fmt: skip
        for side, (heading, targets, passed) in enumerate(halves):
            left = MARGIN + side * (half + 0.4)
            page.text(left, page.top + 0.28, heading, size=HEADING, weight="bold", room=half)
            starts = (left, left + _COLUMN + between)
            for start, caption in zip(starts, ("reference", "generation"), strict=True):
                page.text(start, page.top + 0.5, caption, colour=FAINT, room=_COLUMN)
            axes = [
                page.image(start, page.top + 0.72, _COLUMN, height, panel.pixels)
                for start, panel in zip(starts, panels, strict=True)
            ]
            _draw_lines(
                page, axes, views, matches, targets[drawn], drawn,
                None if passed is None else passed[drawn],
            )  # fmt: skip
        draw_match_key(page, MARGIN, page.top + 0.72 + height + 0.12)
    return page.figure


def mixing_figure(scorer: VSMScorer) -> Figure:
    """How much each level of the backbone counts in both aggregation networks.

    Args:
        scorer: The model.

    Raises:
        ImportError: matplotlib is not installed; names the extra.
    """
    mixing = read_mixing_weights(scorer)
    width = max(4.6, 1.4 + 0.55 * len(mixing.levels))
    thresholds = scorer.config.thresholds
    footer = footer_of(scorer, thresholds.semantic, thresholds.visual)
    with styled():
        page = Page(width + 2 * MARGIN, 2.9, "Mixing weights of the levels", footer)
        note = FIRST_IS_ONE if mixing.first_is_one else "softmax weights; each network's sum to 1"
        page.text(MARGIN, page.top - 0.06, note, colour=FAINT)
        axes = page.axes(MARGIN + 0.45, page.top + 0.4, width - 0.45, 2.2)
        draw_mixing(axes, mixing)
        draw_mixing_key(axes)
    return page.figure


FIRST_IS_ONE = "hatched: the first level enters with weight 1, as in the published networks"


def components_of(views: SubjectViews) -> tuple[list[list[Panel]], list[str]]:
    """Of each image a semantic and a visual panel; and the headings of both columns."""
    found = {branch: component_colours(views.branch(branch)) for branch in BRANCHES}
    headings = [
        f"{branch}  ({colours.explained.sum():.0%} of variance)"
        for branch, colours in found.items()
    ]
    panels = [
        [components_panel(view, found[branch].colours[index]) for branch in BRANCHES]
        for index, view in enumerate(views.views)
    ]
    return panels, headings


def segments_of(views: SubjectViews, clusters: int, seed: int) -> list[list[Panel]]:
    """Of each image a semantic and a visual panel."""
    if not 1 <= clusters <= MAX_CLUSTERS:
        raise ValueError(
            f"clusters must lie in 1 to {MAX_CLUSTERS}, as many as have colours that can be told "
            f"apart; got {clusters}."
        )
    semantic = segment(views.branch("semantic"), clusters, seed=seed)
    visual = segment(views.branch("visual"), clusters, seed=seed)
    visual = renamed_like(visual, semantic, clusters)
    return [
        [segments_panel(view, labels[index], clusters) for labels in (semantic, visual)]
        for index, view in enumerate(views.views)
    ]


def points_note(views: SubjectViews, index: int) -> str:
    """How many points an image has."""
    return f"{len(views[index].cells):,} points"


def match_note(matches: Correspondences, drawn: int) -> str:
    """Score and counts of a pair."""
    total = len(matches.points)
    if not total:
        return f"VSM undefined: none of {matches.n_source:,} points matches the reference"
    passed = int(matches.passed.sum())
    note = (
        f"VSM {matches.score:.3f}: {passed:,} of {total:,} matched points look the same "
        f"({matches.n_source:,} points in all)"
    )
    return note if drawn == total else f"{note}; {drawn:,} drawn"


def draw_match_key(page: Page, left: float, top: float) -> None:
    """Explain dots and crosses in one line."""
    axes = page.axes(left, top, 0.5, 0.16)
    axes.set(xlim=(0, 0.5), ylim=(0.16, 0), xticks=[], yticks=[])
    axes.axis("off")
    spots = np.array([[0.06, 0.055], [0.17, 0.055], [0.28, 0.055]])
    frame = np.array([[0.06, 0.0], [0.28, 0.11]])
    draw_points(axes, spots, position_colours(spots, frame), None, 4.5)
    used = page.text(left + 0.37, top, "colour: place on the reference", size=BODY)
    start = left + 0.37 + used + 0.3
    axes = page.axes(start, top, 0.2, 0.16)
    axes.set(xlim=(0, 0.2), ylim=(0.16, 0), xticks=[], yticks=[])
    axes.axis("off")
    draw_points(axes, np.array([[0.1, 0.055]]), np.ones((1, 3)), np.array([False]), 6)
    page.text(start + 0.22, top, "visual similarity not above the threshold", size=BODY)


def _draw_lines(
    page: Page,
    axes: list[Axes],
    views: SubjectViews,
    matches: Correspondences,
    targets: NDArray[np.int64],
    drawn: NDArray[np.int64],
    passed: NDArray[np.bool_] | None,
) -> None:
    """Points on reference and generation, and lines between them."""
    reference, generation = views[matches.reference], views[matches.generation]
    ends = reference.centres()[targets]
    starts = generation.centres()[matches.points[drawn]]
    colours = position_colours(ends, frame_of(reference))
    lines = required("matplotlib.collections", "a figure")
    figure = page.figure
    to_page = figure.transFigure.inverted()
    segments = np.stack(
        [
            to_page.transform(one.transData.transform(places))
            for one, places in zip(axes, (ends, starts), strict=True)
        ],
        axis=1,
    ) if len(drawn) else np.empty((0, 2, 2))  # fmt: skip
    good = np.ones(len(drawn), bool) if passed is None else passed
    for which, style in (
        (good, {"colors": colours[good], "linewidths": 0.7, "alpha": 0.85}),
        (~good, {"colors": FAILED, "linewidths": 0.6, "linestyles": (0, (3, 2.5)), "alpha": 0.7}),
    ):
        collection = lines.LineCollection(
            segments[which], transform=figure.transFigure, zorder=2, **style
        )
        axes[1].add_artist(collection).set_clip_on(False)
    draw_points(axes[0], ends[good], colours[good], None, 4.5)
    draw_points(axes[0], ends[~good], colours[~good], np.zeros((~good).sum(), bool), 4.5)
    draw_points(axes[1], starts, colours, passed, 4.5)


def _table_figure(views: SubjectViews, title: str, group: Group, rows: list[Row]) -> Figure:
    with styled():
        page = Page(
            2 * MARGIN + table_width([group], _COLUMN),
            table_height(rows, _COLUMN) - 0.1,
            title,
            views.footer(),
        )
        draw_table(page, page.top - 0.2, [group], rows, _COLUMN)
    return page.figure
