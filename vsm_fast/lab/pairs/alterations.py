"""Controlled alterations of a part of a subject, offline.

Each kind changes the pixels of a part mask and leaves the rest as it was. ``alter`` makes sure
that the change can be seen: the mean colour difference inside the part reaches a floor.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

KINDS = ("texture", "inpaint", "recolour", "deform", "remove", "pattern", "shuffle")
MIN_CHANGE = 8.0  # CIE Lab units; about 2.3 is just noticeable on flat colour
_TRIES = 4


def random_part(
    rng: np.random.Generator, subject: Mask, area_share: tuple[float, float] = (0.05, 0.6)
) -> Mask:
    """A part of the subject: a blob around a random point of it.

    The blob holds the subject's pixels nearest to the point in a noisy, stretched metric, as
    many as the drawn share asks for, so that the share is exact to a pixel.

    Args:
        rng: Source of randomness.
        subject: bool [H, W] with at least one True.
        area_share: Range of ``area(part) / area(subject)``, in (0, 1).

    Returns:
        bool [H, W], inside the subject.

    Raises:
        ValueError: The subject is empty, or the shares are not an ascending range in (0, 1).
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
    """Colours in CIE Lab units, float32 [H, W, 3]."""
    return cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def perceptual_change(before: Pixels, after: Pixels, part: Mask) -> float:
    """Mean colour difference inside a part, in CIE Lab units, over two scales.

    The mean of the difference of the pixels and of their 8-pixel averages: texture and overall
    colour both count. A stand-in for LPIPS that needs no weights.
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
    """Alter a part of a picture.

    Args:
        kind: One of ``KINDS``.
        pixels: uint8 [H, W, 3].
        part: bool [H, W], what to alter.
        subject: bool [H, W].
        rng: Source of randomness.
        donor: uint8 [h, w, 3], resized to fit, for kinds that paste; noise if None.

    Returns:
        The picture, and the part (bool [H, W]) that changed. The picture differs only inside
        the part. When no try reaches ``MIN_CHANGE``, the strongest is returned.

    Raises:
        ValueError: An unknown kind, masks of another size, or an empty part or subject.
    """
    if kind not in _ALTERATIONS:
        raise ValueError(f"kind must be one of {KINDS}; got {kind!r}.")
    for name, mask in (("part", part), ("subject", subject)):
        if mask.shape != pixels.shape[:2]:
            raise ValueError(
                f"the {name} mask is {mask.shape}, the picture {pixels.shape[:2]} (height, width); "
                "resize the mask to the picture."
            )
        # An empty part has no centre: the swirl would sample at NaN, where OpenCV never returns.
        if not mask.any():
            raise ValueError(f"the {name} mask is empty; at least one pixel is needed.")
    if donor is None:
        donor = rng.integers(0, 256, pixels.shape, np.uint8)
    best, best_change = pixels, -1.0
    for attempt in range(_TRIES):
        painted = _ALTERATIONS[kind](pixels, part, subject, rng, donor, 1 + 0.5 * attempt)
        result = paste(pixels, painted, part)
        change = perceptual_change(pixels, result, part)
        if change > best_change:
            best, best_change = result, change
        if change >= MIN_CHANGE:
            break
    return best, part.copy()


def paste(pixels: Pixels, painted: NDArray[np.generic], part: Mask) -> Pixels:
    """Put painted pixels into a part, with a soft edge on its inside.

    A hard edge would be a clue that real edits do not leave.

    Args:
        pixels: uint8 [H, W, 3].
        painted: [H, W, 3], uint8 or float in [0, 255].
        part: bool [H, W].

    Returns:
        uint8 [H, W, 3]; equals ``pixels`` outside the part.
    """
    inner = cv2.erode(part.astype(np.uint8), np.ones((3, 3))).astype(np.float32)
    alpha = cv2.GaussianBlur(inner, (0, 0), 1.0)[..., None] * part[..., None]
    result: Pixels = (pixels * (1 - alpha) + painted * alpha + 0.5).astype(np.uint8)
    result[~part] = pixels[~part]
    return result


def _texture(
    pixels: Pixels, part: Mask, subject: Mask, rng: np.random.Generator, donor: Pixels, power: float
) -> Pixels:
    """Another picture's texture, half of the time blended in by Poisson editing."""
    turned = np.ascontiguousarray(np.rot90(donor, int(rng.integers(4))))
    turned = cv2.resize(turned, pixels.shape[1::-1])
    if power > 1 or rng.random() < 0.5:
        return turned
    ys, xs = np.nonzero(part)
    top, bottom, left, right = ys.min(), ys.max(), xs.min(), xs.max()
    height, width = part.shape
    if top < 1 or left < 1 or bottom > height - 2 or right > width - 2:
        return turned
    centre = (int(left + right + 1) // 2, int(top + bottom + 1) // 2)
    return cv2.seamlessClone(turned, pixels, part.astype(np.uint8) * 255, centre, cv2.NORMAL_CLONE)


def _inpaint(
    pixels: Pixels, part: Mask, subject: Mask, rng: np.random.Generator, donor: Pixels, power: float
) -> Pixels:
    """The part filled in from its border, with grain, as an eraser would."""
    small = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    hole = cv2.resize(part.astype(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    filled = cv2.inpaint(small, cv2.dilate(hole, np.ones((3, 3))), 3, cv2.INPAINT_TELEA)
    filled = cv2.resize(filled, pixels.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    shade = 1 + (power - 1) * rng.uniform(-0.6, 0.6, 3)
    grain = rng.normal(0, 4, pixels.shape)
    return np.clip(filled * shade + grain, 0, 255).astype(np.uint8)


def _recolour(
    pixels: Pixels, part: Mask, subject: Mask, rng: np.random.Generator, donor: Pixels, power: float
) -> Pixels:
    """Another hue, saturation and lightness; the texture stays."""
    lab = to_lab(pixels)
    angle = rng.uniform(0, 2 * np.pi)
    push = rng.uniform(18, 50) * power
    lab[..., 0] = np.clip(lab[..., 0] * (1 + rng.uniform(-0.3, 0.3) * power), 0, 100)
    lab[..., 1:] = lab[..., 1:] * rng.uniform(-0.6, 0.9) + push * np.array(
        [np.cos(angle), np.sin(angle)], np.float32
    )
    rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.clip(rgb * 255, 0, 255).astype(np.uint8)


def _deform(
    pixels: Pixels, part: Mask, subject: Mask, rng: np.random.Generator, donor: Pixels, power: float
) -> Pixels:
    """A swirl and ripples that move details within the part."""
    height, width = part.shape
    ys, xs = np.nonzero(part)
    centre_x, centre_y = xs.mean(), ys.mean()
    radius = max(4.0, np.sqrt(len(ys) / np.pi))
    grid_x, grid_y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height))
    dx, dy = grid_x - centre_x, grid_y - centre_y
    distance = np.hypot(dx, dy)
    turn = rng.choice([-1, 1]) * rng.uniform(2.0, 3.5) * power * np.exp(-distance / radius)
    wave = rng.uniform(0.06, 0.14) * radius * power
    period = rng.uniform(0.25, 0.5) * radius
    x = centre_x + np.cos(turn) * dx - np.sin(turn) * dy + wave * np.sin(grid_y / period)
    y = centre_y + np.sin(turn) * dx + np.cos(turn) * dy + wave * np.sin(grid_x / period)
    return cv2.remap(
        pixels, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )  # fmt: skip


def _remove(
    pixels: Pixels, part: Mask, subject: Mask, rng: np.random.Generator, donor: Pixels, power: float
) -> Pixels:
    """The background continues where the part was."""
    small = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    hole = cv2.resize(subject.astype(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    hole = cv2.dilate(hole, np.ones((5, 5)))
    filled = cv2.inpaint(small, hole, 3, cv2.INPAINT_TELEA)
    filled = cv2.resize(filled, pixels.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    if power > 1:  # the background looks like the subject here: bring in another one
        other = cv2.resize(donor, pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
        filled = cv2.addWeighted(filled, 0.3, other, 0.7, 0)
    return np.clip(filled + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)


def _pattern(
    pixels: Pixels, part: Mask, subject: Mask, rng: np.random.Generator, donor: Pixels, power: float
) -> Pixels:
    """Stripes, dots or checks printed over the part; its shading stays."""
    height, width = part.shape
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 22)
    grid_x, grid_y = np.meshgrid(np.arange(width), np.arange(height))
    u = (np.cos(angle) * grid_x + np.sin(angle) * grid_y) * 2 * np.pi / period
    v = (-np.sin(angle) * grid_x + np.cos(angle) * grid_y) * 2 * np.pi / period
    choice = rng.integers(3)
    waves = (np.sin(u), np.sin(u) * np.sin(v), np.sin(u) + np.sin(v) - 0.9)
    print_ = np.clip(waves[choice] * 4 + 0.5, 0, 1)[..., None]
    colours = rng.uniform(0, 255, (2, 3))
    flat = colours[0] * print_ + colours[1] * (1 - print_)
    light = cv2.GaussianBlur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (0, 0), 2).astype(np.float32)
    shading = light / max(float(light[part].mean()), 8.0)
    return np.clip(flat * (0.35 + 0.65 * shading[..., None]), 0, 255).astype(np.uint8)


def _shuffle(
    pixels: Pixels, part: Mask, subject: Mask, rng: np.random.Generator, donor: Pixels, power: float
) -> Pixels:
    """Square tiles of the subject, permuted and turned."""
    height, width = part.shape
    tile = int(rng.integers(12, 25))
    ys, xs = np.nonzero(subject)
    padded = cv2.copyMakeBorder(pixels, 0, tile, 0, tile, cv2.BORDER_REFLECT_101)
    result = pixels.copy()
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            here = result[top : top + tile, left : left + tile]
            pick = rng.integers(len(ys))
            source = padded[ys[pick] : ys[pick] + tile, xs[pick] : xs[pick] + tile]
            turned = np.rot90(source, int(rng.integers(4)))
            here[:] = turned[: here.shape[0], : here.shape[1]]
    return result


_ALTERATIONS: dict[str, Callable[..., Pixels]] = {
    "texture": _texture,
    "inpaint": _inpaint,
    "recolour": _recolour,
    "deform": _deform,
    "remove": _remove,
    "pattern": _pattern,
    "shuffle": _shuffle,
}
