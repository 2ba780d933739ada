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
from vsm_fast.images.masks import subject_mask

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
    folders = [root / name for name in subjects] or sorted(p for p in root.iterdir() if p.is_dir())
    photographs = []
    for folder in folders:
        if not folder.is_dir():
            raise PairingError(f"no photographs of {folder.name!r}: {folder} is not a folder.")
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in SUFFIXES or path.stem.endswith("_mask"):
                continue
            image = load_image(path)
            mask = None
            for place in (path.parent, *([masks / folder.name] if masks is not None else [])):
                mask_path = place / f"{path.stem}_mask.png"
                if mask_path.exists():
                    mask = subject_mask(mask_path, image).pixels
                    break
            photographs.append(Photograph(folder.name, path.stem, image.pixels, mask))
    if not photographs:
        raise PairingError(f"no photographs under {root}: sub-folders with .jpg or .png expected.")
    return photographs
