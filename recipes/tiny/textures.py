"""Random palettes and solid textures (functions of the position in space) of subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vsm_fast.lab.pairs.pairs import Mask, Pixels

Values = NDArray[np.float32]

LATTICE = 16  # cells per side of a periodic table of random numbers
_GLYPH_SIDE = 64  # pixels of a glyph
_PHOTO_SIDE = 192  # pixels of a crop, about the size of a subject in 256 pixels
_BASES = ("plain", "gradient", "stripes", "checker", "cells", "clouds", "camouflage", "rings")
_OVERLAYS = ("dots", "spots", "glyphs", "band")


@dataclass(frozen=True, eq=False)
class Layer:
    """One pattern in its own coordinates ``position @ matrix + offset``.

    Attributes:
        pattern: ``"photo"``, a base pattern or an overlay; it determines the use of ``table``.
        matrix: float32 [3, 3], rotation times frequency.
        offset: float32 [3].
        colours: float32 [K, 3] in [0, 1].
        table: Random numbers, sites, a bitmap or a picture, float32.
        mixing: float32 [3, 3], applied to the colours of a photograph.
    """

    pattern: str
    matrix: Values
    offset: Values
    colours: Values
    table: Values
    mixing: Values


@dataclass(frozen=True, eq=False)
class Texture:
    """A base layer, overlays and a grain.

    Attributes:
        layers: The base first.
        grain: float32 [16, 16, 16], zero-mean noise that scales the brightness.
        grain_frequency: Cells of the grain per unit of length.
        gloss: Strength of the highlight, in [0, 1].
    """

    layers: tuple[Layer, ...]
    grain: Values
    grain_frequency: float
    gloss: float

    def colours(self, positions: Values, normals: Values) -> Values:
        """Evaluate the colour at surface points.

        Args:
            positions: float32 [N, 3] in the frame of the primitive, in units of the object.
            normals: float32 [N, 3] in the same frame; they select the side of a photograph.

        Returns:
            float32 [N, 3] in [0, 1].
        """
        result = np.empty_like(positions)
        for layer in self.layers:
            place = positions @ layer.matrix + layer.offset
            if layer.pattern == "photo":
                rotation = np.asarray(layer.matrix / np.linalg.norm(layer.matrix[:, 0]), np.float32)
                result[:] = _project_photo(layer, place, normals @ rotation)
                continue
            colour, covered = _evaluate(layer, place)
            result[slice(None) if covered is None else covered] = colour
        noise = lattice_noise(self.grain, positions * np.float32(self.grain_frequency))
        result *= 1 + noise[:, None]
        return np.clip(result, 0, 1, out=result)


def lattice_noise(table: Values, positions: Values) -> Values:
    """Interpolate a periodic table trilinearly.

    Args:
        table: float32 [16, 16, 16].
        positions: float32 [N, 3] in cells.

    Returns:
        float32 [N].
    """
    floor = np.floor(positions)
    x, y, z = (positions - floor).T
    cell = floor.astype(np.int32)
    lower, upper = cell % LATTICE, (cell + 1) % LATTICE
    ix = lower[:, 0] * LATTICE**2, upper[:, 0] * LATTICE**2
    iy = lower[:, 1] * LATTICE, upper[:, 1] * LATTICE
    flat = table.ravel()
    planes = []
    for iz in (lower[:, 2], upper[:, 2]):
        rows = []
        for j in iy:
            a, b = flat[ix[0] + j + iz], flat[ix[1] + j + iz]
            rows.append(a + x * (b - a))
        planes.append(rows[0] + y * (rows[1] - rows[0]))
    return np.asarray(planes[0] + z * (planes[1] - planes[0]), np.float32)


def _evaluate(layer: Layer, place: Values) -> tuple[Values, Mask | None]:
    """Return the colours of a pattern, and the covered points for an overlay."""
    colours, table = layer.colours, layer.table

    def smooth(share: Values) -> Values:
        """Interpolate the colours at ``share`` in [0, 1]."""
        position = np.clip(share, 0, 1) * np.float32(len(colours) - 1)
        index = np.minimum(position.astype(np.int32), max(0, len(colours) - 2))
        upper = np.minimum(index + 1, len(colours) - 1)
        mixed = colours[index] + (position - index)[:, None] * (colours[upper] - colours[index])
        return np.asarray(mixed, np.float32)

    def hard(share: Values) -> Values:
        """Select one colour per equal interval of ``share`` in [0, 1)."""
        return colours[(share * len(colours)).astype(np.int32) % len(colours)]

    def hashed(position: Values) -> tuple[Values, Values]:
        """Return a random number in [0, 1) per unit cell, and the offset from its centre."""
        floor = np.floor(position)
        cell = floor.astype(np.int32) & (LATTICE - 1)
        number = table.ravel()[(cell[:, 0] * LATTICE + cell[:, 1]) * LATTICE + cell[:, 2]]
        return number, position - floor - np.float32(0.5)

    match layer.pattern:
        case "plain":
            return np.broadcast_to(colours[0], place.shape), None
        case "gradient":
            return smooth(place[:, 0] + np.float32(0.5)), None
        case "stripes":
            bend, wave = table
            share = place[:, 0] + bend * np.sin(place[:, 1] * wave)
            return hard(share - np.floor(share)), None
        case "checker":
            if len(colours) > 2:
                return hard(hashed(place)[0]), None
            return colours[np.floor(place).astype(np.int32).sum(axis=1) & 1], None
        case "cells":
            # |p - s|^2 without |p|^2, which is the same for all sites.
            distance = place @ (-2 * table.T) + (table**2).sum(axis=1)
            return colours[distance.argmin(axis=1)], None
        case "clouds" | "camouflage":
            phases = place @ table[:, :3].T + table[:, 3]
            wave = np.cos(phases).sum(axis=1) * np.float32(0.13) + np.float32(0.5)
            share = np.asarray(wave, np.float32)
            if layer.pattern == "clouds":
                return smooth(share), None
            return hard(np.clip(share, 0, 0.999)), None
        case "rings":
            share = np.hypot(place[:, 0], place[:, 1]) * 2 + lattice_noise(table, place * 2)
            share -= np.floor(share)
            return smooth(np.abs(2 * share - 1)), None
        case "dots":
            number, inner = hashed(place * np.float32(1.6))
            covered = np.einsum("ij,ij->i", inner, inner) < (0.25 + 0.2 * number) ** 2
            return hard(number[covered] * 7 % 1), covered
        case "spots":
            distance = np.full(len(place), np.inf, np.float32)
            for *site, radius in table:
                apart = place - np.array(site, np.float32)
                length = np.sqrt(np.einsum("ij,ij->i", apart, apart))
                distance = np.minimum(distance, length / radius)
            covered = distance < 1
            return hard(distance[covered] * np.float32(0.999)), covered
        case "glyphs":
            column, row = np.floor(place[:, :2] / _GLYPH_SIDE).astype(np.int32).T
            x, y = np.floor(place[:, :2]).astype(np.int32).T & (_GLYPH_SIDE - 1)
            covered = (table[y, x] > 0) & (place[:, 2] > 0)
            return colours[(column + row)[covered] % len(colours)], covered
        case "band":
            covered = np.abs(place[:, 0]) < table[0]
            return np.broadcast_to(colours[0], (int(covered.sum()), 3)), covered
    raise ValueError(f"unknown pattern {layer.pattern!r}.")


def _project_photo(layer: Layer, place: Values, normals: Values) -> Values:
    """Project along three axes, weighted by the normal; the crop is mirrored at its edges."""
    side = len(layer.table)
    index = np.floor(place).astype(np.int32) % (2 * side)
    index = np.where(index < side, index, 2 * side - 1 - index)
    weights = normals**2
    weights = weights * weights
    weights *= weights
    weights /= (weights[:, 0] + weights[:, 1] + weights[:, 2])[:, None]
    flat = layer.table.reshape(-1, 3)
    result = np.zeros_like(place)
    for axis, (row, column) in enumerate(((2, 1), (2, 0), (1, 0))):
        used = weights[:, axis] > 0.01
        picked = flat[index[used, row] * side + index[used, column]]
        result[used] += weights[used, axis, None] * picked
    return result @ layer.mixing


def random_palette(rng: np.random.Generator, count: int = 6) -> Values:
    """Draw matching colours: neighbouring or opposite hues and neutral ones.

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
    """Draw a uniform random rotation, float64 [3, 3]."""
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
    """Draw a texture for one primitive.

    Args:
        rng: Source of randomness.
        palette: float32 [K, 3] in [0, 1], K >= 3.
        extent: Typical half side of the primitive in units of the object.
        textures: Pictures for photographic textures, uint8 [H, W, 3].
        photo_share: Probability of a photographic texture if there are pictures.
    """
    if len(textures) and rng.random() < photo_share:
        crop = shrunk_crop(rng, textures[int(rng.integers(len(textures)))], _PHOTO_SIDE)
        frequency = len(crop) / rng.uniform(1.0, 2.2)
        upright = np.diag([1.0, 1.0, -1.0])  # image rows run down, z runs up
        matrix = random_rotation(rng) * frequency if rng.random() < 0.3 else upright * frequency
        base = Layer(
            "photo",
            matrix.astype(np.float32),
            rng.uniform(0, 2 * len(crop), 3).astype(np.float32),
            np.zeros((0, 3), np.float32),
            (crop / np.float32(255)).astype(np.float32),
            np.eye(3, dtype=np.float32),
        )
    else:
        pattern = str(rng.choice(_BASES, p=[0.1, 0.07, 0.15, 0.1, 0.16, 0.14, 0.16, 0.12]))
        base = _random_layer(rng, pattern, palette, extent)
    layers = [base]
    probability = 0.9 if base.pattern in ("plain", "gradient") else 0.35
    while len(layers) < 4 and rng.random() < probability:
        layers.append(_random_layer(rng, str(rng.choice(_OVERLAYS)), palette, extent))
        probability *= 0.6
    strength = rng.choice([0.02, 0.06, 0.12])
    grain = np.clip(rng.normal(0, strength, (LATTICE,) * 3), -0.4, 0.4).astype(np.float32)
    gloss = rng.choice([0.0, rng.uniform(0.1, 0.5)])
    return Texture(tuple(layers), grain, float(rng.uniform(10, 30)), float(gloss))


