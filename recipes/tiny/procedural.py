"""Procedural subjects: textured solids rendered from two views with exact correspondence.

Everything follows from the random generator passed in; no data beyond optional pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recipes.tiny.arrangements import random_arrangement
from recipes.tiny.random_textures import random_palette, random_texture, recoloured
from recipes.tiny.ray_casting import Camera, Hits, Solid, cast
from recipes.tiny.solid_textures import Texture
from recipes.tiny.studio import Light, backdrop, sample_light

__all__ = [
    "Alteration",
    "Camera",
    "Light",
    "Primitive",
    "Subject",
    "View",
    "alter_subject",
    "correspondence",
    "make_subject",
    "render",
    "sample_cameras",
    "sample_light",
]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Values = NDArray[np.float32]

# Sub-pixel positions of a rotated grid: it smooths level and upright edges better than a square.
_SAMPLES = np.array([[-0.375, -0.125], [0.125, -0.375], [0.375, 0.125], [-0.125, 0.375]])
_CLOSE = 2.5  # pixel widths between a point and what another view shows in its place
_PROBES = 400  # points of a primitive at which an alteration is judged
_TRIES = 16
_SEEN = 0.10  # change of a colour channel, in [0, 1], that counts as visible


@dataclass(frozen=True, eq=False)
class Alteration:
    """Another texture on a primitive or on a half of it.

    Attributes:
        texture: Replaces the texture of the primitive.
        normal: float64 [3] and
        level: altered are the points with ``point @ normal > level``, in the frame of the
            object; a level of -inf alters the whole primitive.
    """

    texture: Texture
    normal: Floats
    level: float

    def covers(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which of the points [N, 3] of the primitive are altered, bool [N]."""
        return np.asarray(points @ self.normal > self.level)


@dataclass(frozen=True, eq=False)
class Primitive:
    """A solid, its texture, and what ``alter_subject`` did to it, if anything."""

    solid: Solid
    texture: Texture
    alteration: Alteration | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """A subject inside the unit ball around the origin.

    Attributes:
        primitives: Two to six; ``View.part`` counts them in this order.
    """

    primitives: tuple[Primitive, ...]


@dataclass(frozen=True, eq=False)
class View:
    """A rendering of [H, W] pixels.

    Attributes:
        pixels: uint8 [H, W, 3].
        mask: bool [H, W], where the centre of a pixel shows the subject.
        points: float32 [H, W, 3], the point of the subject shown; NaN off it.
        part: int16 [H, W], position of the primitive shown; -1 off the subject.
        altered: bool [H, W], where any share of a pixel shows altered surface. Elsewhere the
            pixels equal those of the unaltered subject in the same light. At the outline it
            may reach one pixel beyond ``mask``.
    """

    pixels: Pixels
    mask: NDArray[np.bool_]
    points: Values
    part: NDArray[np.int16]
    altered: NDArray[np.bool_]


def make_subject(rng: np.random.Generator, textures: Sequence[Pixels] = ()) -> Subject:
    """A random subject.

    Args:
        rng: Source of all randomness.
        textures: uint8 [H, W, 3]; pictures whose crops cover some of the primitives.
    """
    solids, groups = random_arrangement(rng)
    palette = random_palette(rng)
    photo_share = rng.choice([0.15, 0.5, 0.85])
    shared = rng.random() < 0.6
    made: dict[int, Texture] = {}
    primitives = []
    for solid, group in zip(solids, groups, strict=True):
        if not (shared and group in made):
            extent = float(solid.scale.mean())
            made[group] = random_texture(rng, palette, extent, textures, photo_share)
        primitives.append(Primitive(solid, made[group]))
    return Subject(tuple(primitives))


def sample_cameras(
    rng: np.random.Generator,
    *,
    azimuth: float = 40.0,
    elevation: float = 20.0,
    roll: float = 20.0,
    zoom: tuple[float, float] = (0.8, 1.2),
    shift: float = 0.12,
) -> tuple[Camera, Camera]:
    """Two cameras that see a subject from somewhat different sides.

    Args:
        rng: Source of randomness.
        azimuth: Largest difference around the vertical axis in degrees.
        elevation: Largest difference of the height of the view in degrees.
        roll: Largest rotation of each picture in degrees.
        zoom: Range of the radius of the subject's unit ball, in half picture sides.
        shift: Largest displacement of the subject, in half picture sides.
    """
    around, height = rng.uniform(0, 360), rng.uniform(-10, 45)
    second = np.clip(height + rng.uniform(-elevation, elevation), -20, 65)

    def camera(turn: float, above: float) -> Camera:
        offset = rng.uniform(-shift, shift, 2)
        return Camera(
            azimuth=float(turn),
            elevation=float(above),
            roll=float(rng.uniform(-roll, roll)),
            distance=float(rng.uniform(3, 8)),
            zoom=float(rng.uniform(*zoom)),
            shift=(float(offset[0]), float(offset[1])),
        )

    return camera(around, height), camera(around + rng.uniform(-azimuth, azimuth), second)


