"""Photographs of subjects on disk, in the layout of the DreamBooth dataset.

``ROOT/SUBJECT/NN.jpg`` is a photograph, ``ROOT/SUBJECT/NN_mask.png`` marks its subject.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vsm_fast.errors import PairingError
from vsm_fast.images.loading import load_image
from vsm_fast.images.mask_names import is_mask_name, match_masks
from vsm_fast.images.masks import subject_mask
from vsm_fast.jobs.folders import IMAGE_SUFFIXES
from vsm_fast.jobs.records import is_hidden

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class Photograph:
    """One photograph: ``pixels`` uint8 [H, W, 3]; ``mask`` bool [H, W], None if there is none."""

    subject: str
    name: str
    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None


def load_photographs(
    root: Path, subjects: tuple[str, ...] = (), masks: Path | None = None
) -> list[Photograph]:
    """Read the photographs of some subjects, or of all, in sorted order.

    Args:
        root: Folder with one sub-folder per subject.
        subjects: Sub-folders to read; all when empty.
        masks: Another folder of ``SUBJECT/NN_mask.png``, for photographs without a mask of
            their own.

    Raises:
        PairingError: A subject is missing or has no photograph.
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
        found = [
            match_masks(map(str, paths), _masks_in(place)) for place in places if place.is_dir()
        ]
        for path in paths:
            image = load_image(path)
            mask = None
            if place := next(filter(None, (one.of(str(path)) for one in found)), None):
                mask = subject_mask(place, image).pixels
            photographs.append(Photograph(folder.name, path.stem, image.pixels, mask))
    if not photographs:
        raise PairingError(f"no photographs under {root}: sub-folders with .jpg or .png expected.")
    return photographs


def photographs_in(folder: Path) -> list[Path]:
    """The photographs directly in a folder, in sorted order."""
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
