"""Procedural subjects: textured solids rendered from two views with exact correspondence.

Rays meet every primitive analytically, in its own frame, where it fills the cube [-1, 1]^3. A
mesh (trimesh with Embree) would approximate points and normals, need about 80,000 triangles per
solid for the same 1e-4, and change the images the embedded model was trained on. Pixel (x, y) has
its centre at the integer position (x, y). All randomness comes from the generator passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recipes.tiny.textures import (
    LATTICE,
    Texture,
    lattice_noise,
    random_palette,
    random_texture,
    recoloured,
    shrunk_crop,
)
from vsm_fast.lab.pairs.pairs import Mask, Pixels

Floats = NDArray[np.float64]
Values = NDArray[np.float32]

SHAPES = ("ellipsoid", "box", "soft box", "frustum")
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
_NEWTON_STEPS = 12  # all but a few grazing rays converge within 8
_CONVERGED = np.float32(1e-5)  # of x^4 + y^4 + z^4 = 1: 3e-6 of the half side
_FLAT = np.float32(1e-9)  # replaces a slope of zero
_NEVER = np.float32(np.inf)
# Sub-pixel positions on a rotated grid, which smooths axis-aligned edges better than a square one.
_SAMPLES = np.array([[-0.375, -0.125], [0.125, -0.375], [0.375, 0.125], [-0.125, 0.375]])
_CLOSE = 2.5  # pixel widths between a point and the surface that another view shows there
_PROBES = 400  # points of a primitive that judge an alteration
_TRIES = 16
_VISIBLE = 0.10  # visible change of a colour channel, in [0, 1]


@dataclass(frozen=True, eq=False)
class Solid:
    """One primitive.

    Attributes:
        shape: One of ``SHAPES``. A soft box is the superquadric x^4 + y^4 + z^4 = 1; a frustum
            is a capped cone along z.
        centre: float64 [3], in the frame of the object.
        axes: float64 [3, 3], a rotation; its columns are the axes of the primitive.
        scale: float64 [3], half sides along ``axes``.
        radii: Radii of a frustum at z = -1 and z = 1, in [0, 1]; a cylinder has (1, 1).
    """

    shape: str
    centre: Floats
    axes: Floats
    scale: Floats
    radii: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"shape must be one of {SHAPES}; got {self.shape!r}.")

    def corners(self) -> Floats:
        """Return the corners of the box in the frame of the object, float64 [8, 3]."""
        return np.asarray((_CORNERS * self.scale) @ self.axes.T + self.centre)

    def surface(self, directions: Floats) -> Floats:
        """Return the surface points in some directions from the centre.

        Args:
            directions: float64 [N, 3] in the frame of the primitive, not zero.

        Returns:
            float64 [N, 3], in the frame of the object.
        """
        outward = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        inward = (-outward).astype(np.float32)
        distance = -_hit(self, np.zeros_like(inward), inward)
        local = distance[:, None].astype(np.float64) * outward
        return np.asarray((local * self.scale) @ self.axes.T + self.centre)


@dataclass(frozen=True, eq=False)
class Camera:
    """A perspective camera that looks at the origin.

    Attributes:
        azimuth: Degrees around the z axis.
        elevation: Degrees above the xy plane.
        roll: Degrees around the viewing direction.
        distance: From the origin, in units of the object's bounding radius; above 1.
        zoom: Radius of the object's bounding sphere in the image, in half image sides.
        shift: (x, y) of the origin in the image, in half image sides from its centre.
    """

    azimuth: float
    elevation: float
    roll: float = 0.0
    distance: float = 5.0
    zoom: float = 0.9
    shift: tuple[float, float] = (0.0, 0.0)

    @property
    def position(self) -> Floats:
        """Return the camera's position, float64 [3]."""
        return np.asarray(-self.distance * self.axes[2])

    @property
    def focal(self) -> float:
        """Return the focal length in half image sides."""
        return float(self.zoom * np.sqrt(self.distance**2 - 1))

    @property
    def axes(self) -> Floats:
        """Return float64 [3, 3]; rows: right, down and forward in the frame of the object."""
        azimuth, elevation, roll = np.deg2rad([self.azimuth, self.elevation, self.roll])
        flat = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth)])
        forward = -np.array([*flat, np.sin(elevation)])
        level = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
        down = np.cross(forward, level)
        right = np.cos(roll) * level + np.sin(roll) * down
        return np.stack([right, np.cross(forward, right), forward])

    def project(self, points: NDArray[np.floating], size: int) -> tuple[Floats, Floats]:
        """Project points to pixel positions.

        Args:
            points: float [..., 3], in front of the camera.
            size: Side of the image in pixels.

        Returns:
            (x, y) float64 [..., 2], possibly outside the image, and depth float64 [...].
        """
        local = (np.asarray(points, np.float64) - self.position) @ self.axes.T
        depth = local[..., 2]
        place = self.focal * local[..., :2] / depth[..., None] + np.array(self.shift)
        return (place + 1) * (size / 2) - 0.5, depth

    def rays(self, xy: NDArray[np.floating], size: int) -> Values:
        """Return unit directions through pixel positions float [N, 2]; float32 [N, 3]."""
        place = ((xy + 0.5) * (2 / size) - 1 - np.array(self.shift)) / self.focal
        axes = self.axes.astype(np.float32)
        rays = place.astype(np.float32) @ axes[:2] + axes[2]
        rays /= np.sqrt(_dot(rays, rays))[:, None]
        return np.asarray(rays, np.float32)


