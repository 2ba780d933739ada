"""Photographs of subjects, in the folder layout of the DreamBooth dataset.

``ROOT/SUBJECT/NN.jpg`` is a photograph, ``ROOT/SUBJECT/NN_mask.png`` its subject mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vsm_fast.errors import PairingError
from vsm_fast.images.loading import load_image
from vsm_fast.images.mask_names import is_mask_name, match_masks
from vsm_fast.images.masks import subject_mask
from vsm_fast.jobs.folders import IMAGE_SUFFIXES
from vsm_fast.jobs.records import is_hidden
from vsm_fast.lab.pairs.pairs import Mask, Pixels

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class Photograph:
    """A photograph: ``pixels`` uint8 [H, W, 3]; ``mask`` bool [H, W], or None."""

    subject: str
    name: str
    pixels: Pixels
    mask: Mask | None

    @property
    def origin(self) -> str:
        """Return ``SUBJECT/NAME``."""
        return f"{self.subject}/{self.name}"

    @property
    def masked(self) -> bool:
        """Return whether the mask marks a subject."""
        return self.mask is not None and bool(self.mask.any())


def load_photographs(
    root: Path, subjects: tuple[str, ...] = (), masks: Path | None = None
) -> list[Photograph]:
    """Load the photographs of some or all subjects, in sorted order.

    Args:
        root: Folder with one sub-folder per subject.
        subjects: Sub-folders to read; all if empty.
        masks: Further folder of ``SUBJECT/NN_mask.png``, for photographs without a mask.

    Raises:
        PairingError: If a subject is missing, or there is no photograph.
    """
    folders = [root / name for name in subjects] or sorted(
        path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name)
    )
    photographs = []
    for folder in folders:
        if not folder.is_dir():
            raise PairingError(f"no photographs of {folder.name!r}: {folder} is not a folder.")
        paths = photographs_in(folder)
        places = [folder] if masks is None else [folder, masks / folder.name]
        matches = [
            match_masks(map(str, paths), _masks_in(place)) for place in places if place.is_dir()
        ]
        for path in paths:
            image = load_image(path)
            mask_path = next(filter(None, (match.of(str(path)) for match in matches)), None)
            mask = None if mask_path is None else subject_mask(mask_path, image).pixels
            photographs.append(Photograph(folder.name, path.stem, image.pixels, mask))
    if not photographs:
        raise PairingError(f"no photographs in {root}: expected sub-folders with .jpg or .png.")
    return photographs


def photographs_in(folder: Path) -> list[Path]:
    """Return the photographs directly in a folder, in sorted order."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and not (is_hidden(path.name) or is_mask_name(path.name))
    ]


def _masks_in(folder: Path) -> list[str]:
    return [
        str(path)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES
        and is_mask_name(path.name)
        and not is_hidden(path.name)
    ]


def frame_photograph(photo: Photograph, rng: np.random.Generator, size: int) -> tuple[Pixels, Mask]:
    """Crop the subject of a photograph to a square of ``size`` pixels with a random margin.

    Raises:
        ValueError: If the photograph has no mask.
    """
    if photo.mask is None or not photo.mask.any():
        raise ValueError(f"{photo.origin} has no mask; select photographs with a mask.")
    rows, columns = np.nonzero(photo.mask)
    centre = np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2
    extent = max(np.ptp(columns), np.ptp(rows)) + 1
    side = extent * rng.uniform(1.15, 1.6)
    centre = centre + rng.uniform(-0.5, 0.5, 2) * (side - extent)
    scale = size / side
    matrix = np.array(
        [[scale, 0, size / 2 - scale * centre[0]], [0, scale, size / 2 - scale * centre[1]]]
    )
    # Bilinear sampling alone would alias when it shrinks: start from an area-averaged copy.
    factor = max(1.0, 1.0 / scale)
    height, width = photo.mask.shape
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    pixels = cv2.resize(photo.pixels, small, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(photo.mask.astype(np.uint8), small, interpolation=cv2.INTER_NEAREST)
    matrix = matrix @ np.diag([width / small[0], height / small[1], 1.0])
    # No reflection: it would mirror the subject outside its mask.
    framed = cv2.warpAffine(pixels, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_NEAREST)
    return framed, inside > 0
