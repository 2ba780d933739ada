"""Random procedural subjects: two to six connected primitives, like toys, vases or boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from recipes.tiny.rendering import Floats, Primitive, ProceduralSubject, Solid
from recipes.tiny.textures import Texture, random_palette, random_rotation, random_texture
from vsm_fast.lab.pairs.pairs import Pixels

Arrangement = list[tuple[Solid, int]]  # solid and group: solids of a group may share a texture

MOST_PARTS = 6


def make_subject(rng: np.random.Generator, textures: Sequence[Pixels] = ()) -> ProceduralSubject:
    """Draw a subject.

    Args:
        rng: Source of all randomness.
        textures: Pictures for the textures of some primitives, uint8 [H, W, 3].
    """
    solids, groups = random_arrangement(rng)
    palette = random_palette(rng)
    photo_share = rng.choice([0.15, 0.5, 0.85])
    shared = rng.random() < 0.6
    texture_of: dict[int, Texture] = {}
    primitives = []
    for solid, group in zip(solids, groups, strict=True):
        if not (shared and group in texture_of):
            extent = float(solid.scale.mean())
            texture_of[group] = random_texture(rng, palette, extent, textures, photo_share)
        primitives.append(Primitive(solid, texture_of[group]))
    return ProceduralSubject(tuple(primitives))


def random_arrangement(rng: np.random.Generator) -> tuple[tuple[Solid, ...], tuple[int, ...]]:
    """Draw two to six connected primitives inside the unit ball around the origin.

    Args:
        rng: Source of randomness.

    Returns:
        The primitives, and a group per primitive: a pair of limbs is one group.
    """
    plans = (_animal, _animal, _turned, _vehicle, _package, _heap)
    parts = plans[int(rng.integers(len(plans)))](rng)[:MOST_PARTS]
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 5)] * 3), axis=-1).reshape(-1, 3)
    directions = grid[np.abs(grid).max(axis=1) == 1]
    # These points enclose each solid up to a few percent.
    outline = np.concatenate(
        [
            solid.corners() if solid.shape in ("box", "frustum") else solid.surface(directions)
            for solid, _ in parts
        ]
    )
    middle = (outline.min(axis=0) + outline.max(axis=0)) / 2
    radius = np.linalg.norm(outline - middle, axis=1).max()
    solids = tuple(
        replace(solid, centre=(solid.centre - middle) / radius, scale=solid.scale / radius)
        for solid, _ in parts
    )
    return solids, tuple(group for _, group in parts)


def _solid(
    rng: np.random.Generator, centre: Floats, scale: Floats, axes: Floats | None = None
) -> Solid:
    """Draw a solid of a random shape."""
    shape = str(rng.choice(["ellipsoid", "box", "soft box", "frustum"], p=[0.4, 0.15, 0.2, 0.25]))
    radii = (1.0, 1.0)
    if shape == "frustum":
        ends = [1.0, float(rng.choice([0.0, 1.0, rng.uniform(0.3, 0.9)]))]
        radii = (ends[0], ends[1]) if rng.random() < 0.7 else (ends[1], ends[0])
    return Solid(shape, centre, np.eye(3) if axes is None else axes, scale, radii)


def _tilted(rng: np.random.Generator, degrees: float) -> Floats:
    """Draw a rotation around a random axis by at most some degrees."""
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    angle = np.deg2rad(rng.uniform(-degrees, degrees))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def _mirrored(solid: Solid) -> Solid:
    """Reflect a solid at the plane y = 0; every shape is symmetric in its own y."""
    flip = np.diag([1.0, -1.0, 1.0])
    return replace(solid, centre=flip @ solid.centre, axes=flip @ solid.axes @ flip)


def _animal(rng: np.random.Generator) -> Arrangement:
    """Draw a body, a head, and one or two pairs of ears, arms or legs."""
    girth = rng.uniform(0.45, 0.7)
    body = _solid(rng, np.zeros(3), np.array([girth, girth * rng.uniform(0.8, 1.1), 0.7]))
    size = rng.uniform(0.35, 0.55)
    place = np.array([rng.uniform(-0.1, 0.35), 0, 0.6 + size * 0.7])
    head = replace(
        _solid(rng, place, size * rng.uniform(0.8, 1.2, 3), _tilted(rng, 15)),
        shape=str(rng.choice(["ellipsoid", "ellipsoid", "soft box"])),
    )
    parts = [(body, 0), (head, int(rng.integers(2)))]
    kinds = rng.permutation(["ears", "arms", "legs"])[: rng.integers(1, 3)]
    for group, kind in enumerate(kinds, start=2):
        if kind == "ears":
            spread, lift = rng.uniform(0.5, 0.9), rng.uniform(0.6, 0.9)
            centre = place + size * np.array([0, spread, lift])
            scale = size * np.array([0.25, rng.uniform(0.25, 0.5), rng.uniform(0.3, 0.9)])
        elif kind == "arms":
            centre = np.array([rng.uniform(0, 0.3), girth * 1.05, rng.uniform(0, 0.4)])
            scale = np.array([0.2, 0.2, rng.uniform(0.3, 0.55)])
        else:
            centre = np.array([rng.uniform(0, 0.5), girth * 0.6, -0.75])
            scale = np.array([rng.uniform(0.25, 0.45), 0.24, rng.uniform(0.2, 0.4)])
        limb = _solid(rng, centre, scale, _tilted(rng, 50))
        parts += [(limb, group), (_mirrored(limb), group)]
    return parts


def _turned(rng: np.random.Generator) -> Arrangement:
    """Draw pieces on one axis with matching radii: vases, bottles, candles, towers."""
    count = int(rng.integers(2, 6))
    edge, bottom = rng.uniform(0.25, 0.6), 0.0
    parts: Arrangement = []
    for group in range(count):
        height, end = rng.uniform(0.12, 0.6), rng.uniform(0.15, 0.7)
        widest = max(edge, end)
        centre = np.array([0, 0, bottom + height])
        scale = np.array([widest, widest, height])
        if rng.random() < 0.3:
            ball = rng.uniform(0.9, 1.3) * max(height, edge)
            parts.append((Solid("ellipsoid", centre, np.eye(3), np.full(3, ball)), group))
            bottom += 1.5 * height
        else:
            radii = (edge / widest, end / widest)
            parts.append((Solid("frustum", centre, np.eye(3), scale, radii), group))
            bottom += 2 * height * 0.999  # a sliver of overlap keeps the pieces connected
        edge = end if rng.random() < 0.7 else rng.uniform(0.15, 0.7)
    if len(parts) < MOST_PARTS and rng.random() < 0.4:
        solid = parts[int(rng.integers(len(parts)))][0]
        centre = solid.centre + np.array([0, solid.scale[0] * 0.9, 0])
        parts.append((_solid(rng, centre, rng.uniform(0.12, 0.3, 3), _tilted(rng, 40)), count))
    return parts


def _vehicle(rng: np.random.Generator) -> Arrangement:
    """Draw a long body with a cabin, on wheels or feet."""
    length, width, height = rng.uniform(0.7, 1.0), rng.uniform(0.35, 0.5), rng.uniform(0.2, 0.35)
    shapes = ["box", "soft box", "ellipsoid"]
    body = Solid(str(rng.choice(shapes)), np.zeros(3), np.eye(3), np.array([length, width, height]))
    top = rng.uniform(0.2, 0.4)
    cabin = _solid(
        rng,
        np.array([rng.uniform(-0.4, 0.4), 0, height + 0.7 * top]),
        np.array([rng.uniform(0.25, 0.5), width * rng.uniform(0.5, 0.95), top]),
    )
    parts = [(body, 0), (cabin, 1)]
    radius = rng.uniform(0.18, 0.32)
    for along in (-0.6, 0.6):
        centre = np.array([along * length, width * 0.9, -height * 0.9])
        lying = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
        wheel = Solid("frustum", centre, lying, np.array([radius, radius, rng.uniform(0.06, 0.14)]))
        parts += [(wheel, 2), (_mirrored(wheel), 2)]
    return parts


def _package(rng: np.random.Generator) -> Arrangement:
    """Draw one large piece with one to three small ones: cans, boxes, mugs, lamps."""
    scale = rng.uniform(0.35, 0.9, 3)
    scale[1] = scale[0] if rng.random() < 0.5 else scale[1]
    body = _solid(rng, np.zeros(3), scale)
    parts = [(body, 0)]
    for group in range(1, int(rng.integers(2, 5))):
        towards = rng.normal(size=3)
        centre = body.surface(towards[None])[0]
        small = rng.uniform(0.12, 0.35, 3)
        parts.append((_solid(rng, centre, small, _tilted(rng, 180)), group))
    return parts


def _heap(rng: np.random.Generator) -> Arrangement:
    """Draw pieces that each grow out of the surface of an earlier one."""
    parts = [(_solid(rng, np.zeros(3), rng.uniform(0.35, 0.7, 3), random_rotation(rng)), 0)]
    for group in range(1, int(rng.integers(2, MOST_PARTS + 1))):
        parent = parts[int(rng.integers(len(parts)))][0]
        foot = parent.surface(rng.normal(size=(1, 3)))[0]
        outward = foot - parent.centre
        outward /= np.linalg.norm(outward)
        scale = rng.uniform(0.2, 0.6, 3)
        centre = foot + outward * scale.min() * rng.uniform(0.2, 0.7)
        parts.append((_solid(rng, centre, scale, random_rotation(rng)), group))
    return parts
