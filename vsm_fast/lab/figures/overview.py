"""The overview: everything about a reference and its generations on one page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from vsm_fast.lab.figures.correspondences import correspond
from vsm_fast.lab.figures.figures import (
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
from vsm_fast.lab.figures.mixing import (
    MixingWeights,
    draw_mixing,
    draw_mixing_key,
    read_mixing_weights,
)
from vsm_fast.lab.figures.page import (
    FAINT,
    HEADING,
    MARGIN,
    SMALL,
    Group,
    Page,
    Panel,
    Row,
    draw_table,
    styled,
    table_height,
    table_width,
    wrapped,
)
from vsm_fast.lab.figures.panels import (
    photograph_panel,
    places_panel,
    semantic_panel,
    visual_panel,
)
from vsm_fast.lab.figures.views import SubjectViews

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("pca", "segments", "matches", "mixing")
_READING = {
    "pca": "Principal components: the first three as red, green and blue. Each branch has one "
    "basis and one scale for all images, so that a colour means the same in all of them.",
    "segments": "Segments: each branch clusters the points of all images together. A visual "
    "segment has the colour of the semantic one that it shares most points with.",
    "matches": "Nearest neighbours: the matched points of a generation in the colours of their "
    "neighbours in the reference, on the left semantic and on the right visual ones. VSM is the "
    "share of all matched points that get no cross.",
}
MAX_GENERATIONS = 4
_COLUMN = 1.5  # inches
_NARROWEST = 7.2  # inches, so that notes and the chart of weights have room
_CHART = 1.45
_LINE = 0.155


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
    found = {"pca": "pca" in kinds, "segments": "segments" in kinds, "matches": matched}
    reading = [_READING[kind] for kind, is_shown in found.items() if is_shown]
    mixing = read_mixing_weights(views.scorer) if "mixing" in kinds else None
    return _compose(views, groups, rows, reading, mixing, matched)


def _row_title(views: SubjectViews, position: int, index: int) -> str:
    role = f"Generation {position}" if position else "Reference"
    return f"{role}   {views[index].name}"


def _compose(
    views: SubjectViews,
    groups: list[Group],
    rows: list[Row],
    reading: list[str],
    mixing: MixingWeights | None,
    matched: bool,
) -> Figure:
    """The table, the key to the points under it, and below the chart and how to read the page."""
    with styled():
        table = table_height(rows, _COLUMN)
        key = 0.3 if matched else 0.0
        width = max(_NARROWEST, table_width(groups, _COLUMN))
        chart = 0.0 if mixing is None else min(0.55 * width, 1.0 + 0.72 * len(mixing.levels))
        indent = chart + 0.4 if chart else 0.0
        paragraphs = [wrapped(text, width - indent) for text in reading]
        lines = sum(map(len, paragraphs)) * _LINE + len(paragraphs) * _LINE / 2
        below = 0.3 + max(lines, _CHART + 0.25 if chart else 0.0)
        page = Page(
            width + 2 * MARGIN,
            table + key + 0.15 + below,
            "Visual Semantic Matching",
            views.footer(),
        )
        draw_table(page, page.top, groups, rows, _COLUMN)
        top = page.top + table + 0.1
        if matched:
            draw_match_key(page, MARGIN, top)
        top += key + 0.05
        if mixing is not None:
            _draw_chart(page, mixing, MARGIN, top, chart)
        if reading:
            page.text(MARGIN + indent, top, "How to read it", size=HEADING, weight="bold")
        top += 0.28
        for paragraph in paragraphs:
            for line in paragraph:
                page.text(MARGIN + indent, top, line)
                top += _LINE
            top += _LINE / 2
    return page.figure


def _draw_chart(page: Page, mixing: MixingWeights, left: float, top: float, width: float) -> None:
    page.text(left, top, "Mixing weights of the levels", size=HEADING, weight="bold", room=width)
    if mixing.first_is_one:
        page.text(left, top + 0.2, FIRST_IS_ONE, size=SMALL, colour=FAINT, room=width)
    axes = page.axes(left + 0.45, top + 0.53, width - 0.45, _CHART - 0.28)
    draw_mixing(axes, mixing)
    draw_mixing_key(axes)
