"""The figures: principal components, segments, matches, mixing weights, and all on one page.

Matplotlib's constrained layout places titles, images and labels. The sizes here only estimate the
room that they need: an estimate that is off costs white space, never an overlap.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Collection, Sequence
from functools import wraps
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

import numpy as np
from numpy.typing import NDArray

from vsm_fast import __version__
from vsm_fast.extras import required
from vsm_fast.files import replacing
from vsm_fast.lab.figures.analysis import align_labels, component_colours, segment
from vsm_fast.lab.figures.correspondences import (
    Correspondences,
    correspond,
    position_colours,
    spread_out,
)
from vsm_fast.lab.figures.panels import (
    MAX_CLUSTERS,
    components_panel,
    pale_photograph,
    places_panel,
    segments_panel,
)
from vsm_fast.lab.figures.views import SubjectViews
from vsm_fast.results.lettering import drawable, elide
from vsm_fast.scorer import VSMScorer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

KINDS = ("pca", "segments", "matches", "mixing")
MAX_GENERATIONS = 4
DEFAULT_CLUSTERS = 6
DEFAULT_MATCHES = 60
_READING = {
    "pca": "Principal components: the first three as red, green and blue. Each branch has one "
    "basis and one scale for all images: a colour means the same in all of them.",
    "segments": "Segments: each branch clusters the points of all images together. A visual "
    "segment has the colour of the semantic one that it shares most points with.",
    "matches": "Nearest neighbours: the matched points of a generated image in the colours of "
    "their semantic and visual neighbours in the reference. VSM is the share of all matched "
    "points without a cross.",
}

_BRANCHES = {"semantic": "#0072B2", "visual": "#E69F00"}  # colours of Okabe and Ito's scheme
_INK, _FAINT, _RULE = "#202226", "#5f646b", "#d3d6db"
_DPI = 200
_FONT = "DejaVu Sans"  # part of matplotlib, so that figures look the same on every machine
_TITLE, _HEADING, _BODY, _SMALL = 11.0, 8.5, 7.5, 6.5  # points
_PER_INCH = {_TITLE: 9.5, _BODY: 16.5, _SMALL: 19}  # characters, on average
# In inches:
_MARGIN, _LINE, _LABELS = 0.25, 0.15, 1.45
_LARGE, _SMALL_COLUMN = 2.35, 1.5  # width of an image
_NARROWEST = 7.2  # the room of the chart of weights and the text beside it
_STYLE: dict[str, Any] = {
    "font.family": _FONT,
    "font.size": _BODY,
    "text.color": _INK,
    "text.parse_math": False,  # file names may contain dollar signs
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.titlelocation": "left",
    "axes.titlesize": _BODY,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.05,
    "figure.constrained_layout.w_pad": 0.05,
}

_P = ParamSpec("_P")


def _styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draw a figure in this module's style, independent of the caller's."""

    @wraps(draw)
    def drawn(*positional: _P.args, **keyword: _P.kwargs) -> Figure:
        matplotlib = required("matplotlib", "a figure")
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_STYLE)
            return draw(*positional, **keyword)

    return drawn


class _Column(NamedTuple):
    """A column of a table: the heading of its group, its own, and one image per row."""

    group: str
    heading: str
    images: Sequence[NDArray[np.uint8]]


@_styled
def pca_figure(views: SubjectViews) -> Figure:
    """Draw principal components of the descriptors as colours, in one row per image.

    Each branch has one basis and one scale for all images: within a branch, equal colours are
    equal descriptors.

    Raises:
        TooFewPointsError: If there are fewer than four points in all.
        ImportError: If matplotlib or scikit-learn is not installed; names the extra.
    """
    return _table_figure("Principal components of the descriptors", views, _components(views))


