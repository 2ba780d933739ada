"""A contact sheet: the first pairs of a dataset in one picture, to look at before using it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vsm_fast.files import replacing
from vsm_fast.lab.pairs.pairs import ControlledPair, Mask, Pixels

_SIDE = 160
_GAP = 6
_CAPTION = 18
_OUTLINE = (255, 221, 0)  # seen on dark and on light, also by the colour-blind
_HEADINGS = ("original 1", "altered 1", "original 2 = reference")
_MOST = 24


def contact_sheet(pairs: Iterable[ControlledPair], columns: int = 2) -> Image.Image:
    """Original 1, altered 1 with the part outlined, and the reference of up to 24 pairs.

    Args:
        pairs: Only the first 24 are read.
        columns: Pairs side by side.

    Raises:
        ValueError: There is no pair.
    """
    shown = list(islice(pairs, _MOST))
    if not shown:
        raise ValueError("a contact sheet needs at least one pair; got none.")
    columns = min(columns, len(shown))
    width, height = 3 * (_SIDE + _GAP) + _GAP, _SIDE + _CAPTION + _GAP
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height + _CAPTION), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column in range(columns):
        for place, heading in enumerate(_HEADINGS):
            draw.text((column * width + _GAP + place * (_SIDE + _GAP), 2), heading, "black", font)
    for number, pair in enumerate(shown):
        left, top = number % columns * width + _GAP, number // columns * height + _CAPTION
        pictures = (
            pair.original_1,
            _outlined(pair.altered_1, pair.part_1),
            pair.original_2,
        )
        for place, picture in enumerate(pictures):
            sheet.paste(_thumbnail(picture), (left + place * (_SIDE + _GAP), top))
        subject = pair.subject.encode("ascii", "replace").decode()[:28]  # the font has no more
        text = f"{subject}   {pair.kind}, {pair.view or 'view unknown'}   oracle {pair.oracle:.2f}"
        draw.text((left, top + _SIDE + 2), text, "black", font)
    return sheet


def save_contact_sheet(pairs: Iterable[ControlledPair], path: Path) -> None:
    """Write the contact sheet as PNG."""
    with replacing(path) as temporary:
        contact_sheet(pairs).save(temporary)


def _outlined(picture: Pixels, part: Mask) -> Pixels:
    """The picture with the border of the part, about a hundredth of its side wide."""
    reach = max(1, max(part.shape) // 160)
    grown = np.zeros_like(part)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            grown |= np.roll(part, (dy, dx), (0, 1))
    result = picture.copy()
    result[grown & ~part] = _OUTLINE
    return result


def _thumbnail(picture: Pixels) -> Image.Image:
    """The whole picture on a grey square."""
    image = Image.fromarray(picture)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (_SIDE, _SIDE), (235, 235, 235))
    square.paste(image, ((_SIDE - image.width) // 2, (_SIDE - image.height) // 2))
    return square
