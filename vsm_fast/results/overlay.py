"""Overlay panels: reference, generated image and heat map side by side."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from vsm_fast.files import replacing
from vsm_fast.results.lettering import drawable, elide, has_glyph, pillow_font

# Blue to pale to vermilion: hue and lightness differ under every common colour blindness.
# Lightness peaks at the threshold, so 0.5 also stands out in grey.
COLOUR_ANCHORS = np.array(
    [
        (16, 64, 140),
        (62, 127, 190),
        (150, 192, 222),
        (246, 240, 226),
        (247, 178, 103),
        (222, 97, 26),
        (137, 37, 6),
    ],
    np.float32,
)
BLEND = 0.62  # weight of the heat map's colour on the subject
DIMMED = 0.45  # weight of the photograph off the subject; the rest is light grey
DIMMED_TOWARDS = 225

_MARGIN = 28
_GAP = 16
_LEGEND = 156
_MAX_PANEL = 360  # longer side of a panel in pixels
_MIN_SLOT = 240  # least width of a panel's slot, for a legible title and legend
_INK = (32, 34, 38)
_FAINT = (105, 110, 118)
_PAPER = (255, 255, 255)


def colour_map(values: ArrayLike) -> NDArray[np.uint8]:
    """Map inconsistency to colours that are safe for colour-blind readers.

    Args:
        values: float, any shape, in [0, 1]; 0 = consistent (blue), 0.5 = the threshold (pale),
            1 = inconsistent (vermilion). NaN counts as 0.5.

    Returns:
        uint8 [..., 3], RGB.
    """
    steps = len(COLOUR_ANCHORS) - 1
    place = np.nan_to_num(np.asarray(values, np.float32), nan=0.5).clip(0, 1) * steps
    first = np.minimum(place.astype(np.int64), steps - 1)
    part = (place - first)[..., None]
    colours = COLOUR_ANCHORS[first] * (1 - part) + COLOUR_ANCHORS[first + 1] * part
    return np.asarray(np.rint(colours), np.uint8)


def blend(generation: Image.Image, heat: ArrayLike) -> Image.Image:
    """Blend a heat map over the subject and dim the rest of the image to grey.

    Args:
        generation: Generated image of any mode, W x H pixels.
        heat: float [H, W] in [0, 1], NaN off the subject.

    Raises:
        ValueError: If the heat map and the image differ in size.
    """
    photograph = np.asarray(generation.convert("RGB"), np.float32)
    values = np.asarray(heat, np.float32)
    if values.shape != photograph.shape[:2]:
        raise ValueError(
            f"the heat map must have the size of the generated image, "
            f"{list(photograph.shape[:2])} (height, width); got {list(values.shape)}."
        )
    grey = luminance(photograph)
    # Only the photograph's lightness stays under the colour: mixed hues would not match the legend.
    subject = grey * (1 - BLEND) + colour_map(values) * BLEND
    result = np.where(np.isnan(values)[..., None], dimmed(grey), subject)
    return Image.fromarray(np.rint(result).astype(np.uint8))


def luminance(photograph: ArrayLike) -> NDArray[np.float32]:
    """Return the lightness of an RGB image [H, W, 3] as float32 [H, W, 1], on the same scale."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return (np.asarray(photograph, np.float32) @ weights)[..., None]