@_styled
def segments_figure(
    views: SubjectViews, *, clusters: int = DEFAULT_CLUSTERS, seed: int = 0
) -> Figure:
    """Draw 1 to 9 clusters of the descriptors as colours, in one row per image.

    Raises:
        ValueError: If ``clusters`` is out of range.
        TooFewPointsError: If there are fewer distinct points than clusters.
        ImportError: If matplotlib or scikit-learn is not installed; names the extra.
    """
    title = f"k-means segments of the descriptors, k = {clusters}"
    return _table_figure(title, views, _segments(views, clusters, seed))


@_styled
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
    """Draw one page with a row for the reference and a row per generated image.

    Bases and clusters are fitted to all ``views``, including those that are not shown.

    Args:
        views: The images.
        reference: Position of the reference.
        generations: Positions of at most four generated images; None = the first four others.
        kinds: Subset of ``KINDS``.
        clusters: Number of segments, 1 to 9.
        seed: Random seed of k-means.
        max_matches: Upper limit of matched points drawn per generated image.

    Raises:
        ValueError: If ``kinds`` is empty or has an unknown entry, there are more than four
            generated images, or ``clusters`` or ``max_matches`` is out of range.
        TooFewPointsError: If the subjects have too few points.
        ImportError: If matplotlib or scikit-learn is not installed; names the extra.
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

    columns = [_Column("", "image", [view.photograph for view in views.views])]
    if "pca" in kinds:
        columns += _components(views, "Principal components")
    if "segments" in kinds:
        columns += _segments(views, clusters, seed, f"k-means segments, k = {clusters}")
    shown = [reference, *generations]
    columns = [
        column._replace(images=[column.images[index] for index in shown]) for column in columns
    ]
    labels = [
        (f"{role}: {_label(views[index].name, 60)}", f"{len(views[index].cells):,} points")
        for role, index in zip(
            ["Reference", *(f"Generated {number}" for number in range(1, len(shown)))],
            shown, strict=True,
        )
    ]  # fmt: skip
    pairs = []
    if "matches" in kinds and generations:
        pairs = [correspond(views, reference, index) for index in generations]
        ground = [places_panel(views[reference])]
        ground += [pale_photograph(views[index]) for index in generations]
        group = "Nearest neighbours in the reference"
        columns += [_Column(group, branch, ground) for branch in _BRANCHES]
        labels[1:] = [
            (title, _match_note(matches, max_matches))
            for (title, _), matches in zip(labels[1:], pairs, strict=True)
        ]
    chart = _mixing_width(views.scorer) if "mixing" in kinds else 0.0
    width, heights = _table_size(labels, columns, _SMALL_COLUMN)
    width, table = max(_NARROWEST, width, chart + 3), sum(heights) + 0.25 * bool(pairs)
    reading = "\n\n".join(
        _wrapped(text, width - chart - 0.5)
        for kind, text in _READING.items()
        if kind in kinds and (pairs or kind != "matches")
    )
    below = max((reading.count("\n") + 3) * _LINE if reading else 0, 2.1 if chart else 0)
    figure = _new_figure(width, table + below, "Visual Semantic Matching", _footer(views))
    parts: Any = figure.subfigures(2, 1, height_ratios=[table, below])
    upper, lower = parts
    rows = _draw_table(upper, labels, columns, _SMALL_COLUMN, heights)
    for matches, row in zip(pairs, rows[1:] if pairs else [], strict=True):
        drawn, starts = _matched_places(views, matches, max_matches)
        for axes, targets, passed in (
            (row[-2], matches.semantic_targets, np.ones(len(drawn), bool)),
            (row[-1], matches.visual_targets, matches.passed[drawn]),
        ):
            places = views[reference].centres()[targets[drawn]]
            _draw_points(axes, starts, position_colours(places, views[reference].frame()), passed)
    if pairs:
        _draw_match_legend(upper)
    left, right = lower.subfigures(1, 2, width_ratios=[chart or 0.01, width - chart])
    if chart:
        _draw_mixing(left.subplots(), views.scorer)
        left.suptitle("Mixing weights of the levels", size=_HEADING, weight="bold", x=0.02,
                      ha="left")  # fmt: skip
    if reading:
        right.suptitle("How to read it", size=_HEADING, weight="bold", x=0.02, ha="left")
        right.text(0.02, 1 - 2 * _LINE / below, reading, va="top", linespacing=1.3)
    return figure


@_styled
def matches_figure(
    views: SubjectViews,
    reference: int = 0,
    generation: int = 1,
    *,
    max_matches: int = DEFAULT_MATCHES,
) -> Figure:
    """Draw the semantic and the visual neighbours of the matched points of one pair.

    Both halves show the same points of the generated image. In the right half, crosses and dashed
    lines mark points whose visual similarity is not above the threshold: the points that VSM
    counts as inconsistent. ``max_matches`` limits the points, spread evenly over the subject.

    Raises:
        ValueError: If ``max_matches`` is below 1, or a position is out of range.
        ImportError: If matplotlib is not installed; names the extra.

    Source: arXiv 2509.21989, the definition of VSM.
    """
    matches = correspond(views, reference, generation)
    drawn, starts = _matched_places(views, matches, max_matches)
    images = [pale_photograph(views[index]) for index in (reference, generation)]
    cell = max(max(pixels.shape[:2]) for pixels in images)
    tallest = max(pixels.shape[0] for pixels in images)
    # Both images lie in one coordinate system, in which the lines are plain data.
    corners = [
        np.array([1.12 * cell * index + (cell - width) / 2, (tallest - height) / 2])
        for index, (height, width, _) in enumerate(pixels.shape for pixels in images)
    ]
    titles = [_label(views[index].name, 40) for index in (reference, generation)]
    width, height = 4 * _LARGE + 1, 0.65 + _LARGE * max(tallest / cell, 0.2)
    figure = _new_figure(width, height, "  →  ".join(titles), _footer(views))
    parts: Any = figure.subfigures(2, 1, height_ratios=[0.15, height - 0.15])
    head, body = parts
    head.text(0.05 / width, 0.5, _match_note(matches, max_matches), va="center", color=_FAINT)
    collections = required("matplotlib.collections", "a figure")
    halves = (
        ("Semantic nearest neighbours", matches.semantic_targets, np.ones(len(drawn), bool)),
        ("Visual nearest neighbours of the same points", matches.visual_targets,
         matches.passed[drawn]),
    )  # fmt: skip
    for axes, (title, targets, passed) in zip(body.subplots(1, 2), halves, strict=True):
        axes.set_title(title, size=_HEADING, weight="bold", pad=16)
        for role, pixels, corner in zip(("reference", "generated"), images, corners, strict=True):
            _show(axes, pixels, *corner)
            axes.annotate(role, (corner[0], 0), (0, 4), textcoords="offset points", color=_FAINT)
        axes.set(xlim=(0, 2.12 * cell), ylim=(tallest, 0))
        axes.spines[:].set_visible(False)
        places = views[reference].centres()[targets[drawn]]
        colours = position_colours(places, views[reference].frame())
        ends = places + corners[0]
        lines = np.stack([ends, starts + corners[1]], axis=1)
        for which, style in (
            (passed, {"colors": colours[passed], "linewidths": 0.7, "alpha": 0.85}),
            (~passed, {"colors": _INK, "linewidths": 0.6, "linestyles": "--", "alpha": 0.7}),
        ):
            axes.add_collection(collections.LineCollection(lines[which], **style))
        for points in (ends, starts + corners[1]):
            _draw_points(axes, points, colours, passed, 4.5)
    _draw_match_legend(body)
    return figure


@_styled
def mixing_figure(scorer: VSMScorer) -> Figure:
    """Draw the weight of each backbone level in both aggregation networks.

    Raises:
        ImportError: If matplotlib is not installed; names the extra.
    """
    title = "Mixing weights of the levels"
    figure = _new_figure(_mixing_width(scorer), 2.6, title, _footer(scorer))
    _draw_mixing(figure.subplots(), scorer)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a PNG file of 200 dots per inch, atomically; its folder must exist.

    Raises:
        ValueError: If the path does not end in .png.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"cannot save a figure as {os.fspath(path)!r}: the path must end in .png.")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, facecolor="white", bbox_inches="tight",
                       pad_inches=_MARGIN)  # fmt: skip


def _new_figure(width: float, height: float, title: str, footer: str) -> Figure:
    """Return an empty figure; width and height in inches leave out the title and the footer."""
    title, footer = _wrapped(title, width, _TITLE), _wrapped(footer, width, _SMALL)
    height += 0.25 + 0.17 * title.count("\n") + 0.2 + 0.1 * footer.count("\n")
    figure_class = required("matplotlib.figure", "a figure").Figure
    figure: Figure = figure_class(figsize=(width, height), dpi=_DPI, layout="constrained")
    required("matplotlib.backends.backend_agg", "a figure").FigureCanvasAgg(figure)
    left = 0.05 / width
    figure.suptitle(title, x=left, ha="left", size=_TITLE, weight="bold")
    figure.supxlabel(footer, x=left, ha="left", size=_SMALL, color=_FAINT)
    return figure


def _footer(source: SubjectViews | VSMScorer) -> str:
    """Return the provenance of a figure: model, thresholds and version."""
    if isinstance(source, SubjectViews):
        scorer, semantic, visual = source.scorer, source.semantic_threshold, source.visual_threshold
    else:
        scorer, thresholds = source, source.config.thresholds
        semantic, visual = thresholds.semantic, thresholds.visual
    return (
        f"model {scorer.config.name}  ·  semantic threshold {semantic:g}  ·  "
        f"visual threshold {visual:g}  ·  vsm_fast {__version__}"
    )


def _label(name: str, characters: int) -> str:
    """Shorten a file name in the middle, and replace letters that the font lacks."""
    manager = required("matplotlib.font_manager", "a figure")
    letters = manager.get_font(manager.findfont(_FONT)).get_charmap()
    return elide(drawable(name, lambda letter: ord(letter) in letters), len, characters)


def _wrapped(text: str, width: float, size: float = _BODY) -> str:
    """Break a text into lines of about ``width`` inches."""
    return textwrap.fill(text, max(10, int(width * _PER_INCH[size])), break_on_hyphens=False)


def _components(views: SubjectViews, group: str = "") -> list[_Column]:
    columns = []
    for branch in _BRANCHES:
        colours, explained = component_colours(views.branch(branch))
        images = list(map(components_panel, views.views, colours))
        columns.append(_Column(group, f"{branch}, {explained.sum():.0%} of variance", images))
    return columns


def _segments(views: SubjectViews, clusters: int, seed: int, group: str = "") -> list[_Column]:
    if not 1 <= clusters <= MAX_CLUSTERS:
        raise ValueError(
            f"clusters must lie in 1 to {MAX_CLUSTERS}, the number of colours that stay distinct; "
            f"got {clusters}."
        )
    semantic = segment(views.branch("semantic"), clusters, seed=seed)
    visual = segment(views.branch("visual"), clusters, seed=seed)
    columns = []
    for branch, labels in zip(
        _BRANCHES, (semantic, align_labels(visual, semantic, clusters)), strict=True
    ):
        pairs = zip(views.views, labels, strict=True)
        images = [segments_panel(view, part, clusters) for view, part in pairs]
        columns.append(_Column(group, branch, images))
    return columns


def _table_figure(title: str, views: SubjectViews, columns: Sequence[_Column]) -> Figure:
    labels = [(_label(view.name, 60), f"{len(view.cells):,} points") for view in views.views]
    columns = [_Column("", "image", [view.photograph for view in views.views]), *columns]
    width, heights = _table_size(labels, columns, _LARGE)
    figure = _new_figure(width, sum(heights), title, _footer(views))
    _draw_table(figure, labels, columns, _LARGE, heights)
    return figure


def _table_size(
    labels: Sequence[tuple[str, str]], columns: Sequence[_Column], column: float
) -> tuple[float, list[float]]:
    """Return the width of a table and the heights of its heading and its rows in inches."""
    images = columns[0].images
    longest = max(max(image.shape[:2]) for image in images)
    rows = [
        max(column * image.shape[0] / longest, (len(title) // 18 + len(note) // 22 + 2) * _LINE)
        for image, (title, note) in zip(images, labels, strict=True)
    ]
    heading = 0.45 if any(column.group for column in columns) else 0.25
    return _LABELS + len(columns) * (column + 0.1), [heading, *(row + 0.1 for row in rows)]


def _draw_table(
    figure: Figure | SubFigure,
    labels: Sequence[tuple[str, str]],
    columns: Sequence[_Column],
    column: float,
    heights: Sequence[float],
) -> list[list[Axes]]:
    """Fill an empty figure with rows of images, each after its title and note.

    ``column`` is the width of an image in inches, ``heights`` come from :func:`_table_size`.
    Returns the axes of the images, by row and column.
    """
    grid = figure.add_gridspec(
        1 + len(labels),
        1 + len(columns),
        width_ratios=[_LABELS, *[column] * len(columns)],
        height_ratios=[0.01, *heights[1:]],
    )
    for group, members in groupby(range(len(columns)), lambda index: columns[index].group):
        if group:  # an empty axes whose lower edge underlines its title
            places = list(members)
            axes = figure.add_subplot(grid[0, 1 + places[0] : 2 + places[-1]])
            axes.set(xticks=[], yticks=[])
            axes.spines[["left", "top", "right"]].set_visible(False)
            axes.spines["bottom"].set_color(_RULE)
            axes.set_title(group, size=_HEADING, weight="bold", pad=2)
    table: list[list[Axes]] = []
    for row, (title, note) in enumerate(labels):
        axes = figure.add_subplot(grid[1 + row, 0])
        axes.axis("off")
        name = axes.text(0, 1, textwrap.fill(title, 20), weight="bold", va="top")
        axes.annotate(textwrap.fill(note, 25), (0, 0), (0, -3), xycoords=name, va="top",
                      textcoords="offset points", color=_FAINT)  # fmt: skip
        table.append([figure.add_subplot(grid[1 + row, 1 + n]) for n in range(len(columns))])
        for axes, cells in zip(table[-1], columns, strict=True):
            _show(axes, cells.images[row])
            axes.set_title("" if row else cells.heading, color=_FAINT, pad=3)
    return table


def _show(axes: Axes, pixels: NDArray[np.uint8], left: float = 0, top: float = 0) -> None:
    """Draw an image in its own aspect, with x and y in pixels from its top left corner."""
    rows, columns = pixels.shape[:2]
    axes.imshow(pixels, extent=(left, left + columns, top + rows, top), interpolation="auto")
    axes.set(xticks=[], yticks=[], anchor="NW")
    axes.spines[:].set(color=_RULE, linewidth=0.5)


def _match_note(matches: Correspondences, max_matches: int) -> str:
    """Return score and counts of a pair as text."""
    total = len(matches.points)
    if not total:
        return f"VSM undefined: none of {matches.n_source:,} points matches the reference"
    note = (
        f"VSM {matches.score:.3f}: {matches.passed.sum():,} of {total:,} matched points look "
        f"the same ({matches.n_source:,} points in all)"
    )
    return note if total <= max_matches else f"{note}; {max_matches:,} drawn"


def _matched_places(
    views: SubjectViews, matches: Correspondences, most: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return indices and centres of at most ``most`` evenly spread matched points."""
    places = views[matches.generation].centres()[matches.points]
    drawn = spread_out(places, most)
    return drawn, places[drawn]