@dataclass(frozen=True, eq=False)
class Hits:
    """First intersections of N rays.

    Attributes:
        points: float32 [N, 3]; NaN for a ray without a hit.
        normals: float32 [N, 3], unit length, outward; NaN likewise.
        part: int16 [N], the solid; -1 = none.
    """

    points: Values
    normals: Values
    part: NDArray[np.int16]


def cast(solids: Sequence[Solid], camera: Camera, xy: NDArray[np.floating], size: int) -> Hits:
    """Find the first solid along the ray of each pixel position.

    Args:
        solids: All in front of the camera.
        camera: Origin of the rays.
        xy: float [N, 2], pixel positions.
        size: Side of the image in pixels.
    """
    rays, origin = camera.rays(xy, size), camera.position
    nearest = np.full(len(xy), np.inf, np.float32)
    part = np.full(len(xy), -1, np.int16)
    x, y = np.ascontiguousarray(xy.T, np.float32)
    for index, solid in enumerate(solids):
        corners, _ = camera.project(solid.corners(), size)
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        near = np.flatnonzero((x >= left) & (x <= right) & (y >= top) & (y <= bottom))
        ray = rays[near] @ (solid.axes / solid.scale).astype(np.float32)
        start = (((origin - solid.centre) @ solid.axes) / solid.scale).astype(np.float32)
        # Start at the point closest to the solid's centre: from far away, single precision would
        # lose small differences of large terms.
        closest = -(ray @ start) / _dot(ray, ray)
        distance = closest + _hit(solid, start + closest[:, None] * ray, ray)
        closer = np.flatnonzero(distance < nearest[near])
        nearest[near[closer]] = distance[closer]
        part[near[closer]] = index
    points = np.full((len(xy), 3), np.nan, np.float32)
    normals = np.full((len(xy), 3), np.nan, np.float32)
    for index, solid in enumerate(solids):
        mine = np.flatnonzero(part == index)
        points[mine] = origin.astype(np.float32) + nearest[mine, None] * rays[mine]
        normals[mine] = _normals(solid, points[mine])
    return Hits(points, normals, part)


def _dot(first: NDArray[np.floating], second: NDArray[np.floating]) -> Values:
    """Multiply row by row, float32 [N]; much faster than a sum over a short last axis."""
    return np.asarray(np.einsum("ij,ij->i", first, second))


def _profile(solid: Solid) -> tuple[float, float]:
    """Return the radius of a frustum at z = 0, and its slope along z."""
    return sum(solid.radii) / 2, (solid.radii[1] - solid.radii[0]) / 2


def _hit(solid: Solid, middle: Values, ray: Values) -> Values:
    """Return the distance from ``middle`` to the first hit in the solid's own frame, or inf."""
    if solid.shape == "ellipsoid":
        inside = 1 - _dot(middle, middle)
        reach = np.sqrt(np.maximum(inside, 0) / _dot(ray, ray))
        return np.where(inside > 0, -reach, _NEVER)
    if solid.shape == "frustum":
        return _hit_frustum(solid, middle, ray)
    # A ray enters and leaves the cube [-1, 1]^3 at these distances; it misses if they are crossed.
    inverse = 1 / np.where(np.abs(ray) < _FLAT, _FLAT, ray)
    reach, shift = np.abs(inverse), -middle * inverse
    low, high = shift - reach, shift + reach
    enter = np.maximum(np.maximum(low[:, 0], low[:, 1]), low[:, 2])
    leave = np.minimum(np.minimum(high[:, 0], high[:, 1]), high[:, 2])
    if solid.shape == "box":
        return np.where(enter < leave, enter, _NEVER)
    result = np.full(len(ray), np.inf, np.float32)
    left = np.flatnonzero(enter < leave)
    middle, ray, distance = middle[left], ray[left], enter[left]
    # x^4 + y^4 + z^4 is convex along a ray, so Newton steps from outside never pass the first
    # crossing; without a crossing the slope turns and the distance diverges.
    for _ in range(_NEWTON_STEPS):
        place = middle + distance[:, None] * ray
        cubes = place * place * place
        value = _dot(cubes, place) - 1
        slope = 4 * _dot(cubes, ray)
        converged = np.abs(value) < _CONVERGED
        result[left[converged]] = distance[converged]
        keep = np.flatnonzero(~converged & (slope < -_FLAT))
        distance = distance[keep] - value[keep] / slope[keep]
        left, middle, ray = left[keep], middle[keep], ray[keep]
    return np.where(result <= leave, result, _NEVER)