def render(
    subject: Subject,
    camera: Camera,
    light: np.random.Generator | Light,
    size: int = 256,
    background: Pixels | None = None,
) -> View:
    """A picture of the subject with soft edges, and what each pixel of it shows.

    Args:
        subject: What to show.
        camera: From where.
        light: The light, or a generator to draw it from. The same light or a generator in the
            same state gives the same light and background, whatever the subject.
        size: Side of the picture in pixels.
        background: uint8 [H, W, 3], a picture of which a random crop is used; None = noise.
    """
    if isinstance(light, np.random.Generator):
        light = sample_light(light)
    solids = [primitive.solid for primitive in subject.primitives]
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).astype(np.float32)
    centres = cast(solids, camera, grid.reshape(-1, 2), size)
    mask = (centres.part >= 0).reshape(size, size)

    near = np.pad(mask, 1)
    near = near[:-2] | near[1:-1] | near[2:]
    near = near[:, :-2] | near[:, 1:-1] | near[:, 2:]
    rows, columns = np.nonzero(near)
    xy = (np.stack([columns, rows], axis=-1)[:, None] + _SAMPLES).reshape(-1, 2)
    hits = cast(solids, camera, xy, size)
    colours, changed = _shade(subject, camera, light, hits)

    canvas = backdrop(np.random.default_rng(light.seed), size, background)
    count = len(_SAMPLES)
    hit = (hits.part >= 0).reshape(-1, count, 1)
    behind = canvas[rows, columns][:, None]
    canvas[rows, columns] = np.where(hit, colours.reshape(-1, count, 3), behind).sum(axis=1) / count
    altered = np.zeros((size, size), bool)
    altered[rows, columns] = changed.reshape(-1, count).any(axis=1)
    altered.reshape(-1)[_changed(subject, centres)] = True
    return View(
        pixels=(np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8),
        mask=mask,
        points=centres.points.reshape(size, size, 3),
        part=centres.part.reshape(size, size),
        altered=altered,
    )


def correspondence(view_a: View, view_b: View, camera_b: Camera) -> Values:
    """Where the pixels of one view lie in another.

    A point counts as visible where view b shows the same primitive all around its position at
    its depth, or next to an outline, somewhere within 2.5 pixel widths of it.

    Args:
        view_a: The view whose pixels are looked up.
        view_b: A view of the same subject, textures aside.
        camera_b: The camera of view b.

    Returns:
        float32 [H, W, 2], (x, y) in pixels of view b; NaN off the subject and where it is
        hidden in view b or outside it.
    """
    size = view_b.mask.shape[0]
    flow = np.full((*view_a.mask.shape, 2), np.nan, np.float32)
    points, part = view_a.points[view_a.mask], view_a.part[view_a.mask]
    place, depth = camera_b.project(points, size)
    footprint = depth / (camera_b.focal * size / 2)
    inside = ((place >= 0) & (place <= size - 1)).all(axis=1)
    corner = np.clip(np.floor(place).astype(np.int64), 0, max(0, size - 2))
    right, down = (place - corner).T
    _, depth_b = camera_b.project(view_b.points, size)
    close, same = np.zeros(len(points), bool), np.ones(len(points), bool)
    # 1 / depth of a plane is linear in the picture: exact however flat the angle of the view.
    expected = np.zeros(len(points))
    for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
        pixel = corner[:, 1] + y, corner[:, 0] + x
        weight = (right if x else 1 - right) * (down if y else 1 - down)
        expected += weight / depth_b[pixel]
        alike = view_b.part[pixel] == part
        apart = np.linalg.norm(view_b.points[pixel] - points, axis=1)
        same &= alike
        close |= alike & (apart < _CLOSE * footprint)
    visible = np.where(same, np.abs(1 / expected - depth) < _CLOSE * footprint, close)
    flow[view_a.mask] = np.where((inside & visible)[:, None], place, np.nan)
    return flow