def _draw_points(
    axes: Axes,
    places: NDArray[np.float64],
    colours: NDArray[np.float64],
    passed: NDArray[np.bool_],
    size: float = 3.6,
) -> None:
    """Draw dots of a diameter of ``size`` points, and crosses for points that failed.

    ``places`` is float [m, 2], (x, y); ``colours`` float [m, 3] in [0, 1].
    """
    x, y = places.T
    axes.scatter(x[passed], y[passed], s=size**2, c=colours[passed], edgecolors="white",
                 linewidths=0.35, zorder=3)  # fmt: skip
    for colour, width in (("white", 1.9), (_INK, 0.9)):  # a white rim below the cross
        axes.scatter(x[~passed], y[~passed], s=(0.75 * size) ** 2, c=colour, marker="x",
                     linewidths=width, zorder=3)  # fmt: skip


def _draw_match_legend(figure: Figure | SubFigure) -> None:
    """Explain dots and crosses below the axes of a figure."""
    line = required("matplotlib.lines", "a figure").Line2D
    handler = required("matplotlib.legend_handler", "a figure").HandlerTuple(None, pad=0.2)
    spots = position_colours(np.array([[0, 0], [1, 0], [2, 0]]), np.array([[0, -1], [2, 1]]))
    dots: Any = tuple(line([], [], marker="o", color=spot, ms=4, ls="") for spot in spots)
    cross = line([], [], marker="x", color=_INK, ms=4, mew=0.9, ls="")
    figure.legend(
        [dots, cross],
        ["colour: place on the reference", "visual similarity not above the threshold"],
        handler_map={tuple: handler}, loc="outside lower left", ncols=2, borderaxespad=0.3,
    )  # fmt: skip