def _hit_frustum(solid: Solid, middle: Values, ray: Values) -> Values:
    base, slope = _profile(solid)
    radius = base + slope * middle[:, 2]
    square = ray[:, 0] ** 2 + ray[:, 1] ** 2 - (slope * ray[:, 2]) ** 2
    square = np.where(np.abs(square) < _FLAT, _FLAT, square)
    half = middle[:, 0] * ray[:, 0] + middle[:, 1] * ray[:, 1] - slope * ray[:, 2] * radius
    under = half * half - square * (middle[:, 0] ** 2 + middle[:, 1] ** 2 - radius**2)
    root = np.sqrt(np.maximum(under, 0))
    best = np.full(len(ray), np.inf, np.float32)
    for sign in (-1, 1):
        distance = (-half + sign * root) / square
        height = middle[:, 2] + distance * ray[:, 2]
        valid = (under > 0) & (np.abs(height) <= 1)
        best = np.where(valid, np.minimum(best, distance), best)
    along = np.where(np.abs(ray[:, 2]) < _FLAT, _FLAT, ray[:, 2])
    for level, limit in ((-1.0, solid.radii[0]), (1.0, solid.radii[1])):
        distance = (level - middle[:, 2]) / along
        place = middle[:, :2] + distance[:, None] * ray[:, :2]
        best = np.where(_dot(place, place) <= limit**2, np.minimum(best, distance), best)
    return best


def _normals(solid: Solid, points: Values) -> Values:
    """Return outward unit normals at surface points, float32 [N, 3]."""
    inward = (solid.axes / solid.scale).astype(np.float32)
    gradient = local = (points - solid.centre.astype(np.float32)) @ inward
    if solid.shape == "soft box":
        gradient = local * local * local
    elif solid.shape == "box":
        axis, rows = np.abs(local).argmax(axis=1), np.arange(len(local))
        gradient = np.zeros_like(local)
        gradient[rows, axis] = np.sign(local[rows, axis])
    elif solid.shape == "frustum":
        middle, slope = _profile(solid)
        height = local[:, 2].copy()
        radius = middle + slope * height
        gradient[:, 2] = -slope * radius
        # Rounding moves a point of a cap slightly off it, but it stays closer to the cap.
        off_side = np.abs(np.sqrt(local[:, 0] ** 2 + local[:, 1] ** 2) - radius)
        cap = np.flatnonzero(1 - np.abs(height) < off_side)
        gradient[cap] = np.sign(height[cap])[:, None] * np.array([0, 0, 1], np.float32)
    normals = np.asarray(gradient @ inward.T, np.float32)
    # The tip of a cone has no normal; a tiny length keeps it finite.
    normals /= np.maximum(np.sqrt(_dot(normals, normals)), 1e-12)[:, None]
    return normals


@dataclass(frozen=True, eq=False)
class SurfaceChange:
    """Another texture on a primitive or on one side of a plane through it.

    Attributes:
        texture: Replaces the texture of the primitive.
        normal: float64 [3], normal of the plane.
        level: Points with ``point @ normal > level`` change, in the frame of the object; -inf
            changes the whole primitive.
    """

    texture: Texture
    normal: Floats
    level: float


@dataclass(frozen=True, eq=False)
class Primitive:
    """A solid, its texture, and the change by ``alter_subject``, if any."""

    solid: Solid
    texture: Texture
    change: SurfaceChange | None = None

    def colours(self, texture: Texture, points: Values, normals: Values) -> Values:
        """Evaluate a texture at points with normals, float32 [N, 3] in the object's frame."""
        axes = self.solid.axes.astype(np.float32)
        local = (points - self.solid.centre.astype(np.float32)) @ axes
        return texture.colours(local, normals @ axes)


