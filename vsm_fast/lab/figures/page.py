"""Pages: figures laid out in inches from the top left corner, in one typography.

Sizes are fixed before anything is drawn, so that every image keeps its aspect, text has the size
it is meant to have in print, and nothing is clipped whatever the shapes of the images are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vsm_fast import __version__
from vsm_fast.extras import required
from vsm_fast.files import replacing
from vsm_fast.results.lettering import drawable, elide

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vsm_fast.scorer import VSMScorer

DPI = 200
FONT = "DejaVu Sans"  # comes with matplotlib, so that figures look the same everywhere
TITLE, HEADING, BODY, SMALL = 11.0, 8.5, 7.5, 6.5  # points
INK, FAINT, RULE = "#202226", "#5f646b", "#d3d6db"

MARGIN = 0.35
GAP = 0.08  # between panels
GROUP_GAP = 0.24  # between groups of columns
_HEAD = 0.34  # title
_FOOT = 0.3
_GROUP_HEAD = 0.24
_COLUMN_HEAD = 0.2
_ROW_HEAD = 0.25
_TALLEST = 1.5  # height of a row in widths of a column; taller images are centred in it
_FLATTEST = 0.12

_STYLE: dict[str, Any] = {
    "font.family": FONT,
    "font.size": BODY,
    "text.color": INK,
    "text.parse_math": False,  # names may hold dollar signs
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "hatch.linewidth": 0.6,
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the pages' style, whatever style the caller's matplotlib is set to."""
    matplotlib = required("matplotlib", "a figure")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


class Page:
    """A figure with a title and a footer.

    Args:
        width: In inches.
        body: Height in inches of what stands between title and footer.
        title: Cut in the middle where it is too long.
        footer: The same, small.

    Attributes:
        figure: The figure.
        width: In inches.
        height: In inches.
        top: Where the body begins, in inches from the top.
    """

    def __init__(self, width: float, body: float, title: str, footer: str) -> None:
        self.width, self.height = width, MARGIN + _HEAD + body + _FOOT + MARGIN * 0.7
        figure_class = required("matplotlib.figure", "a figure").Figure
        self.figure: Figure = figure_class(figsize=(self.width, self.height), dpi=DPI)
        required("matplotlib.backends.backend_agg", "a figure").FigureCanvasAgg(self.figure)
        self.top = MARGIN + _HEAD
        self.text(MARGIN, MARGIN, title, size=TITLE, weight="bold")
        line = self.height - MARGIN * 0.7 - _FOOT + 0.1
        self.rule(MARGIN, line, self.width - 2 * MARGIN)
        self.text(MARGIN, line + 0.08, footer, size=SMALL, colour=FAINT)

    def text(
        self,
        left: float,
        top: float,
        text: str,
        *,
        size: float = BODY,
        weight: str = "normal",
        colour: str = INK,
        room: float | None = None,
    ) -> float:
        """Write one line and return its width in inches.

        Args:
            left: Of the first letter.
            top: Of the line.
            text: What it says; cut in the middle when it is wider than ``room``.
            size: In points.
            weight: ``"normal"`` or ``"bold"``.
            colour: Of the letters.
            room: In inches; None = up to the right margin.
        """
        available = self.width - MARGIN - left if room is None else room

        def width_of(line: str) -> float:
            return text_width(line, size, weight)

        shown = elide(drawable(text, _has_glyph), width_of, available)
        self.figure.text(
            left / self.width,
            1 - top / self.height,
            shown,
            fontproperties=_properties(size, weight),
            color=colour,
            ha="left",
            va="top",
        )
        return width_of(shown)

    def rule(self, left: float, top: float, width: float) -> None:
        """A thin horizontal line."""
        lines = required("matplotlib.lines", "a figure")
        y = 1 - top / self.height
        ends = [left / self.width, (left + width) / self.width]
        self.figure.add_artist(lines.Line2D(ends, [y, y], color=RULE, linewidth=0.7))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes that fill a rectangle."""
        bottom = self.height - top - height
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )

    def image(
        self, left: float, top: float, width: float, height: float, pixels: NDArray[np.uint8]
    ) -> Axes:
        """An image in the middle of a rectangle, in its own aspect.

        Returns:
            Its axes; x and y count pixels from the top left corner, as boxes do.
        """
        rows, columns = pixels.shape[:2]
        scale = min(width / columns, height / rows)
        shown = columns * scale, rows * scale
        axes = self.axes(
            left + (width - shown[0]) / 2, top + (height - shown[1]) / 2, shown[0], shown[1]
        )
        axes.imshow(pixels, extent=(0, columns, rows, 0), aspect="auto", interpolation="auto")
        axes.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=RULE, linewidth=0.5)
        return axes


@dataclass(frozen=True, eq=False)
class Panel:
    """One image of a table; ``decorate`` draws on its axes."""

    pixels: NDArray[np.uint8]
    decorate: Callable[[Axes], None] | None = None


@dataclass(frozen=True, eq=False)
class Group:
    """Columns of a table under one heading."""

    heading: str
    columns: Sequence[str]


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a table: its title, a note beside it, and one panel a column."""

    title: str
    note: str
    panels: Sequence[Panel]


