"""Contact sheet: the first pairs of a dataset in one image, for inspection."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vsm_fast.files import replacing
from vsm_fast.lab.pairs.pairs import ControlledPair

_SIDE = 160
_GAP = 6
_CAPTION = 18
_OUTLINE = (255, 221, 0)  # visible on dark and light, also with colour blindness
_HEADINGS = ("original 1", "altered 1", "original 2 = reference")
_MOST = 24
_COLUMNS = 2  # pairs per row


def save_contact_sheet(pairs: Iterable[ControlledPair], path: Path) -> None:
    """Write a PNG of the first 24 pairs: original 1, altered 1 with its part outlined, reference.

    Raises:
        ValueError: If there is no pair.
    """
    shown = list(islice(pairs, _MOST))
    if not shown:
        raise ValueError("a contact sheet needs at least one pair; got none.")
    columns = min(_COLUMNS, len(shown))
    step = _SIDE + _GAP
    width, height = 3 * step + _GAP, step + _CAPTION
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height + _CAPTION), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column in range(columns):
        for place, heading in enumerate(_HEADINGS):
            draw.text((column * width + _GAP + place * step, 2), heading, "black", font)
    for number, pair in enumerate(shown):
        left, top = number % columns * width + _GAP, number // columns * height + _CAPTION
        outlined, part = pair.altered_1.copy(), pair.part_1.astype(np.uint8)
        reach = 2 * max(1, max(part.shape) // 160) + 1  # about a hundredth of the side
        outlined[(cv2.dilate(part, np.ones((reach, reach))) > 0) & ~pair.part_1] = _OUTLINE
        for place, pixels in enumerate((pair.original_1, outlined, pair.original_2)):
            image = Image.fromarray(pixels)
            image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
            square = Image.new("RGB", (_SIDE, _SIDE), (235, 235, 235))
            square.paste(image, ((_SIDE - image.width) // 2, (_SIDE - image.height) // 2))
            sheet.paste(square, (left + place * step, top))
        subject = pair.subject.encode("ascii", "replace").decode()[:28]  # the font is ASCII only
        text = f"{subject}   {pair.kind}, {pair.view or 'view unknown'}   oracle {pair.oracle:.2f}"
        draw.text((left, top + _SIDE + 2), text, "black", font)
    with replacing(path) as temporary:
        sheet.save(temporary)
