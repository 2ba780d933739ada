"""Random palettes and textures for procedural subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recipes.tiny.solid_textures import GLYPH_SIDE, LATTICE, Layer, Texture

Values = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_PHOTO_SIDE = 192  # pixels of a crop; a subject of 256 pixels shows about that many
_BASES = ("plain", "gradient", "stripes", "checker", "cells", "clouds", "camouflage", "rings")
_OVERLAYS = ("dots", "spots", "glyphs", "band")


def random_palette(rng: np.random.Generator, count: int = 6) -> Values:
    """Colours that go with each other: neighbouring or opposite hues and neutral ones.

    Returns:
        float32 [count, 3] in [0, 1].
    """
    hue = rng.random() + rng.choice([0, 0.08, 0.33, 0.5], count) + rng.normal(0, 0.03, count)
    saturation = np.where(rng.random(count) < 0.25, rng.random(count) * 0.2, rng.random(count))
    saturation = np.where(rng.random(count) < 0.4, 0.6 + 0.4 * saturation, saturation)
    saturation *= rng.choice([1.0, rng.uniform(0.3, 0.9)])
    value = rng.uniform(0.15, 1.0, count)
    value[: count // 2] = rng.uniform(0.6, 1.0, count // 2)
    wheel = (hue[:, None] * 6 + np.array([0, 4, 2])) % 6
    tint = np.clip(np.abs(wheel - 3) - 1, 0, 1)
    colours = value[:, None] * (1 - saturation[:, None] * (1 - tint))
    return rng.permutation(colours.astype(np.float32))


def random_rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    """A uniformly random rotation, float64 [3, 3]."""
    matrix, upper = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix = matrix * np.sign(np.diag(upper))
    if np.linalg.det(matrix) < 0:
        matrix[:, 0] = -matrix[:, 0]
    return np.asarray(matrix, np.float64)


def random_texture(
    rng: np.random.Generator,
    palette: Values,
    extent: float,
    textures: Sequence[Pixels] = (),
    photo_share: float = 0.4,
) -> Texture:
    """A random texture for one primitive.

    Args:
        rng: Source of randomness.
        palette: float32 [K, 3] in [0, 1], K >= 3.
        extent: Typical half side of the primitive in units of the object.
        textures: uint8 [H, W, 3]; pictures whose crops may cover the primitive.
        photo_share: Probability of such a crop where there are pictures.
    """
    if len(textures) and rng.random() < photo_share:
        base = _photo_layer(rng, textures)
    else:
        pattern = str(rng.choice(_BASES, p=[0.1, 0.07, 0.15, 0.1, 0.16, 0.14, 0.16, 0.12]))
        base = _layer(rng, pattern, palette, extent)
    layers = [base]
    wanted = 0.9 if base.pattern in ("plain", "gradient") else 0.35
    while len(layers) < 4 and rng.random() < wanted:
        layers.append(_layer(rng, str(rng.choice(_OVERLAYS)), palette, extent))
        wanted *= 0.6
    strength = rng.choice([0.02, 0.06, 0.12])
    grain = np.clip(rng.normal(0, strength, (LATTICE,) * 3), -0.4, 0.4)
    gloss = rng.choice([0.0, rng.uniform(0.1, 0.5)])
    return Texture(
        tuple(layers), grain.astype(np.float32), float(rng.uniform(10, 30)), float(gloss)
    )


def recoloured(rng: np.random.Generator, texture: Texture, palette: Values) -> Texture:
    """The same patterns in the colours of another palette; photographs get their channels mixed.

    Args:
        rng: Source of randomness.
        texture: Stays as it is.
        palette: float32 [K, 3] in [0, 1].
    """
    table: dict[tuple[float, ...], Values] = {}
    layers = []
    for layer in texture.layers:
        for colour in map(tuple, layer.colours.tolist()):
            # One new colour per old one: what was equal before stays equal.
            table.setdefault(colour, palette[len(table) % len(palette)])
        colours = np.array([table[tuple(colour)] for colour in layer.colours.tolist()], np.float32)
        order = np.roll(np.eye(3, dtype=np.float32), int(rng.integers(1, 3)), axis=0)
        tint = rng.uniform(0.55, 1.3, 3).astype(np.float32)
        layers.append(replace(layer, colours=colours, mixing=layer.mixing @ (order * tint)))
    return replace(texture, layers=tuple(layers))


def shrunk_crop(rng: np.random.Generator, picture: Pixels, side: int) -> Pixels:
    """A random square of a picture, shrunk by whole factors to about ``side`` pixels or less.

    Args:
        rng: Source of randomness.
        picture: uint8 [H, W, 3].
        side: Largest side of the crop.
    """
    height, width = picture.shape[:2]
    largest = max(1, min(height, width) // side)
    factor = int(rng.integers(max(1, largest // 3), largest + 1))
    length = min(side, height, width)
    top = rng.integers(height - length * factor + 1)
    left = rng.integers(width - length * factor + 1)
    crop = picture[top : top + length * factor, left : left + length * factor]
    if factor == 1:
        return crop.copy()
    rows = np.add.reduce(crop.reshape(length, factor, -1), axis=1, dtype=np.uint32)
    total = rows.reshape(length, length, factor, 3).sum(axis=2)
    return np.asarray((total + factor**2 // 2) // factor**2, np.uint8)


def _photo_layer(rng: np.random.Generator, textures: Sequence[Pixels]) -> Layer:
    crop = shrunk_crop(rng, textures[int(rng.integers(len(textures)))], _PHOTO_SIDE)
    frequency = len(crop) / rng.uniform(1.0, 2.2)
    upright = np.diag([1.0, 1.0, -1.0])  # rows of a picture run down, z runs up
    matrix = random_rotation(rng) * frequency if rng.random() < 0.3 else upright * frequency
    return Layer(
        "photo",
        matrix.astype(np.float32),
        rng.uniform(0, 2 * len(crop), 3).astype(np.float32),
        np.zeros((0, 3), np.float32),
        (crop / np.float32(255)).astype(np.float32),
        np.eye(3, dtype=np.float32),
    )


def _layer(rng: np.random.Generator, pattern: str, palette: Values, extent: float) -> Layer:
    """A layer of one pattern with random parameters."""
    frequency = rng.uniform(0.6, 2.0) / extent
    offset = rng.uniform(0, 1, 3)
    colours = palette[rng.permutation(len(palette))[: rng.integers(2, 5)]]
    table: NDArray[np.floating] = np.zeros(0)
    if pattern == "plain":
        colours = colours[:1]
    elif pattern in ("gradient", "band"):
        frequency, offset = rng.uniform(0.4, 0.7) / extent, rng.uniform(-0.3, 0.3, 3)
        table = rng.uniform(0.08, 0.3, 1)
    elif pattern == "stripes":
        colours = colours[rng.integers(len(colours), size=rng.integers(3, 8))]
        colours[:2] = palette[:2]
        table = np.array([rng.choice([0.0, rng.uniform(0.05, 0.3)]), rng.uniform(1, 4)])
    elif pattern == "cells":
        frequency, offset = 1 / extent, offset * 0
        table = rng.uniform(-1.3, 1.3, (int(rng.integers(10, 40)), 3))
        colours = colours[rng.integers(len(colours), size=len(table))]
        colours = np.clip(colours * rng.uniform(0.7, 1.2, (len(table), 1)), 0, 1)
    elif pattern in ("clouds", "camouflage"):
        table = np.concatenate([rng.normal(0, 2.2, (10, 3)), rng.uniform(0, 6.3, (10, 1))], axis=1)
    elif pattern in ("rings", "checker", "dots"):
        table = rng.random((LATTICE,) * 3)
    elif pattern == "spots":
        frequency, offset = 1 / extent, offset * 0
        count = int(rng.integers(2, 8))
        sites = rng.normal(size=(count, 3))
        sites /= np.linalg.norm(sites, axis=1, keepdims=True)
        table = np.concatenate([sites * 0.95, rng.uniform(0.2, 0.55, (count, 1))], axis=1)
    elif pattern == "glyphs":
        frequency = GLYPH_SIDE / extent / rng.uniform(0.9, 2.0)
        table = _glyph(rng)
    rotation = random_rotation(rng) if rng.random() < 0.6 else np.eye(3)[rng.permutation(3)]
    return Layer(
        pattern,
        (rotation * frequency).astype(np.float32),
        offset.astype(np.float32),
        colours.astype(np.float32),
        table.astype(np.float32),
        np.eye(3, dtype=np.float32),
    )


def _glyph(rng: np.random.Generator) -> Values:
    """A few thick strokes and arcs, like a letter; float32 [64, 64] of 0 and 1."""
    y, x = np.mgrid[0:GLYPH_SIDE, 0:GLYPH_SIDE] / GLYPH_SIDE
    ink = np.zeros(x.shape, bool)
    for _ in range(int(rng.integers(2, 5))):
        thick = rng.uniform(0.03, 0.08)
        (ax, ay), (bx, by) = rng.uniform(0.15, 0.85, (2, 2))
        if rng.random() < 0.35:
            ring = np.hypot(x - ax, y - ay) - rng.uniform(0.1, 0.25)
            ink |= (np.abs(ring) < thick) & ((x - ax) * (bx - ax) + (y - ay) * (by - ay) < 0.05)
            continue
        length = (bx - ax) ** 2 + (by - ay) ** 2 + 1e-6
        along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length, 0, 1)
        ink |= np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)) < thick
    return ink.astype(np.float32)