def alter_subject(
    subject: Subject,
    rng: np.random.Generator,
    textures: Sequence[Pixels] = (),
    view: View | None = None,
) -> tuple[Subject, frozenset[int]]:
    """The subject with some of its surface changed visibly; its shape stays.

    Altered is one primitive or several, each with another texture or other colours, or one
    half of one primitive. ``View.altered`` of a rendering says exactly where.

    Args:
        subject: Stays as it is.
        rng: Source of randomness.
        textures: uint8 [H, W, 3], pictures for new textures.
        view: A rendering in which the alteration is to be seen: only primitives that it shows
            are altered, and a half is cut where it shows both sides. None = any primitive.

    Returns:
        The altered subject and the positions of the altered primitives.
    """
    shown: NDArray[np.int64] = np.arange(len(subject.primitives))
    if view is not None and not view.mask.any():
        view = None
    if view is not None:
        # Slivers of primitives would make alterations that nobody can see.
        enough = 0.03 * view.mask.sum()
        pixels = np.bincount(view.part[view.mask], minlength=len(shown))
        shown = shown[pixels >= enough]
    most = max(1, (len(shown) + 1) // 2)
    count = 1 if rng.random() < 0.5 else int(rng.integers(1, most + 1))
    chosen = rng.choice(shown, size=count, replace=False)
    halved = count == 1 and rng.random() < 0.45
    primitives = list(subject.primitives)
    for index in map(int, chosen):
        seen = view.points[view.part == index].astype(np.float64) if view is not None else None
        primitives[index] = _altered(primitives[index], rng, textures, halved, seen)
    return Subject(tuple(primitives)), frozenset(map(int, chosen))


def _altered(
    primitive: Primitive,
    rng: np.random.Generator,
    textures: Sequence[Pixels],
    halved: bool,
    seen: Floats | None,
) -> Primitive:
    """The primitive with the most visible of some random alterations."""
    solid = primitive.solid
    probes = solid.surface(rng.normal(size=(_PROBES, 3)))
    normal, level = np.array([0.0, 0.0, 1.0]), -np.inf
    if halved:
        normal = rng.normal(size=3)
        normal /= np.linalg.norm(normal)
        along = (probes if seen is None else seen) @ normal
        level = float(np.quantile(along, rng.uniform(0.3, 0.7)))
    outward = (probes - solid.centre).astype(np.float32)
    outward /= np.linalg.norm(outward, axis=1)[:, None]
    single = probes.astype(np.float32)
    before = _local_colours(primitive.texture, solid, single, outward)
    best, share = primitive.texture, -1.0
    for _ in range(_TRIES):
        palette = random_palette(rng)
        if rng.random() < 0.4:
            texture = recoloured(rng, primitive.texture, palette)
        else:
            texture = random_texture(rng, palette, float(solid.scale.mean()), textures)
        # The same gloss: a highlight alone is no alteration.
        texture = replace(texture, gloss=primitive.texture.gloss)
        after = _local_colours(texture, solid, single, outward)
        visible = float((np.abs(after - before).max(axis=1) > _SEEN).mean())
        if visible > share:
            best, share = texture, visible
        if share > 0.97:
            break
    return replace(primitive, alteration=Alteration(best, normal, level))


def _local_colours(texture: Texture, solid: Solid, points: Values, normals: Values) -> Values:
    """Colours at points with normals, both float32 [N, 3] in the frame of the object."""
    axes = solid.axes.astype(np.float32)
    return texture.colours((points - solid.centre.astype(np.float32)) @ axes, normals @ axes)


def _changed(subject: Subject, hits: Hits) -> NDArray[np.bool_]:
    """Which hits show altered surface, bool [N]."""
    result = np.zeros(len(hits.part), bool)
    for index, primitive in enumerate(subject.primitives):
        if primitive.alteration is not None:
            mine = hits.part == index
            result[mine] = primitive.alteration.covers(hits.points[mine])
    return result


def _shade(
    subject: Subject, camera: Camera, light: Light, hits: Hits
) -> tuple[Values, NDArray[np.bool_]]:
    """Colours of hits, float32 [N, 3], and which show altered surface, bool [N]."""
    colours = np.zeros((len(hits.part), 3), np.float32)
    gloss = np.zeros(len(hits.part), np.float32)
    changed = _changed(subject, hits)
    for index, primitive in enumerate(subject.primitives):
        mine = hits.part == index
        choices = [(np.flatnonzero(mine & ~changed), primitive.texture)]
        if primitive.alteration is not None:
            choices.append((np.flatnonzero(mine & changed), primitive.alteration.texture))
        for which, texture in choices:
            if len(which):
                gloss[which] = texture.gloss
                colours[which] = _local_colours(
                    texture, primitive.solid, hits.points[which], hits.normals[which]
                )
    met = np.flatnonzero(hits.part >= 0)
    normals = hits.normals[met]
    towards = (light.direction @ camera.axes).astype(np.float32)
    to_eye = camera.position / camera.distance
    half = (towards + to_eye) / np.linalg.norm(towards + to_eye)
    facing = np.maximum(normals @ towards, 0)
    # Light from above reaches upper sides more than lower ones.
    around = np.float32(light.ambient) * (np.float32(0.85) + np.float32(0.15) * normals[:, 2])
    lit = around[:, None] + facing[:, None] * light.colour.astype(np.float32)
    shine = np.maximum(normals @ half.astype(np.float32), 0)
    for _ in range(5):
        shine = shine * shine  # the 32nd power
    colours[met] = colours[met] * lit + (gloss[met] * shine)[:, None]
    return colours, changed