@dataclass(frozen=True, eq=False)
class ProceduralSubject:
    """A subject inside the unit ball around the origin.

    Attributes:
        primitives: Two to six; ``View.part`` indexes them.
    """

    primitives: tuple[Primitive, ...]


@dataclass(frozen=True, eq=False)
class View:
    """A rendering of [H, W] pixels.

    Attributes:
        pixels: uint8 [H, W, 3].
        mask: bool [H, W], pixels with the subject at their centre.
        points: float32 [H, W, 3], the visible point of the subject; NaN off it.
        part: int16 [H, W], index of the visible primitive; -1 off the subject.
        altered: bool [H, W], pixels with any share of changed surface. All others equal those of
            the unaltered subject in the same light. At the outline it may exceed ``mask`` by one
            pixel.
    """

    pixels: Pixels
    mask: Mask
    points: Values
    part: NDArray[np.int16]
    altered: Mask


@dataclass(frozen=True, eq=False)
class Light:
    """Light and background of one image.

    Attributes:
        direction: float64 [3], unit length, towards the light; right, down, forward of the camera.
        ambient: Light from all sides, in [0, 1].
        colour: float64 [3], colour of the directed light.
        seed: Seed of the background.
    """

    direction: Floats
    ambient: float
    colour: Floats
    seed: int


def sample_light(rng: np.random.Generator) -> Light:
    """Draw a light from the side of the camera."""
    direction = np.array([rng.uniform(-1, 1), rng.uniform(-1.2, 0.3), -rng.uniform(0.4, 1.2)])
    return Light(
        direction=direction / np.linalg.norm(direction),
        ambient=float(rng.uniform(0.3, 0.65)),
        colour=rng.uniform(0.55, 0.85) * (1 + rng.uniform(-0.07, 0.07, 3)),
        seed=int(rng.integers(2**32)),
    )


def sample_cameras(
    rng: np.random.Generator,
    *,
    azimuth: float = 40.0,
    elevation: float = 20.0,
    roll: float = 20.0,
    zoom: tuple[float, float] = (0.8, 1.2),
    shift: float = 0.12,
) -> tuple[Camera, Camera]:
    """Draw two cameras with slightly different views of a subject.

    Args:
        rng: Source of randomness.
        azimuth: Largest difference around the vertical axis in degrees.
        elevation: Largest difference of elevation in degrees.
        roll: Largest rotation of each image in degrees.
        zoom: Range of the radius of the subject's unit ball, in half image sides.
        shift: Largest displacement of the subject, in half image sides.
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
    subject: ProceduralSubject,
    camera: Camera,
    light: np.random.Generator | Light,
    size: int = 256,
    background: Pixels | None = None,
) -> View:
    """Render the subject with soft edges, and the geometry behind each pixel.

    Args:
        subject: The subject.
        camera: The camera.
        light: The light, or a generator to draw it from. Equal lights and equal states of a
            generator give the same light and background for every subject.
        size: Side of the image in pixels.
        background: uint8 [H, W, 3], cropped at random; None = noise.
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

    canvas = _backdrop(np.random.default_rng(light.seed), size, background)
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


def _backdrop(rng: np.random.Generator, size: int, picture: Pixels | None) -> Values:
    """Draw a crop of a picture, or smooth noise in two colours; float32 [size, size, 3]."""
    if picture is not None:
        crop = shrunk_crop(rng, picture, size).astype(np.float32) / 255
        index = np.minimum((np.arange(size) + 0.5) * len(crop) / size, len(crop) - 1)
        nearest = index.astype(np.int64)
        return np.asarray(crop[nearest[:, None], nearest])
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    table = rng.random((LATTICE,) * 3).astype(np.float32)
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


def _changed(subject: ProceduralSubject, hits: Hits) -> Mask:
    """Return the hits on changed surface, bool [N]."""
    result = np.zeros(len(hits.part), bool)
    for index, primitive in enumerate(subject.primitives):
        if primitive.change is not None:
            mine = hits.part == index
            result[mine] = hits.points[mine] @ primitive.change.normal > primitive.change.level
    return result