def mixing_weights(scorer: VSMScorer) -> dict[str, NDArray[np.float64]]:
    """Return the weights of the levels per branch, float64 [L], as the networks apply them.

    Source: arXiv 2509.21989, the aggregation networks.
    """
    return {
        branch: getattr(scorer.network, branch).mixing().detach().double().cpu().numpy()
        for branch in _BRANCHES
    }


def _mixing_width(scorer: VSMScorer) -> float:
    return max(4.6, 1.4 + 0.55 * len(scorer.config.backbone.levels))


def _draw_mixing(axes: Axes, scorer: VSMScorer) -> None:
    """Draw the mixing weights of a model as bars; a first level of weight 1 is hatched."""
    levels = scorer.config.backbone.levels
    # As in the published networks, whose weights then do not sum to 1.
    first_is_one = scorer.config.aggregation.first_level_weight == "one"
    for side, (branch, weights) in zip((-0.18, 0.18), mixing_weights(scorer).items(), strict=True):
        places = np.arange(len(levels)) + side
        bars = axes.bar(places, weights, 0.34, color=_BRANCHES[branch], lw=0)
        axes.bar_label(bars, fmt="%.2f", padding=1, size=_SMALL, color=_FAINT)
        if first_is_one:
            bars[0].set(facecolor="white", edgecolor=_BRANCHES[branch], hatch="////", linewidth=0.8)
    axes.set(xlim=(-0.6, len(levels) - 0.4), ylabel="weight in the sum")
    axes.set_xticks(range(len(levels)), levels)
    axes.margins(y=0.15)
    axes.tick_params(length=2, pad=2)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    hatched = "hatched: the first level has weight 1,\nas in the published networks"
    axes.set_title(
        hatched if first_is_one else "softmax weights; each network's sum to 1", color=_FAINT
    )
    patch = required("matplotlib.patches", "a figure").Patch
    axes.legend([patch(color=colour) for colour in _BRANCHES.values()], list(_BRANCHES), ncols=2,
                loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.3,
                handlelength=1, handleheight=0.8)  # fmt: skip
