"""Alterations that stay close to the original, for training only.

Generators seldom paste a foreign texture: they shift a colour, smooth a detail away, or put in
something with the same average look. A network that has seen only crude alterations learns to
look for crude ones. None of these kinds is among ``alterations.KINDS``, which tests draw from.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from vsm_fast.lab.pairs.alterations import paste, perceptual_change
from vsm_fast.lab.pairs.pairs import Mask, Pixels

Floats = NDArray[np.float32]

MILD_KINDS = ("blend", "matched", "tint", "smooth", "channels", "invert", "moved")
MIN_MILD_CHANGE = 6.0  # CIE Lab units; below ``alterations.MIN_CHANGE``, above what is just seen
_TRIES = 4


def alter_mildly(
    kind: str, pixels: Pixels, part: Mask, rng: np.random.Generator, donor: Pixels
) -> Pixels:
    """Alter a part of a picture slightly.

    Args:
        kind: One of ``MILD_KINDS``.
        pixels: uint8 [H, W, 3].
        part: bool [H, W] with at least one True.
        rng: Source of randomness.
        donor: uint8 [h, w, 3], resized to fit, for kinds that mix another picture in.

    Returns:
        uint8 [H, W, 3]; differs only inside the part. When no try reaches
        ``MIN_MILD_CHANGE``, the strongest is returned.

    Raises:
        ValueError: An unknown kind, a mask of another size, or an empty part.
    """
    if kind not in _ALTERATIONS:
        raise ValueError(f"kind must be one of {MILD_KINDS}; got {kind!r}.")
    if part.shape != pixels.shape[:2] or not part.any():
        raise ValueError(
            f"part must mark a pixel of the picture's {pixels.shape[:2]} (height, width); got "
            f"{part.shape} with {np.count_nonzero(part)} marked."
        )
    other = cv2.resize(donor, pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
    best, best_change = pixels, -1.0
    for attempt in range(_TRIES):
        painted = _ALTERATIONS[kind](
            pixels.astype(np.float32), part, rng, other.astype(np.float32), attempt
        )
        result = paste(pixels, np.clip(painted, 0, 255), part)
        change = perceptual_change(pixels, result, part)
        if change > best_change:
            best, best_change = result, change
        if change >= MIN_MILD_CHANGE:
            break
    return best


def _blend(
    pixels: Floats, part: Mask, rng: np.random.Generator, donor: Floats, attempt: int
) -> Floats:
    """Another picture shines through."""
    kept = rng.uniform(0.3, 0.6) * (1 - 0.2 * attempt)
    return pixels * np.float32(kept) + donor * np.float32(1 - kept)


def _matched(
    pixels: Floats, part: Mask, rng: np.random.Generator, donor: Floats, attempt: int
) -> Floats:
    """Another picture's texture with the mean and contrast of the part it replaces."""
    mean, spread = donor.mean(axis=(0, 1)), donor.std(axis=(0, 1)) + 3
    wanted = pixels[part].mean(axis=0) + rng.normal(0, 4 * (attempt + 1), 3)
    contrast = pixels[part].std(axis=0) + 4 * attempt
    return np.asarray((donor - mean) / spread * contrast + wanted, np.float32)


def _tint(
    pixels: Floats, part: Mask, rng: np.random.Generator, donor: Floats, attempt: int
) -> Floats:
    """A slight change of hue, saturation and lightness."""
    lab = cv2.cvtColor(pixels / 255, cv2.COLOR_RGB2LAB)
    angle, push = rng.uniform(0, 2 * np.pi), rng.uniform(9, 18) * (1 + 0.4 * attempt)
    lab[..., 0] = np.clip(lab[..., 0] * (1 + rng.uniform(-0.15, 0.15)), 0, 100)
    lab[..., 1:] *= np.float32(rng.uniform(0.6, 1.2))
    lab[..., 1:] += np.array([np.cos(angle), np.sin(angle)], np.float32) * np.float32(push)
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * 255, np.float32)


def _smooth(
    pixels: Floats, part: Mask, rng: np.random.Generator, donor: Floats, attempt: int
) -> Floats:
    """Details blurred away, a little lighter or darker."""
    blurred = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(4, 9) * (1 + attempt))
    return np.asarray(blurred * (1 + rng.uniform(-0.12, 0.12) * (attempt + 1)), np.float32)


def _channels(
    pixels: Floats, part: Mask, rng: np.random.Generator, donor: Floats, attempt: int
) -> Floats:
    """Red, green and blue change places."""
    if attempt == 0:
        return pixels[..., rng.permutation(3)]
    return np.roll(pixels, 1 + attempt % 2, axis=2)


def _invert(
    pixels: Floats, part: Mask, rng: np.random.Generator, donor: Floats, attempt: int
) -> Floats:
    """Light becomes dark around the part's mean; then a full negative."""
    if attempt:
        return 255 - pixels
    return 2 * pixels[part].mean(axis=0) - pixels


def _moved(
    pixels: Floats, part: Mask, rng: np.random.Generator, donor: Floats, attempt: int
) -> Floats:
    """What is about a part's width away moves into the part, perhaps turned or mirrored."""
    ys, xs = np.nonzero(part)
    centre = float(xs.mean()), float(ys.mean())
    reach = np.sqrt(len(ys)) * rng.uniform(0.4, 1.0 + 0.2 * attempt)
    angle = rng.uniform(0, 2 * np.pi)
    motion = cv2.getRotationMatrix2D(centre, rng.choice([0.0, 90.0, 180.0, rng.uniform(0, 360)]), 1)
    if rng.random() < 0.3:
        mirror = np.array([[-1, 0, 2 * centre[0]], [0, 1, 0], [0, 0, 1]])
        motion = motion @ mirror
    motion[:, 2] += reach * np.array([np.cos(angle), np.sin(angle)])
    size = pixels.shape[1::-1]
    return np.asarray(
        cv2.warpAffine(pixels, motion, size, borderMode=cv2.BORDER_REFLECT_101), np.float32
    )


_ALTERATIONS: dict[str, Callable[[Floats, Mask, np.random.Generator, Floats, int], Floats]] = {
    "blend": _blend,
    "matched": _matched,
    "tint": _tint,
    "smooth": _smooth,
    "channels": _channels,
    "invert": _invert,
    "moved": _moved,
}
