"""Textures that are functions of the position in space, for procedural subjects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]

GLYPH_SIDE = 64  # pixels of a glyph
LATTICE = 16  # cells per side of a periodic table of random numbers


@dataclass(frozen=True, eq=False)
class Layer:
    """One pattern in its own coordinates ``position @ matrix + offset``.

    Attributes:
        pattern: A key of ``PATTERNS``, or ``"photo"``; it says what ``table`` holds.
        matrix: float32 [3, 3], rotation times frequency.
        offset: float32 [3].
        colours: float32 [K, 3] in [0, 1].
        table: Random numbers, sites, a bitmap or a picture, as the pattern needs.
        mixing: float32 [3, 3], applied to the colours of a photograph.
    """

    pattern: str
    matrix: Values
    offset: Values
    colours: Values
    table: NDArray[np.float32]
    mixing: Values


@dataclass(frozen=True, eq=False)
class Texture:
    """A base layer, layers that cover parts of it, and a grain.

    Attributes:
        layers: The base first.
        grain: float32 [16, 16, 16], noise around 0 that scales the brightness.
        grain_frequency: Cells of the grain per unit of length.
        gloss: Strength of the highlight, in [0, 1].
    """

    layers: tuple[Layer, ...]
    grain: Values
    grain_frequency: float
    gloss: float

    def colours(self, positions: Values, normals: Values) -> Values:
        """The colour at points of the surface.

        Args:
            positions: float32 [N, 3] in the frame of the primitive, in units of the object.
            normals: float32 [N, 3] in the same frame; they pick the side of a photograph.

        Returns:
            float32 [N, 3] in [0, 1].
        """
        result = np.empty_like(positions)
        for layer in self.layers:
            place = positions @ layer.matrix + layer.offset
            if layer.pattern == "photo":
                result[:] = _photo(layer, place, normals @ _rotation_of(layer.matrix))
                continue
            colour, covered = PATTERNS[layer.pattern](layer, place)
            if covered is None:
                result[:] = colour
            else:
                result[covered] = colour
        noise = lattice_noise(self.grain, positions * np.float32(self.grain_frequency))
        result *= 1 + noise[:, None]
        return np.clip(result, 0, 1, out=result)


def lattice_noise(table: Values, positions: Values) -> Values:
    """Trilinear interpolation of a periodic table.

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


def _rotation_of(matrix: Values) -> Values:
    return np.asarray(matrix / np.linalg.norm(matrix[:, 0]), np.float32)


Covered = tuple[Values, NDArray[np.bool_] | None]


def _smooth(colours: Values, share: Values) -> Values:
    """Colours interpolated at ``share`` in [0, 1]."""
    place = np.clip(share, 0, 1) * np.float32(len(colours) - 1)
    index = np.minimum(place.astype(np.int32), max(0, len(colours) - 2))
    upper = np.minimum(index + 1, len(colours) - 1)
    mixed = colours[index] + (place - index)[:, None] * (colours[upper] - colours[index])
    return np.asarray(mixed, np.float32)


def _hard(colours: Values, share: Values) -> Values:
    """One colour per equal stretch of ``share`` in [0, 1)."""
    return colours[(share * len(colours)).astype(np.int32) % len(colours)]


def _hashed(table: Values, place: Values) -> tuple[Values, Values]:
    """A random number in [0, 1) per unit cell, and the position from the cell's centre."""
    floor = np.floor(place)
    cell = floor.astype(np.int32) & (LATTICE - 1)
    number = table.ravel()[(cell[:, 0] * LATTICE + cell[:, 1]) * LATTICE + cell[:, 2]]
    return number, place - floor - np.float32(0.5)


def _plain(layer: Layer, place: Values) -> Covered:
    return np.broadcast_to(layer.colours[0], place.shape), None


def _gradient(layer: Layer, place: Values) -> Covered:
    return _smooth(layer.colours, place[:, 0] + np.float32(0.5)), None


def _stripes(layer: Layer, place: Values) -> Covered:
    bend, wave = layer.table
    share = place[:, 0] + bend * np.sin(place[:, 1] * wave)
    return _hard(layer.colours, share - np.floor(share)), None


def _checker(layer: Layer, place: Values) -> Covered:
    if len(layer.colours) > 2:
        return _hard(layer.colours, _hashed(layer.table, place)[0]), None
    parity = np.floor(place).astype(np.int32).sum(axis=1) & 1
    return layer.colours[parity], None


def _cells(layer: Layer, place: Values) -> Covered:
    # |p - s|^2 without |p|^2, which no site changes.
    distance = place @ (-2 * layer.table.T) + (layer.table**2).sum(axis=1)
    return layer.colours[distance.argmin(axis=1)], None


def _waves(layer: Layer, place: Values) -> Values:
    phases = place @ layer.table[:, :3].T + layer.table[:, 3]
    return np.asarray(np.cos(phases).sum(axis=1) * np.float32(0.13) + np.float32(0.5), np.float32)


def _clouds(layer: Layer, place: Values) -> Covered:
    return _smooth(layer.colours, _waves(layer, place)), None


def _camouflage(layer: Layer, place: Values) -> Covered:
    return _hard(layer.colours, np.clip(_waves(layer, place), 0, 0.999)), None


def _rings(layer: Layer, place: Values) -> Covered:
    bend = lattice_noise(layer.table, place * 2)
    share = np.hypot(place[:, 0], place[:, 1]) * 2 + bend
    share -= np.floor(share)
    return _smooth(layer.colours, np.abs(2 * share - 1)), None


def _dots(layer: Layer, place: Values) -> Covered:
    number, inner = _hashed(layer.table, place * np.float32(1.6))
    covered = np.einsum("ij,ij->i", inner, inner) < (0.25 + 0.2 * number) ** 2
    return _hard(layer.colours, number[covered] * 7 % 1), covered


def _spots(layer: Layer, place: Values) -> Covered:
    distance = np.full(len(place), np.inf, np.float32)
    for *site, radius in layer.table:
        apart = place - np.array(site, np.float32)
        distance = np.minimum(distance, np.sqrt(np.einsum("ij,ij->i", apart, apart)) / radius)
    covered = distance < 1
    return _hard(layer.colours, distance[covered] * np.float32(0.999)), covered


def _glyphs(layer: Layer, place: Values) -> Covered:
    column, row = (np.floor(place[:, :2] / GLYPH_SIDE).astype(np.int32)).T
    x, y = np.floor(place[:, :2]).astype(np.int32).T & (GLYPH_SIDE - 1)
    covered = (layer.table[y, x] > 0) & (place[:, 2] > 0)
    return layer.colours[(column + row)[covered] % len(layer.colours)], covered


def _band(layer: Layer, place: Values) -> Covered:
    covered = np.abs(place[:, 0]) < layer.table[0]
    return np.broadcast_to(layer.colours[0], (int(covered.sum()), 3)), covered


def _photo(layer: Layer, place: Values, normals: Values) -> Values:
    """Projections along three axes, mixed by the normal; the crop is mirrored beyond its edge."""
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


PATTERNS: dict[str, Callable[[Layer, Values], Covered]] = {
    "plain": _plain,
    "gradient": _gradient,
    "stripes": _stripes,
    "checker": _checker,
    "cells": _cells,
    "clouds": _clouds,
    "camouflage": _camouflage,
    "rings": _rings,
    "dots": _dots,
    "spots": _spots,
    "glyphs": _glyphs,
    "band": _band,
}
