"""Text in pictures: a font with wide coverage, and names reduced to its glyphs and the space."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ImageFont

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

    Font = FreeTypeFont | BitmapFont


def pillow_font(size: int) -> Font:
    """Return the font of pictures made with Pillow.

    It is DejaVu Sans (accented Latin, Greek, Cyrillic) if matplotlib is installed. Pillow's font
    covers little beyond ASCII.

    Args:
        size: Height of the letters in pixels.
    """
    path = dejavu_sans()
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


@lru_cache(maxsize=1)
def dejavu_sans() -> Path | None:
    """Locate DejaVu Sans in matplotlib without importing it; None if it is missing."""
    spec = find_spec("matplotlib")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if path.is_file():
            return path
    return None


def has_glyph(font: Font, character: str) -> bool:
    """Return whether a font has a glyph for a character."""
    if character.isspace():
        return True
    unknown = font.getmask("\uffff")  # a noncharacter, which no font has
    drawn = font.getmask(character)
    return drawn.size != unknown.size or bytes(drawn) != bytes(unknown)


def drawable(text: str, shows: Callable[[str], bool]) -> str:
    """Reduce a name to one line of drawable characters.

    Args:
        text: Any name, such as a file name.
        shows: Whether a character can be drawn.

    Returns:
        The name, with each other character replaced by its base letter (``é`` by ``e``) if that can
        be drawn, else by ``?``.
    """

    def shown(character: str) -> str:
        base = unicodedata.normalize("NFKD", character)[0]
        forms = (form for form in (character, base) if form.isprintable() and shows(form))
        return next(forms, "?") if character.isprintable() else "?"

    composed = unicodedata.normalize("NFC", text)  # some file systems store letter + accent
    return "".join(map(shown, composed))


def elide(text: str, width_of: Callable[[str], float], room: float) -> str:
    """Cut a name in the middle until it fits, because both ends of a file name are informative.

    Args:
        text: A :func:`drawable` name.
        width_of: Width of a text as drawn.
        room: Available width, in the same unit.
    """

    def cut(kept: int) -> str:
        return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"

    if width_of(text) <= room:
        return text
    fitting = bisect_right(range(len(text)), room, key=lambda kept: width_of(cut(kept)))
    return cut(max(0, fitting - 1))