def _shade(
    subject: ProceduralSubject, camera: Camera, light: Light, hits: Hits
) -> tuple[Values, Mask]:
    """Return the colours of hits, float32 [N, 3], and the hits on changed surface, bool [N]."""
    colours = np.zeros((len(hits.part), 3), np.float32)
    gloss = np.zeros(len(hits.part), np.float32)
    changed = _changed(subject, hits)
    for index, primitive in enumerate(subject.primitives):
        mine = hits.part == index
        choices = [(mine & ~changed, primitive.texture)]
        if primitive.change is not None:
            choices.append((mine & changed, primitive.change.texture))
        for which, texture in choices:
            if which.any():
                gloss[which] = texture.gloss
                colours[which] = primitive.colours(texture, hits.points[which], hits.normals[which])
    met = np.flatnonzero(hits.part >= 0)
    normals = hits.normals[met]
    towards = (light.direction @ camera.axes).astype(np.float32)
    to_eye = camera.position / camera.distance
    half = (towards + to_eye) / np.linalg.norm(towards + to_eye)
    facing = np.maximum(normals @ towards, 0)
    # Ambient light reaches upper sides more than lower ones.
    around = np.float32(light.ambient) * (np.float32(0.85) + np.float32(0.15) * normals[:, 2])
    lit = around[:, None] + facing[:, None] * light.colour.astype(np.float32)
    shine = np.maximum(normals @ half.astype(np.float32), 0)
    for _ in range(5):
        shine = shine * shine  # the 32nd power
    colours[met] = colours[met] * lit + (gloss[met] * shine)[:, None]
    return colours, changed


def correspondence(view_a: View, view_b: View, camera_b: Camera) -> Values:
    """Find the pixels of one view in another.

    A point counts as visible if view b shows the same primitive all around its position at its
    depth, or, next to an outline, somewhere within 2.5 pixel widths of it.

    Args:
        view_a: The source view.
        view_b: A view of the same geometry.
        camera_b: The camera of view b.

    Returns:
        float32 [H, W, 2], (x, y) in pixels of view b; NaN off the subject and for points hidden
        in view b or outside it.
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
    # 1 / depth of a plane is linear in the image: exact at any viewing angle.
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
    subject: ProceduralSubject,
    rng: np.random.Generator,
    textures: Sequence[Pixels] = (),
    view: View | None = None,
) -> tuple[ProceduralSubject, frozenset[int]]:
    """Change some of the surface visibly; keep the geometry.

    One or several primitives get another texture or other colours, or one half of a primitive.
    ``View.altered`` of a rendering marks the changed pixels exactly.

    Args:
        subject: The subject.
        rng: Source of randomness.
        textures: Pictures for new textures, uint8 [H, W, 3].
        view: A rendering that must show the change: only primitives visible there are altered,
            and a half is cut with both sides visible. None = any primitive.

    Returns:
        The altered subject and the indices of the altered primitives.
    """
    shown: NDArray[np.int64] = np.arange(len(subject.primitives))
    if view is not None and not view.mask.any():
        view = None
    if view is not None:
        # Changes of slivers would be invisible.
        enough = 0.03 * view.mask.sum()
        shown = shown[np.bincount(view.part[view.mask], minlength=len(shown)) >= enough]
    most = max(1, (len(shown) + 1) // 2)
    count = 1 if rng.random() < 0.5 else int(rng.integers(1, most + 1))
    chosen = rng.choice(shown, size=count, replace=False)
    halved = count == 1 and rng.random() < 0.45
    primitives = list(subject.primitives)
    for index in map(int, chosen):
        primitive, solid = primitives[index], primitives[index].solid
        probes = solid.surface(rng.normal(size=(_PROBES, 3)))
        normal, level = np.array([0.0, 0.0, 1.0]), -np.inf
        if halved:
            normal = rng.normal(size=3)
            normal /= np.linalg.norm(normal)
            visible = probes if view is None else view.points[view.part == index].astype(np.float64)
            level = float(np.quantile(visible @ normal, rng.uniform(0.3, 0.7)))
        outward = (probes - solid.centre).astype(np.float32)
        outward /= np.linalg.norm(outward, axis=1)[:, None]
        single = probes.astype(np.float32)
        before = primitive.colours(primitive.texture, single, outward)
        best, best_share = primitive.texture, -1.0
        for _ in range(_TRIES):
            palette = random_palette(rng)
            if rng.random() < 0.4:
                texture = recoloured(rng, primitive.texture, palette)
            else:
                texture = random_texture(rng, palette, float(solid.scale.mean()), textures)
            # The same gloss: a highlight alone is no alteration.
            texture = replace(texture, gloss=primitive.texture.gloss)
            after = primitive.colours(texture, single, outward)
            share = float((np.abs(after - before).max(axis=1) > _VISIBLE).mean())
            if share > best_share:
                best, best_share = texture, share
            if best_share > 0.97:
                break
        primitives[index] = replace(primitive, change=SurfaceChange(best, normal, level))
    return ProceduralSubject(tuple(primitives)), frozenset(map(int, chosen))
