"""Random second views of a photograph with exact correspondence."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vsm_fast.lab.pairs.pairs import Mask, Pixels

_CONTROL = 5  # elastic control points per side; few, to keep the field smooth
_REMAP_LIMIT = 16384  # OpenCV's remap accepts fewer than 32768 positions per row
_INVERSIONS = 12  # fixed-point steps; the displacement contracts, the error falls below 0.1 px


@dataclass(frozen=True)
class Warp:
    """A warp of images of one size.

    Attributes:
        inverse: float32 [H, W, 2], position (x, y) in the source image of each warped pixel.
        matrix: float64 [3, 3], the projective part, source to warped.
        elastic: float32 [H, W, 2], displacement of a warped pixel before ``matrix`` is inverted.
    """

    inverse: NDArray[np.float32]
    matrix: NDArray[np.float64]
    elastic: NDArray[np.float32]

    def image(self, pixels: Pixels) -> Pixels:
        """Warp an image, uint8 [H, W, 3]; its border is reflected."""
        border = cv2.BORDER_REFLECT_101
        return cv2.remap(pixels, self.inverse, None, cv2.INTER_LINEAR, borderMode=border)

    def mask(self, mask: Mask) -> Mask:
        """Warp a mask, bool [H, W]; False outside the source image."""
        values = mask.astype(np.uint8)
        return cv2.remap(values, self.inverse, None, cv2.INTER_NEAREST, borderValue=0) > 0

    def flow(self) -> NDArray[np.float32]:
        """Return the warped position of every source pixel, float32 [H, W, 2]."""
        height, width = self.inverse.shape[:2]
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
        return self.points(grid.reshape(-1, 2).astype(np.float32)).reshape(height, width, 2)

    def points(self, xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Warp positions (x, y) in pixels of the source image, float [N, 2].

        Returns:
            float32 [N, 2], positions in the warped image, possibly outside it, accurate to a
            quarter of a pixel.
        """
        if len(xy) == 0:
            return np.zeros((0, 2), np.float32)
        source = np.asarray(xy, np.float64).reshape(1, -1, 2)
        projected = cv2.perspectiveTransform(source, self.matrix)[0]
        # inverse(p) = matrix^-1(p + elastic(p)), so p solves p = projected - elastic(p).
        warped = projected.copy()
        for _ in range(_INVERSIONS):
            warped = projected - sample_field(self.elastic, warped)
        return warped.astype(np.float32)


def sample_field(field: NDArray[np.float32], xy: NDArray[np.float64]) -> NDArray[np.float32]:
    """Interpolate a field [H, W, C] bilinearly at positions [N, 2]; float32 [N, C]."""
    if len(xy) == 0:
        return np.zeros((0, field.shape[2]), np.float32)
    chunks = [
        cv2.remap(
            field, part[None].astype(np.float32), None, cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )[0]
        for part in np.split(xy, range(_REMAP_LIMIT, len(xy), _REMAP_LIMIT))
    ]  # fmt: skip
    return np.concatenate(chunks)


def random_warp(rng: np.random.Generator, size: tuple[int, int], *, strength: float = 1.0) -> Warp:
    """Draw a rotation, scale, shift, perspective and smooth elastic deformation.

    Args:
        rng: Source of randomness.
        size: (height, width) in pixels.
        strength: In [0, 1]. 0 = identity; 1 = rotation up to 25 degrees, scale 0.75 to 1.2,
            perspective up to 12 % of the side, elastic displacement up to 4 % of it.

    Returns:
        The warp; the bound of the elastic part excludes folds.

    Raises:
        ValueError: If ``strength`` is outside [0, 1], where the bound does not hold.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie in [0, 1], more could fold the image; got {strength}.")
    height, width = size
    side = min(size)
    angle = np.deg2rad(rng.uniform(-25, 25)) * strength
    scale = np.exp(rng.uniform(np.log(0.75), np.log(1.2)) * strength)
    stretch = np.exp(rng.uniform(-0.15, 0.15) * strength)
    cos, sin = np.cos(angle), np.sin(angle)
    linear = scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([stretch, 1 / stretch])
    centre = np.array([width, height]) / 2
    shift = rng.uniform(-0.06, 0.06, 2) * side * strength
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    moved = (corners - centre) @ linear.T + centre + shift
    moved += rng.uniform(-0.06, 0.06, (4, 2)) * side * strength
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32))
    # 4 % keeps the Jacobian determinant positive for any signs of neighbouring control points.
    control = rng.uniform(-0.04, 0.04, (_CONTROL, _CONTROL, 2)) * side * strength
    elastic = cv2.resize(control.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float64)
    moved_grid = (grid + elastic).reshape(1, -1, 2)
    inverse = cv2.perspectiveTransform(moved_grid, np.linalg.inv(matrix))
    return Warp(inverse.reshape(height, width, 2).astype(np.float32), matrix, elastic)


def colour_jitter(rng: np.random.Generator, pixels: Pixels, strength: float = 1.0) -> Pixels:
    """Change the exposure of an image, uint8 [H, W, 3], as between two photographs.

    ``strength`` 0 = unchanged; 1 = gain, contrast and saturation up to ±25 %, white balance up to
    ±8 %, gamma 0.8 to 1.25, slight blur or noise, JPEG quality 40 and above.
    """
    image = pixels.astype(np.float32) / 255
    image = image ** np.exp(rng.uniform(-0.22, 0.22) * strength)
    image *= 1 + rng.uniform(-0.08, 0.08, 3) * strength
    image *= 1 + rng.uniform(-0.25, 0.25) * strength
    mean = image.mean()
    image = mean + (image - mean) * (1 + rng.uniform(-0.25, 0.25) * strength)
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * (1 + rng.uniform(-0.25, 0.25) * strength)
    blur, noise = rng.uniform(0, 0.9) * strength, rng.uniform(0, 0.02) * strength
    if blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    image = image + rng.normal(0, 1, image.shape) * noise
    result = np.clip(image * 255, 0, 255).astype(np.uint8)
    if strength > 0 and rng.random() < 0.5:
        quality = int(rng.integers(100 - int(60 * strength), 101))
        encoded = cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        result = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return result


def replace_background(pixels: Pixels, mask: Mask, background: Pixels) -> Pixels:
    """Put the subject on another background, with an edge feathered over about two pixels.

    The background, uint8 [h, w, 3], is resized to fit.
    """
    height, width = mask.shape
    resized = cv2.resize(background, (width, height), interpolation=cv2.INTER_AREA)
    alpha = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0)[..., None]
    return (pixels * alpha + resized * (1 - alpha) + 0.5).astype(np.uint8)