def dimmed(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Dim lightness, float32 [H, W, 1], for the background of the subject."""
    return grey * DIMMED + DIMMED_TOWARDS * (1 - DIMMED)


def overlay_panel(
    reference: Image.Image,
    generation: Image.Image,
    heat: ArrayLike,
    score: float,
    title: str,
    threshold: float,
    n_matched: int | None = None,
    n_source: int | None = None,
) -> Image.Image:
    """Draw one pair as reference, generated image, heat map and legend.

    Args:
        reference: Reference image.
        generation: Generated image, W x H pixels.
        heat: float [H, W] in [0, 1], NaN off the subject.
        score: In [0, 1], or NaN.
        title: Name of the pair; cut in the middle if too long.
        threshold: Visual threshold of the score and of 0.5 in the heat map.
        n_matched: Number of matched points; None omits it.
        n_source: Number of points of the generated subject, shown with ``n_matched``.

    Returns:
        RGB image, at most about 1,340 pixels wide.
    """
    panels = []
    for image in (reference.convert("RGB"), generation.convert("RGB"), blend(generation, heat)):
        scale = min(_MAX_PANEL / max(image.size), 4.0)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        panels.append(image.resize(size, Image.Resampling.LANCZOS))
    slots = [max(_MIN_SLOT, panel.width) for panel in panels]
    body = max(_MIN_SLOT, *(panel.height for panel in panels))
    head = 50
    width = 2 * _MARGIN + sum(slots) + 3 * _GAP + _LEGEND
    height = _MARGIN + head + 26 + body + _MARGIN
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)

    text = "VSM undefined" if math.isnan(score) else f"VSM {score:.3f}"
    if n_matched is not None:
        of = "" if n_source is None else f" of {n_source:,}"
        text += f"   {n_matched:,}{of} points matched"
    font = pillow_font(22)
    text_width = math.ceil(draw.textlength(text, font=font))
    draw.text((width - _MARGIN - text_width, _MARGIN), text, font=font, fill=_INK)
    room = width - 2 * _MARGIN - text_width - 2 * _GAP
    name = drawable(title, lambda character: has_glyph(font, character))
    name = elide(name, lambda text: draw.textlength(text, font=font), room)
    draw.text((_MARGIN, _MARGIN), name, font=font, fill=_INK)
    line = _MARGIN + head - 12
    draw.line((_MARGIN, line, width - _MARGIN, line), fill=(216, 219, 224), width=1)

    left, top = _MARGIN, _MARGIN + head + 26
    captions = ("reference", "generation", "inconsistency")
    for caption, panel, slot in zip(captions, panels, slots, strict=True):
        draw.text((left, top - 27), caption, font=pillow_font(17), fill=_FAINT)
        canvas.paste(panel, (left + (slot - panel.width) // 2, top + (body - panel.height) // 2))
        left += slot + _GAP

    # Legend: a vertical colour bar, inconsistent at the top, with a tick at the threshold.
    left += 4
    bar, length = 20, min(body, _MAX_PANEL)
    ramp = colour_map(np.linspace(1, 0, length))
    canvas.paste(Image.fromarray(np.repeat(ramp[:, None], bar, axis=1)), (left, top))
    draw.rectangle((left, top, left + bar - 1, top + length - 1), outline=_FAINT)
    text_left, middle = left + bar + 10, top + length // 2
    font, small = pillow_font(16), pillow_font(14)
    draw.text((text_left, top), "1  inconsistent", font=font, fill=_INK, anchor="lt")
    draw.text((text_left, top + length - 1), "0  consistent", font=font, fill=_INK, anchor="lb")
    draw.line((left, middle, left + bar + 5, middle), fill=_INK, width=2)
    draw.text((text_left, middle - 3), "0.5  threshold", font=font, fill=_INK, anchor="ls")
    value = f"similarity {threshold:g}"
    draw.text((text_left, middle + 4), value, font=small, fill=_FAINT, anchor="lt")
    return canvas


def save_overlay(path: str | os.PathLike[str], *panel: Any, **options: Any) -> None:
    """Write an :func:`overlay_panel` to a PNG file, atomically.

    Args:
        path: File to write, ending in .png.
        *panel: Arguments of :func:`overlay_panel`.
        **options: Arguments of :func:`overlay_panel` by name.

    Raises:
        ValueError: If the path does not end in .png.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"an overlay is a PNG file; got the path {os.fspath(path)!r}.")
    image = overlay_panel(*panel, **options)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
