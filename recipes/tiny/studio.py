"""Light and background of a rendering: what two photographs of one subject differ by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipes.tiny.random_textures import random_palette, shrunk_crop
from recipes.tiny.solid_textures import lattice_noise

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Values = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Light:
    """Light and background of one photograph.

    Attributes:
        direction: float64 [3], unit length, towards the light; right, down, forward of the camera.
        ambient: Light from everywhere, in [0, 1].
        colour: float64 [3], colour of the directed light.
        seed: Seed of the background.
    """

    direction: Floats
    ambient: float
    colour: Floats
    seed: int


def sample_light(rng: np.random.Generator) -> Light:
    """A random light from the side of the camera."""
    direction = np.array([rng.uniform(-1, 1), rng.uniform(-1.2, 0.3), -rng.uniform(0.4, 1.2)])
    return Light(
        direction=direction / np.linalg.norm(direction),
        ambient=float(rng.uniform(0.3, 0.65)),
        colour=rng.uniform(0.55, 0.85) * (1 + rng.uniform(-0.07, 0.07, 3)),
        seed=int(rng.integers(2**32)),
    )


def backdrop(rng: np.random.Generator, size: int, picture: Pixels | None = None) -> Values:
    """A random crop of a picture, or smooth noise in two colours.

    Args:
        rng: Source of randomness.
        size: Side in pixels.
        picture: uint8 [H, W, 3]; None = noise.

    Returns:
        float32 [size, size, 3] in [0, 1].
    """
    if picture is not None:
        crop = shrunk_crop(rng, picture, size).astype(np.float32) / 255
        index = np.minimum((np.arange(size) + 0.5) * len(crop) / size, len(crop) - 1)
        nearest = index.astype(np.int64)
        return np.asarray(crop[nearest[:, None], nearest])
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    table = rng.random((16, 16, 16)).astype(np.float32)
    spots = np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3)
    share: Values = np.zeros(size * size, np.float32)
    for octave, weight in enumerate(rng.dirichlet([1, 1, 1])):
        cells = np.float32(float(rng.uniform(1, 3)) * 3.0**octave)
        share += np.float32(weight) * lattice_noise(table, spots * cells)
    slope = (spots[:, :2] - 0.5) @ rng.normal(0, 0.5, 2).astype(np.float32)
    blend = np.clip(share + slope, 0, 1)[:, None]
    first, second = random_palette(rng, 2)
    mixed = first + blend * (second - first)
    return np.asarray(mixed.reshape(size, size, 3), np.float32)
