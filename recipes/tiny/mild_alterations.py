"""Alterations close to the original, for training only.

Generators rarely paste a foreign texture: they shift a colour, smooth a detail away, or insert
something with the same average look. A network trained on crude alterations alone detects only
crude ones. None of these kinds is in ``alterations.KINDS``, the kinds of the test pairs.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vsm_fast.lab.pairs.alterations import strongest_change
from vsm_fast.lab.pairs.pairs import Mask, Pixels

Floats = NDArray[np.float32]

MILD_KINDS = ("blend", "matched", "tint", "smooth", "channels", "invert", "moved")
MIN_MILD_CHANGE = 6.0  # CIE Lab units; below ``alterations.MIN_CHANGE``, above just noticeable


def alter_mildly(
    kind: str, pixels: Pixels, part: Mask, rng: np.random.Generator, donor: Pixels
) -> Pixels:
    """Alter a part of an image slightly.

    Args:
        kind: One of ``MILD_KINDS``.
        pixels: uint8 [H, W, 3].
        part: bool [H, W] with at least one True.
        rng: Source of randomness.
        donor: uint8 [h, w, 3], resized to fit, for kinds that mix in another picture.

    Returns:
        uint8 [H, W, 3]; unchanged outside the part. If no attempt reaches ``MIN_MILD_CHANGE``,
        the strongest.

    Raises:
        ValueError: If the kind is unknown, or the part is empty or of another size.
    """
    if kind not in MILD_KINDS:
        raise ValueError(f"kind must be one of {MILD_KINDS}; got {kind!r}.")
    if part.shape != pixels.shape[:2] or not part.any():
        raise ValueError(
            f"part must mark a pixel of the image's {pixels.shape[:2]} (height, width); got "
            f"{part.shape} with {np.count_nonzero(part)} marked."
        )
    other = cv2.resize(donor, pixels.shape[1::-1], interpolation=cv2.INTER_AREA)

    def paint(attempt: int) -> Floats:
        source = pixels.astype(np.float32)
        painted = _paint(kind, source, part, rng, other.astype(np.float32), attempt)
        return np.clip(painted, 0, 255)

    return strongest_change(pixels, part, MIN_MILD_CHANGE, paint)


def _paint(
    kind: str, pixels: Floats, part: Mask, rng: np.random.Generator, donor: Floats, attempt: int
) -> Floats:
    match kind:
        case "blend":  # the donor shines through
            weight = rng.uniform(0.3, 0.6) * (1 - 0.2 * attempt)
            return pixels * np.float32(weight) + donor * np.float32(1 - weight)
        case "matched":  # the donor's texture with the mean and contrast of the part
            mean, spread = donor.mean(axis=(0, 1)), donor.std(axis=(0, 1)) + 3
            target = pixels[part].mean(axis=0) + rng.normal(0, 4 * (attempt + 1), 3)
            contrast = pixels[part].std(axis=0) + 4 * attempt
            return np.asarray((donor - mean) / spread * contrast + target, np.float32)
        case "tint":  # a slight change of hue, saturation and lightness
            lab = cv2.cvtColor(pixels / 255, cv2.COLOR_RGB2LAB)
            angle, push = rng.uniform(0, 2 * np.pi), rng.uniform(9, 18) * (1 + 0.4 * attempt)
            lab[..., 0] = np.clip(lab[..., 0] * (1 + rng.uniform(-0.15, 0.15)), 0, 100)
            lab[..., 1:] *= np.float32(rng.uniform(0.6, 1.2))
            hue = np.array([np.cos(angle), np.sin(angle)], np.float32)
            lab[..., 1:] += hue * np.float32(push)
            return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * 255, np.float32)
        case "smooth":  # details blurred away, a little lighter or darker
            blurred = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(4, 9) * (1 + attempt))
            return np.asarray(blurred * (1 + rng.uniform(-0.12, 0.12) * (attempt + 1)), np.float32)
        case "channels":  # red, green and blue change places
            if attempt == 0:
                return pixels[..., rng.permutation(3)]
            return np.roll(pixels, 1 + attempt % 2, axis=2)
        case "invert":  # inverted around the mean of the part, then a full negative
            return 255 - pixels if attempt else 2 * pixels[part].mean(axis=0) - pixels
    # "moved": pixels from about a part's width away, possibly turned or mirrored
    ys, xs = np.nonzero(part)
    centre = float(xs.mean()), float(ys.mean())
    reach = np.sqrt(len(ys)) * rng.uniform(0.4, 1.0 + 0.2 * attempt)
    angle = rng.uniform(0, 2 * np.pi)
    motion = cv2.getRotationMatrix2D(centre, rng.choice([0.0, 90.0, 180.0, rng.uniform(0, 360)]), 1)
    if rng.random() < 0.3:
        motion = motion @ np.array([[-1, 0, 2 * centre[0]], [0, 1, 0], [0, 0, 1]])
    motion[:, 2] += reach * np.array([np.cos(angle), np.sin(angle)])
    size = pixels.shape[1::-1]
    moved = cv2.warpAffine(pixels, motion, size, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.float32)
