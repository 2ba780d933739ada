"""Vectorised ray casting of a few convex primitives, in numpy.

Every primitive fills the cube [-1, 1]^3 of its own frame; a scale, a rotation and a shift place
it in the frame of the object. Pixel (x, y) has its centre at the integer position (x, y).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

SHAPES = ("ellipsoid", "box", "soft box", "frustum")
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
_NEWTON_STEPS = 12  # all but a few grazing rays settle within 8
_SETTLED = np.float32(1e-5)  # of x^4 + y^4 + z^4 = 1: 3e-6 of the half side
_FLAT = np.float32(1e-9)  # stands in for a slope of zero
_NEVER = np.float32(np.inf)


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
        """The corners of its box in the frame of the object, float64 [8, 3]."""
        return np.asarray((_CORNERS * self.scale) @ self.axes.T + self.centre)

    def surface(self, directions: Floats) -> Floats:
        """Points of its surface in given directions from its centre.

        Args:
            directions: float64 [N, 3] in its own frame, not zero.

        Returns:
            float64 [N, 3], in the frame of the object.
        """
        outward = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        inward = (-outward).astype(np.float32)
        distance = -_HIT[self.shape](self, np.zeros_like(inward), inward)
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
        zoom: Radius of the object's bounding sphere in the picture, in half picture sides.
        shift: (x, y) of the origin in the picture, in half picture sides from its centre.
    """

    azimuth: float
    elevation: float
    roll: float = 0.0
    distance: float = 5.0
    zoom: float = 0.9
    shift: tuple[float, float] = (0.0, 0.0)

    @property
    def position(self) -> Floats:
        """Where the camera stands, float64 [3]."""
        return np.asarray(-self.distance * self.axes[2])

    @property
    def focal(self) -> float:
        """Focal length in half picture sides."""
        return float(self.zoom * np.sqrt(self.distance**2 - 1))

    @property
    def axes(self) -> Floats:
        """float64 [3, 3]; rows: right, down and forward in the frame of the object."""
        azimuth, elevation, roll = np.deg2rad([self.azimuth, self.elevation, self.roll])
        forward = -np.array(
            [
                np.cos(elevation) * np.cos(azimuth),
                np.cos(elevation) * np.sin(azimuth),
                np.sin(elevation),
            ]
        )
        level = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
        down = np.cross(forward, level)
        right = np.cos(roll) * level + np.sin(roll) * down
        return np.stack([right, np.cross(forward, right), forward])

    def project(self, points: NDArray[np.floating], size: int) -> tuple[Floats, Floats]:
        """Pixel positions of points.

        Args:
            points: float [..., 3], in front of the camera.
            size: Side of the picture in pixels.

        Returns:
            (x, y) float64 [..., 2], perhaps outside the picture, and depth float64 [...].
        """
        seen = (np.asarray(points, np.float64) - self.position) @ self.axes.T
        depth = seen[..., 2]
        place = self.focal * seen[..., :2] / depth[..., None] + np.array(self.shift)
        return (place + 1) * (size / 2) - 0.5, depth

    def rays(self, xy: NDArray[np.floating], size: int) -> Singles:
        """Unit directions through pixel positions.

        Args:
            xy: float [N, 2].
            size: Side of the picture in pixels.

        Returns:
            float32 [N, 3].
        """
        place = ((xy + 0.5) * (2 / size) - 1 - np.array(self.shift)) / self.focal
        axes = self.axes.astype(np.float32)
        rays = place.astype(np.float32) @ axes[:2] + axes[2]
        rays /= np.sqrt(_dot(rays, rays))[:, None]
        return np.asarray(rays, np.float32)


@dataclass(frozen=True, eq=False)
class Hits:
    """Where N rays first meet a solid.

    Attributes:
        points: float32 [N, 3]; NaN where a ray meets nothing.
        normals: float32 [N, 3], unit length, outward; NaN likewise.
        part: int16 [N], the solid met; -1 = none.
    """

    points: Singles
    normals: Singles
    part: NDArray[np.int16]