def table_width(groups: Sequence[Group], column: float) -> float:
    """Width in inches of a table whose columns are ``column`` wide."""
    count = sum(len(group.columns) for group in groups)
    inner = count - len(groups)
    return count * column + inner * GAP + (len(groups) - 1) * GROUP_GAP


def row_height(panels: Sequence[Panel], column: float) -> float:
    """Height in inches that a row's panels get."""
    wanted = max(panel.pixels.shape[0] / panel.pixels.shape[1] for panel in panels)
    return float(column * min(max(wanted, _FLATTEST), _TALLEST))


def table_height(rows: Sequence[Row], column: float) -> float:
    """Height in inches of a table with its headings."""
    panels = sum(_ROW_HEAD + row_height(row.panels, column) for row in rows)
    return _GROUP_HEAD + _COLUMN_HEAD + panels + (len(rows) - 1) * 0.1


def draw_table(
    page: Page, top: float, groups: Sequence[Group], rows: Sequence[Row], column: float
) -> None:
    """Draw a table of images at the left margin."""
    lefts: list[float] = []
    left = MARGIN
    for group in groups:
        width = len(group.columns) * (column + GAP) - GAP
        if group.heading:
            page.text(left, top, group.heading, size=HEADING, weight="bold", room=width)
            page.rule(left, top + _GROUP_HEAD - 0.05, width)
        for heading in group.columns:
            page.text(left, top + _GROUP_HEAD, heading, colour=FAINT, room=column)
            lefts.append(left)
            left += column + GAP
        left += GROUP_GAP - GAP
    place = top + _GROUP_HEAD + _COLUMN_HEAD
    for row in rows:
        room = table_width(groups, column)
        used = page.text(MARGIN, place + 0.05, row.title, weight="bold", room=room * 0.6)
        page.text(
            MARGIN + used + 0.15, place + 0.05, row.note, colour=FAINT, room=room - used - 0.15
        )
        place += _ROW_HEAD
        height = row_height(row.panels, column)
        for start, panel in zip(lefts, row.panels, strict=True):
            axes = page.image(start, place, column, height, panel.pixels)
            if panel.decorate is not None:
                panel.decorate(axes)
        place += height + 0.1


def footer_of(scorer: VSMScorer, semantic_threshold: float, visual_threshold: float) -> str:
    """What made a figure: model, thresholds and version."""
    return (
        f"model {scorer.config.name}  ·  semantic threshold {semantic_threshold:g}  ·  "
        f"visual threshold {visual_threshold:g}  ·  vsm_fast {__version__}"
    )


def text_width(text: str, size: float = BODY, weight: str = "normal") -> float:
    """Width in inches of one line."""
    width = _renderer().get_text_width_height_descent(text, _properties(size, weight), False)[0]
    return float(width) / DPI


def wrapped(text: str, room: float) -> list[str]:
    """Break a text of the body's size into lines of at most ``room`` inches, between words."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@lru_cache(maxsize=1)
def _renderer() -> Any:
    agg = required("matplotlib.backends.backend_agg", "a figure")
    return agg.RendererAgg(1, 1, DPI)


@lru_cache(maxsize=16)
def _properties(size: float, weight: str) -> Any:
    manager = required("matplotlib.font_manager", "a figure")
    return manager.FontProperties(family=FONT, size=size, weight=weight)


def _has_glyph(character: str) -> bool:
    manager = required("matplotlib.font_manager", "a figure")
    return bool(manager.get_font(manager.findfont(FONT)).get_char_index(ord(character)))


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a PNG file of 200 dots per inch, whole or not at all.

    Args:
        figure: The figure.
        path: File to write, ending in .png; its folder must exist.

    Raises:
        ValueError: The path does not end in .png.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"a figure is a PNG file; got the path {os.fspath(path)!r}.")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor="white")