def recoloured(rng: np.random.Generator, texture: Texture, palette: Values) -> Texture:
    """Change the colours to another palette, keep the patterns; mix the channels of photographs."""
    table: dict[tuple[float, ...], Values] = {}
    layers = []
    for layer in texture.layers:
        for colour in map(tuple, layer.colours.tolist()):
            # One new colour per old one: equal colours stay equal.
            table.setdefault(colour, palette[len(table) % len(palette)])
        colours = np.array([table[tuple(colour)] for colour in layer.colours.tolist()], np.float32)
        order = np.roll(np.eye(3, dtype=np.float32), int(rng.integers(1, 3)), axis=0)
        tint = rng.uniform(0.55, 1.3, 3).astype(np.float32)
        layers.append(replace(layer, colours=colours, mixing=layer.mixing @ (order * tint)))
    return replace(texture, layers=tuple(layers))


def shrunk_crop(rng: np.random.Generator, picture: Pixels, side: int) -> Pixels:
    """Crop a random square, shrunk by a whole factor to at most ``side`` pixels."""
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


def _random_layer(rng: np.random.Generator, pattern: str, palette: Values, extent: float) -> Layer:
    """Draw the parameters of one pattern."""
    frequency = rng.uniform(0.6, 2.0) / extent
    offset = rng.uniform(0, 1, 3)
    colours = palette[rng.permutation(len(palette))[: rng.integers(2, 5)]]
    table: NDArray[np.floating] = np.zeros(0)
    match pattern:
        case "plain":
            colours = colours[:1]
        case "gradient" | "band":
            frequency, offset = rng.uniform(0.4, 0.7) / extent, rng.uniform(-0.3, 0.3, 3)
            table = rng.uniform(0.08, 0.3, 1)
        case "stripes":
            colours = colours[rng.integers(len(colours), size=rng.integers(3, 8))]
            colours[:2] = palette[:2]
            table = np.array([rng.choice([0.0, rng.uniform(0.05, 0.3)]), rng.uniform(1, 4)])
        case "cells":
            frequency, offset = 1 / extent, offset * 0
            table = rng.uniform(-1.3, 1.3, (int(rng.integers(10, 40)), 3))
            colours = colours[rng.integers(len(colours), size=len(table))]
            colours = np.clip(colours * rng.uniform(0.7, 1.2, (len(table), 1)), 0, 1)
        case "clouds" | "camouflage":
            waves = rng.normal(0, 2.2, (10, 3))
            table = np.concatenate([waves, rng.uniform(0, 6.3, (10, 1))], axis=1)
        case "rings" | "checker" | "dots":
            table = rng.random((LATTICE,) * 3)
        case "spots":
            frequency, offset = 1 / extent, offset * 0
            count = int(rng.integers(2, 8))
            sites = rng.normal(size=(count, 3))
            sites /= np.linalg.norm(sites, axis=1, keepdims=True)
            table = np.concatenate([sites * 0.95, rng.uniform(0.2, 0.55, (count, 1))], axis=1)
        case "glyphs":
            frequency = _GLYPH_SIDE / extent / rng.uniform(0.9, 2.0)
            table = _random_glyph(rng)
    rotation = random_rotation(rng) if rng.random() < 0.6 else np.eye(3)[rng.permutation(3)]
    return Layer(
        pattern,
        (rotation * frequency).astype(np.float32),
        offset.astype(np.float32),
        colours.astype(np.float32),
        table.astype(np.float32),
        np.eye(3, dtype=np.float32),
    )


def _random_glyph(rng: np.random.Generator) -> Values:
    """Draw a few thick strokes and arcs, like a letter; float32 [64, 64] of 0 and 1."""
    y, x = np.mgrid[0:_GLYPH_SIDE, 0:_GLYPH_SIDE] / _GLYPH_SIDE
    ink = np.zeros(x.shape, bool)
    for _ in range(int(rng.integers(2, 5))):
        thick = rng.uniform(0.03, 0.08)
        (ax, ay), (bx, by) = rng.uniform(0.15, 0.85, (2, 2))
        projection = (x - ax) * (bx - ax) + (y - ay) * (by - ay)
        if rng.random() < 0.35:
            ring = np.hypot(x - ax, y - ay) - rng.uniform(0.1, 0.25)
            ink |= (np.abs(ring) < thick) & (projection < 0.05)
        else:
            along = np.clip(projection / ((bx - ax) ** 2 + (by - ay) ** 2 + 1e-6), 0, 1)
            ink |= np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)) < thick
    return ink.astype(np.float32)