def cast(solids: Sequence[Solid], camera: Camera, xy: NDArray[np.floating], size: int) -> Hits:
    """The first solid along the ray of each pixel position.

    Args:
        solids: All in front of the camera.
        camera: Where the rays start.
        xy: float [N, 2], pixel positions.
        size: Side of the picture in pixels.
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
        # From the point closest to the solid's centre on: single precision is enough there,
        # while from far away small differences of large terms would decide.
        closest = -(ray @ start) / _dot(ray, ray)
        middle = start + closest[:, None] * ray
        distance = closest + _HIT[solid.shape](solid, middle, ray)
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


def _normals(solid: Solid, points: Singles) -> Singles:
    """Outward unit normals at points of the surface, float32 [N, 3]."""
    inward = (solid.axes / solid.scale).astype(np.float32)
    local = (points - solid.centre.astype(np.float32)) @ inward
    if solid.shape == "ellipsoid":
        gradient = local
    elif solid.shape == "soft box":
        gradient = local * local * local
    elif solid.shape == "box":
        axis = np.abs(local).argmax(axis=1)
        rows = np.arange(len(local))
        gradient = np.zeros_like(local)
        gradient[rows, axis] = np.sign(local[rows, axis])
    else:
        middle, slope = _profile(solid)
        height = local[:, 2].copy()
        radius = middle + slope * height
        gradient = local
        gradient[:, 2] = -slope * radius
        # Rounding leaves a point of a cap slightly off it, but closer to it than to the side.
        off_side = np.abs(np.sqrt(local[:, 0] ** 2 + local[:, 1] ** 2) - radius)
        cap = np.flatnonzero(1 - np.abs(height) < off_side)
        gradient[cap] = np.sign(height[cap])[:, None] * np.array([0, 0, 1], np.float32)
    normals = np.asarray(gradient @ inward.T, np.float32)
    # The tip of a cone has no normal; a tiny length keeps it finite.
    normals /= np.maximum(np.sqrt(_dot(normals, normals)), 1e-12)[:, None]
    return normals


def _dot(first: NDArray[np.floating], second: NDArray[np.floating]) -> Singles:
    """Row by row, float32 [N]; several times faster than a sum over a short last axis."""
    return np.asarray(np.einsum("ij,ij->i", first, second))


def _profile(solid: Solid) -> tuple[float, float]:
    """Radius of a frustum at z = 0, and its slope along z."""
    return sum(solid.radii) / 2, (solid.radii[1] - solid.radii[0]) / 2


def _hit_ellipsoid(solid: Solid, middle: Singles, ray: Singles) -> Singles:
    inside = 1 - _dot(middle, middle)
    reach = np.sqrt(np.maximum(inside, 0) / _dot(ray, ray))
    return np.where(inside > 0, -reach, _NEVER)


def _slabs(middle: Singles, ray: Singles) -> tuple[Singles, Singles]:
    """Distances at which the rays enter and leave the cube [-1, 1]^3; they miss if crossed."""
    inverse = 1 / np.where(np.abs(ray) < _FLAT, _FLAT, ray)
    reach, shift = np.abs(inverse), -middle * inverse
    low, high = shift - reach, shift + reach
    enter = np.maximum(np.maximum(low[:, 0], low[:, 1]), low[:, 2])
    return enter, np.minimum(np.minimum(high[:, 0], high[:, 1]), high[:, 2])


def _hit_box(solid: Solid, middle: Singles, ray: Singles) -> Singles:
    enter, leave = _slabs(middle, ray)
    return np.where(enter < leave, enter, _NEVER)


def _hit_soft_box(solid: Solid, middle: Singles, ray: Singles) -> Singles:
    enter, leave = _slabs(middle, ray)
    result = np.full(len(ray), np.inf, np.float32)
    left = np.flatnonzero(enter < leave)
    middle, ray, distance = middle[left], ray[left], enter[left]
    # x^4 + y^4 + z^4 is convex along a ray, so Newton steps from outside never jump over the
    # first crossing; where there is none, the slope turns and the distance runs away.
    for _ in range(_NEWTON_STEPS):
        place = middle + distance[:, None] * ray
        cubes = place * place * place
        value = _dot(cubes, place) - 1
        slope = 4 * _dot(cubes, ray)
        settled = np.abs(value) < _SETTLED
        result[left[settled]] = distance[settled]
        keep = np.flatnonzero(~settled & (slope < -_FLAT))
        distance = distance[keep] - value[keep] / slope[keep]
        left, middle, ray = left[keep], middle[keep], ray[keep]
    return np.where(result <= leave, result, _NEVER)


def _hit_frustum(solid: Solid, middle: Singles, ray: Singles) -> Singles:
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


_HIT: dict[str, Callable[[Solid, Singles, Singles], Singles]] = {
    "ellipsoid": _hit_ellipsoid,
    "box": _hit_box,
    "soft box": _hit_soft_box,
    "frustum": _hit_frustum,
}
