"""Assignment of masks to images by file name.

``NAME_mask.*`` is the mask of ``NAME.*``, with any suffix. Names are compared in NFC; case counts
only where it distinguishes two images.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vsm_fast.errors import PairingError

MASK_ENDING = "_mask"


def stem_of(name: str) -> str:
    """Return the file name without folder and suffix, with accents in NFC."""
    return unicodedata.normalize("NFC", os.path.splitext(os.path.basename(name))[0])  # noqa: PTH119, PTH122


def is_mask_name(name: str) -> bool:
    """Return whether a file is named like a mask."""
    return stem_of(name).casefold().endswith(MASK_ENDING)


@dataclass(frozen=True)
class MaskNames:
    """Masks and the images that they fit.

    Attributes:
        masks: Candidate masks of each image that has any.
        owners: Candidate images of each mask; empty for a mask without an image.
    """

    masks: Mapping[str, Sequence[str]]
    owners: Mapping[str, Sequence[str]]

    def of(self, image: str) -> str | None:
        """Return the mask of an image, or None.

        Raises:
            PairingError: If several masks fit the image, or its mask fits several images.
        """
        masks = self.masks.get(image, ())
        if len(masks) > 1:
            raise PairingError(f"{image} has more than one mask: {', '.join(masks)}. Keep one.")
        if masks and len(self.owners[masks[0]]) > 1:
            raise PairingError(
                f"{masks[0]} would be the mask of both {' and '.join(self.owners[masks[0]])}. "
                "Give the images different names, or list the masks in a manifest."
            )
        return masks[0] if masks else None


def match_masks(images: Iterable[str], masks: Iterable[str], *, bare: bool = False) -> MaskNames:
    """Assign masks to images.

    Args:
        images: Paths or names of the images of one folder.
        masks: Paths or names of the masks of one folder.
        bare: Accept ``NAME.*`` as a mask too, as in a folder of masks only.
    """
    exact, folded = defaultdict(list), defaultdict(list)
    for image in images:
        exact[stem_of(image)].append(image)
        folded[stem_of(image).casefold()].append(image)
    candidates: dict[str, list[str]] = defaultdict(list)
    owners: dict[str, Sequence[str]] = {}
    for mask in masks:
        stem = stem_of(mask)
        stems = [stem] if bare else []
        if is_mask_name(mask):
            stems.append(stem[: -len(MASK_ENDING)])
        fitting = [exact[s] for s in stems if s in exact]
        fitting += [folded[s.casefold()] for s in stems if s.casefold() in folded]
        owners[mask] = fitting[0] if fitting else ()
        for image in owners[mask]:
            candidates[image].append(mask)
    return MaskNames(candidates, owners)
