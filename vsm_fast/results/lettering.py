"""Lettering of pictures: a font with as many letters as can be had, and names that it can show."""

from __future__ import annotations

import unicodedata
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

REPLACEMENT = "?"


def pillow_font(size: int) -> Font:
    """The font that pictures made with Pillow are lettered in.

    DejaVu Sans (Latin with accents, Greek, Cyrillic, not Chinese, Japanese or Korean) when
    matplotlib, which brings it along, is installed; else the font inside Pillow, which has little
    beyond ASCII.

    Args:
        size: Height of the letters in pixels.
    """
    path = dejavu_sans()
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


@lru_cache(maxsize=1)
def dejavu_sans() -> Path | None:
    """The file of DejaVu Sans in matplotlib, which is not imported; None where it is missing."""
    found = find_spec("matplotlib")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if path.is_file():
            return path
    return None


def has_glyph(font: Font, character: str) -> bool:
    """Whether a font draws a character as anything but its box for unknown ones."""
    if character.isspace():
        return True
    unknown = font.getmask("\uffff")  # assigned to nothing, in no font
    drawn = font.getmask(character)
    return drawn.size != unknown.size or bytes(drawn) != bytes(unknown)


def drawable(text: str, shows: Callable[[str], bool]) -> str:
    """A name with only what can be drawn, in one line.

    Args:
        text: Any name, such as that of a file.
        shows: Whether a character can be drawn.

    Returns:
        The name; a character that cannot be drawn becomes its base letter (``é`` to ``e``) when
        that can, else ``?``.
    """
    composed = unicodedata.normalize("NFC", text)  # some file systems store e + accent
    return "".join(_shown(character, shows) for character in composed)


def _shown(character: str, shows: Callable[[str], bool]) -> str:
    if not character.isprintable():
        return REPLACEMENT
    if shows(character):
        return character
    base = unicodedata.normalize("NFKD", character)[0]
    return base if base.isprintable() and shows(base) else REPLACEMENT


def elide(text: str, width_of: Callable[[str], float], room: float) -> str:
    """Cut a name in the middle until it fits: both ends of a file name tell files apart.

    Args:
        text: The name, already :func:`drawable`.
        width_of: Its width as it will be drawn.
        room: The width that there is, in the same unit.
    """
    if width_of(text) <= room:
        return text
    shortest, longest = 1, len(text)  # characters kept; the first always fits or nothing does
    while longest - shortest > 1:
        middle = (shortest + longest) // 2
        if width_of(_cut(text, middle)) <= room:
            shortest = middle
        else:
            longest = middle
    return _cut(text, shortest) if shortest > 1 else "…"


def _cut(text: str, kept: int) -> str:
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
