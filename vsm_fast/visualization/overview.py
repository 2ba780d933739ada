"""The overview: everything about a reference and its generations on one page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from vsm_fast.visualization.correspondences import correspond
from vsm_fast.visualization.figures import (
    BRANCHES,
    DEFAULT_CLUSTERS,
    DEFAULT_MATCHES,
    FIRST_IS_ONE,
    components_of,
    draw_match_key,
    match_note,
    points_note,
    segments_of,
)
from vsm_fast.visualization.mixing import draw_mixing, draw_mixing_key, read_mixing_weights
from vsm_fast.visualization.page import (
    FAINT,
    HEADING,
    MARGIN,
    Group,
    Page,
    Panel,
    Row,
    draw_table,
    styled,
    table_height,
    table_width,
)
from vsm_fast.visualization.panels import (
    photograph_panel,
    places_panel,
    semantic_panel,
    visual_panel,
)
from vsm_fast.visualization.views import SubjectViews

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("pca", "segments", "matches", "mixing")
MAX_GENERATIONS = 4
_COLUMN = 1.5  # inches
_NARROWEST = 7.2  # inches, so that notes and the chart of weights have room
_CHART = 1.25


def overview_figure(
    views: SubjectViews,
    reference: int = 0,
    generations: Sequence[int] | None = None,
    *,
    kinds: Collection[str] = KINDS,
    clusters: int = DEFAULT_CLUSTERS,
    seed: int = 0,
    max_matches: int = DEFAULT_MATCHES,
) -> Figure:
    """One page: a row for the reference and one for each generation.

    Bases and clusters are fitted on all ``views``, also on those that are not shown.

    Args:
        views: The described images.
        reference: Position of the reference.
        generations: Positions of at most four generations; None = the first four others.
        kinds: What to show, of ``KINDS``.
        clusters: Number of segments, 1 to 9.
        seed: Of k-means.
        max_matches: Draw at most so many matched points on each generation.

    Raises:
        ValueError: Nothing or something unknown to show, more than four generations, or
            ``clusters`` or ``max_matches`` out of range.
        TooFewPointsError: The subjects have too few points.
        ImportError: matplotlib or scikit-learn is not installed; names the extra.
    """
    if generations is None:
        others = [index for index in range(len(views)) if index != reference]
        generations = others[:MAX_GENERATIONS]
    if len(generations) > MAX_GENERATIONS:
        raise ValueError(
            f"an overview has room for {MAX_GENERATIONS} generations; got {len(generations)}."
        )
    if not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds must be some of {', '.join(KINDS)}; got {sorted(kinds)}.")
    shown = [reference, *generations]
    panels: dict[int, list[Panel]] = {index: [photograph_panel(views[index])] for index in shown}
    notes = {index: points_note(views, index) for index in shown}
    groups = [Group("", ("image",))]
    if "pca" in kinds:
        columns, headings = components_of(views)
        groups.append(Group("Principal components", headings))
        for index in shown:
            panels[index] += columns[index]
    if "segments" in kinds:
        columns = segments_of(views, clusters, seed)
        groups.append(Group(f"k-means segments, k = {clusters}", BRANCHES))
        for index in shown:
            panels[index] += columns[index]
    matched = "matches" in kinds and bool(generations)
    if matched:
        groups.append(Group("Nearest neighbours in the reference", BRANCHES))
        panels[reference] += [places_panel(views[reference])] * 2
        for index in generations:
            matches = correspond(views, reference, index)
            notes[index] = match_note(matches, min(max_matches, len(matches.points)))
            panels[index] += [
                semantic_panel(views, matches, max_matches),
                visual_panel(views, matches, max_matches),
            ]
    rows = [
        Row(_row_title(views, position, index), notes[index], panels[index])
        for position, index in enumerate(shown)
    ]
    return _compose(views, groups, rows, matched=matched, mixing="mixing" in kinds)


def _row_title(views: SubjectViews, position: int, index: int) -> str:
    role = f"Generation {position}" if position else "Reference"
    return f"{role}   {views[index].name}"


def _compose(
    views: SubjectViews, groups: list[Group], rows: list[Row], *, matched: bool, mixing: bool
) -> Figure:
    table = table_height(rows, _COLUMN)
    key = 0.32 if matched else 0.0
    chart = 0.55 + _CHART + 0.3 if mixing else 0.0
    width = max(_NARROWEST, table_width(groups, _COLUMN))
    with styled():
        page = Page(width + 2 * MARGIN, table + key + chart, "Visual Semantic Matching", views)
        draw_table(page, page.top, groups, rows, _COLUMN)
        below = page.top + table + 0.1
        if matched:
            draw_match_key(page, MARGIN, below)
        if mixing:
            weights = read_mixing_weights(views.scorer)
            top = below + key + 0.08
            used = page.text(MARGIN, top, "Mixing weights of the levels", size=HEADING,
                             weight="bold")  # fmt: skip
            if weights.first_is_one:
                page.text(MARGIN + used + 0.2, top + 0.01, FIRST_IS_ONE, colour=FAINT,
                          room=width - used - 0.2 - 1.6)  # fmt: skip
            room = min(width, 1.0 + 0.8 * len(weights.levels)) - 0.45
            axes = page.axes(MARGIN + 0.45, top + 0.45, max(room, 2.5), _CHART)
            draw_mixing(axes, weights)
            draw_mixing_key(axes)
    return page.figure
