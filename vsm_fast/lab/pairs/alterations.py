"""Offline alterations of a part of a subject, and their perceptual change.

Each kind changes the pixels of a part and leaves the rest unchanged. ``alter`` retries until the
mean colour difference inside the part is visible.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vsm_fast.lab.pairs.pairs import Mask, Pixels
from vsm_fast.lab.pairs.stages import Alteration, AlterationRequest

KINDS = ("texture", "inpaint", "recolour", "deform", "remove", "pattern", "shuffle")
MIN_CHANGE = 8.0  # CIE Lab units; about 2.3 is just noticeable on flat colour
_TRIES = 4
_LOCAL_CHANGE = 3.0  # CIE Lab units
_LOCAL_WINDOW = (9, 9)


def random_part(
    rng: np.random.Generator, subject: Mask, area_share: tuple[float, float] = (0.05, 0.6)
) -> Mask:
    """Draw a part of the subject: a blob around a random point.

    The blob holds the subject's pixels nearest to the point in a noisy, stretched metric, so its
    area matches the drawn share to one pixel.

    Args:
        rng: Source of randomness.
        subject: bool [H, W] with at least one True.
        area_share: Range of ``area(part) / area(subject)``, in (0, 1).

    Returns:
        bool [H, W], inside the subject.

    Raises:
        ValueError: If the subject is empty, or the shares are not an ascending range in (0, 1).
    """
    if not 0 < area_share[0] <= area_share[1] < 1:
        raise ValueError(
            f"area_share must be (low, high) with 0 < low <= high < 1; got {area_share}."
        )
    ys, xs = np.nonzero(subject)
    if len(ys) == 0:
        raise ValueError("the subject mask is empty; a part needs at least one pixel.")
    share = rng.uniform(*area_share)
    start = rng.integers(len(ys))
    angle, stretch = rng.uniform(0, np.pi), np.exp(rng.uniform(-0.5, 0.5))
    dy, dx = (ys - ys[start]).astype(np.float64), (xs - xs[start]).astype(np.float64)
    along = (np.cos(angle) * dx + np.sin(angle) * dy) * stretch
    across = (-np.sin(angle) * dx + np.cos(angle) * dy) / stretch
    bumps = cv2.resize(
        rng.normal(0, 1, (9, 9)).astype(np.float32),
        subject.shape[::-1],
        interpolation=cv2.INTER_CUBIC,
    )[ys, xs]
    distance = np.hypot(along, across) * (1 + 0.25 * np.clip(bumps, -2, 2))
    count = max(1, round(share * len(ys)))
    chosen = np.argpartition(distance, min(count, len(ys) - 1))[:count]
    part = np.zeros_like(subject)
    part[ys[chosen], xs[chosen]] = True
    return part


def to_lab(pixels: Pixels) -> NDArray[np.float32]:
    """Convert to CIE Lab, float32 [H, W, 3]."""
    return cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def perceptual_change(before: Pixels, after: Pixels, part: Mask) -> float:
    """Return the mean colour difference inside a part, in CIE Lab units, over two scales.

    The mean of the differences of single pixels and of 8-pixel averages covers both texture and
    overall colour. It replaces LPIPS where no weights are available.
    """
    if not part.any():
        return 0.0
    labs = [to_lab(image) for image in (before, after)]
    fine = np.linalg.norm(labs[0] - labs[1], axis=2)
    coarse = np.linalg.norm(cv2.blur(labs[0], (8, 8)) - cv2.blur(labs[1], (8, 8)), axis=2)
    return float(0.5 * (fine[part].mean() + coarse[part].mean()))


def alter(
    kind: str,
    pixels: Pixels,
    part: Mask,
    subject: Mask,
    rng: np.random.Generator,
    donor: Pixels | None = None,
) -> tuple[Pixels, Mask]:
    """Alter a part of an image.

    Args:
        kind: One of ``KINDS``.
        pixels: uint8 [H, W, 3].
        part: bool [H, W], the region to alter.
        subject: bool [H, W].
        rng: Source of randomness.
        donor: uint8 [h, w, 3], resized to fit, for kinds that paste; noise if None.

    Returns:
        The image, unchanged outside the part, and the altered part (bool [H, W]).

    Raises:
        ValueError: If the kind is unknown, or a mask is empty or of another size.
    """
    if kind not in _PAINTERS:
        raise ValueError(f"kind must be one of {KINDS}; got {kind!r}.")
    for name, mask in (("part", part), ("subject", subject)):
        if mask.shape != pixels.shape[:2]:
            raise ValueError(
                f"the {name} mask is {mask.shape}, the image {pixels.shape[:2]} (height, width). "
                "Resize the mask to the image."
            )
        # An empty part has no centre: the swirl would sample at NaN, and OpenCV never returns.
        if not mask.any():
            raise ValueError(f"the {name} mask is empty; at least one pixel is needed.")
    source = rng.integers(0, 256, pixels.shape, np.uint8) if donor is None else donor

    def paint(attempt: int) -> Pixels:
        return _PAINTERS[kind](_Scene(pixels, part, subject, rng, source, 1 + 0.5 * attempt))

    return strongest_change(pixels, part, MIN_CHANGE, paint), part.copy()


def strongest_change(
    pixels: Pixels, part: Mask, minimum: float, paint: Callable[[int], NDArray[np.generic]]
) -> Pixels:
    """Paint a part again until the ``perceptual_change`` is large enough.

    ``paint`` returns the painted image, [H, W, 3] in [0, 255], for an attempt 0, 1, ….

    Returns:
        uint8 [H, W, 3], the first attempt with the minimum change, or the strongest of four;
        unchanged outside the part.
    """
    best, best_change = pixels, -1.0
    for attempt in range(_TRIES):
        result = paste(pixels, paint(attempt), part)
        change = perceptual_change(pixels, result, part)
        if change > best_change:
            best, best_change = result, change
        if change >= minimum:
            break
    return best


def paste(pixels: Pixels, painted: NDArray[np.generic], part: Mask) -> Pixels:
    """Paste painted pixels into a part, with a soft edge inside it.

    A hard edge would be a clue that real edits do not leave. ``painted`` is [H, W, 3], uint8 or
    float in [0, 255]; the result is uint8 and equal to ``pixels`` outside the part.
    """
    inner = cv2.erode(part.astype(np.uint8), np.ones((3, 3))).astype(np.float32)
    alpha = cv2.GaussianBlur(inner, (0, 0), 1.0)[..., None] * part[..., None]
    result: Pixels = (pixels * (1 - alpha) + painted * alpha + 0.5).astype(np.uint8)
    result[~part] = pixels[~part]
    return result


def visibly_changed(before: Pixels, after: Pixels, part: Mask) -> Mask:
    """Remove from a part the regions without a visible change.

    A white wall inpainted in white is unchanged: labelled as altered, it would train and measure
    a difference that nobody can see. Images are uint8 [H, W, 3].

    Returns:
        bool [H, W], inside ``part``: pixels with a local mean difference above 3 CIE Lab units,
        smoothed.
    """
    difference = np.linalg.norm(to_lab(before) - to_lab(after), axis=2) * part
    weight = cv2.blur(part.astype(np.float32), _LOCAL_WINDOW)
    local = cv2.blur(difference, _LOCAL_WINDOW) / np.maximum(weight, 1e-6)
    visible = ((local > _LOCAL_CHANGE) & part).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    visible = cv2.morphologyEx(visible, cv2.MORPH_CLOSE, disc)
    visible = cv2.morphologyEx(visible, cv2.MORPH_OPEN, disc)
    return np.asarray((visible > 0) & part)


class OfflineAlterer:
    """Alterer without pretrained models."""

    kinds: tuple[str, ...] = KINDS

    def __call__(self, request: AlterationRequest) -> Alteration:
        """Alter the part; the returned part covers visible changes only."""
        kind = request.kind or str(request.rng.choice(self.kinds))
        pixels, part = alter(
            kind, request.pixels, request.part, request.mask, request.rng, donor=request.donor
        )
        visible = visibly_changed(request.pixels, pixels, part)
        # Invisible changes are undone: view 1 must not differ outside its part.
        return Alteration(np.where(visible[..., None], pixels, request.pixels), visible, kind)


class LabChange:
    """Mean colour difference in CIE Lab, the offline substitute for LPIPS > 0.15."""

    name = "lab"
    threshold = MIN_CHANGE

    def __call__(self, before: Pixels, after: Pixels, part: Mask) -> float:
        """Return ``perceptual_change``."""
        return perceptual_change(before, after, part)


@dataclass(frozen=True, eq=False)
class _Scene:
    """Input of one attempt at an alteration; ``power`` is 1 at first and grows."""

    pixels: Pixels
    part: Mask
    subject: Mask
    rng: np.random.Generator
    donor: Pixels
    power: float

    @property
    def size(self) -> tuple[int, ...]:
        """Return (width, height), OpenCV's order."""
        return self.pixels.shape[1::-1]


def _texture(scene: _Scene) -> Pixels:
    """Paste the donor's texture, in half of the cases blended by Poisson editing."""
    turned = np.ascontiguousarray(np.rot90(scene.donor, int(scene.rng.integers(4))))
    turned = cv2.resize(turned, scene.size)
    if scene.power > 1 or scene.rng.random() < 0.5:
        return turned
    ys, xs = np.nonzero(scene.part)
    top, bottom, left, right = ys.min(), ys.max(), xs.min(), xs.max()
    width, height = scene.size
    if top < 1 or left < 1 or bottom > height - 2 or right > width - 2:
        return turned
    centre = (int(left + right + 1) // 2, int(top + bottom + 1) // 2)
    mask = scene.part.astype(np.uint8) * 255
    return cv2.seamlessClone(turned, scene.pixels, mask, centre, cv2.NORMAL_CLONE)


def _fill(scene: _Scene, region: Mask, margin: int) -> Pixels:
    """Inpaint a region at half resolution from a border ``margin`` pixels around it."""
    small = cv2.resize(scene.pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    hole = cv2.resize(region.astype(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    hole = cv2.dilate(hole, np.ones((margin, margin)))
    filled = cv2.inpaint(small, hole, 3, cv2.INPAINT_TELEA)
    return cv2.resize(filled, scene.size, interpolation=cv2.INTER_CUBIC)


def _inpaint(scene: _Scene) -> Pixels:
    """Fill the part from its border, with grain, like an eraser."""
    filled = _fill(scene, scene.part, 3)
    shade = 1 + (scene.power - 1) * scene.rng.uniform(-0.6, 0.6, 3)
    grain = scene.rng.normal(0, 4, scene.pixels.shape)
    return np.clip(filled * shade + grain, 0, 255).astype(np.uint8)


def _remove(scene: _Scene) -> Pixels:
    """Continue the background across the part."""
    filled = _fill(scene, scene.subject, 5)
    if scene.power > 1:  # this background resembles the subject: blend another one in
        other = cv2.resize(scene.donor, scene.size, interpolation=cv2.INTER_AREA)
        filled = cv2.addWeighted(filled, 0.3, other, 0.7, 0)
    grain = scene.rng.normal(0, 4, scene.pixels.shape)
    return np.clip(filled + grain, 0, 255).astype(np.uint8)


def _recolour(scene: _Scene) -> Pixels:
    """Change hue, saturation and lightness; keep the texture."""
    rng, power, lab = scene.rng, scene.power, to_lab(scene.pixels)
    angle = rng.uniform(0, 2 * np.pi)
    push = rng.uniform(18, 50) * power
    lab[..., 0] = np.clip(lab[..., 0] * (1 + rng.uniform(-0.3, 0.3) * power), 0, 100)
    lab[..., 1:] = lab[..., 1:] * rng.uniform(-0.6, 0.9) + push * np.array(
        [np.cos(angle), np.sin(angle)], np.float32
    )
    rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.clip(rgb * 255, 0, 255).astype(np.uint8)


def _deform(scene: _Scene) -> Pixels:
    """Move details within the part by a swirl and ripples."""
    rng, power = scene.rng, scene.power
    ys, xs = np.nonzero(scene.part)
    centre_x, centre_y = xs.mean(), ys.mean()
    radius = max(4.0, np.sqrt(len(ys) / np.pi))
    width, height = scene.size
    grid_x, grid_y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height))
    dx, dy = grid_x - centre_x, grid_y - centre_y
    distance = np.hypot(dx, dy)
    turn = rng.choice([-1, 1]) * rng.uniform(2.0, 3.5) * power * np.exp(-distance / radius)
    wave = rng.uniform(0.06, 0.14) * radius * power
    period = rng.uniform(0.25, 0.5) * radius
    x = centre_x + np.cos(turn) * dx - np.sin(turn) * dy + wave * np.sin(grid_y / period)
    y = centre_y + np.sin(turn) * dx + np.cos(turn) * dy + wave * np.sin(grid_x / period)
    x, y = x.astype(np.float32), y.astype(np.float32)
    return cv2.remap(scene.pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _pattern(scene: _Scene) -> Pixels:
    """Print stripes, dots or checks on the part; keep its shading."""
    rng = scene.rng
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 22)
    width, height = scene.size
    grid_x, grid_y = np.meshgrid(np.arange(width), np.arange(height))
    u = (np.cos(angle) * grid_x + np.sin(angle) * grid_y) * 2 * np.pi / period
    v = (-np.sin(angle) * grid_x + np.cos(angle) * grid_y) * 2 * np.pi / period
    waves = (np.sin(u), np.sin(u) * np.sin(v), np.sin(u) + np.sin(v) - 0.9)[rng.integers(3)]
    ink = np.clip(waves * 4 + 0.5, 0, 1)[..., None]
    colours = rng.uniform(0, 255, (2, 3))
    flat = colours[0] * ink + colours[1] * (1 - ink)
    grey = cv2.cvtColor(scene.pixels, cv2.COLOR_RGB2GRAY)
    light = cv2.GaussianBlur(grey, (0, 0), 2).astype(np.float32)
    shading = light / max(float(light[scene.part].mean()), 8.0)
    return np.clip(flat * (0.35 + 0.65 * shading[..., None]), 0, 255).astype(np.uint8)


def _shuffle(scene: _Scene) -> Pixels:
    """Permute and turn square tiles of the subject."""
    rng, pixels = scene.rng, scene.pixels
    tile = int(rng.integers(12, 25))
    ys, xs = np.nonzero(scene.subject)
    padded = cv2.copyMakeBorder(pixels, 0, tile, 0, tile, cv2.BORDER_REFLECT_101)
    result = pixels.copy()
    width, height = scene.size
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            target = result[top : top + tile, left : left + tile]
            pick = rng.integers(len(ys))
            source = padded[ys[pick] : ys[pick] + tile, xs[pick] : xs[pick] + tile]
            turned = np.rot90(source, int(rng.integers(4)))
            target[:] = turned[: target.shape[0], : target.shape[1]]
    return result


_PAINTERS: dict[str, Callable[[_Scene], Pixels]] = {
    "texture": _texture,
    "inpaint": _inpaint,
    "recolour": _recolour,
    "deform": _deform,
    "remove": _remove,
    "pattern": _pattern,
    "shuffle": _shuffle,
}
