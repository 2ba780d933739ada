"""The stages of dataset generation without pretrained models of others."""

from __future__ import annotations

import cv2
import numpy as np

from vsm_fast.lab.pairs.alterations import KINDS, MIN_CHANGE, alter, perceptual_change, to_lab
from vsm_fast.lab.pairs.pairs import Mask, Pixels
from vsm_fast.lab.pairs.stages import Alteration, AlterationRequest

_LOCAL_CHANGE = 3.0  # CIE Lab units; 2.3 is just noticeable on flat colour
_LOCAL_WINDOW = 9


class OfflineAlterer:
    """The alterations of ``vsm_fast.lab.pairs.alterations``."""

    name = "offline"
    kinds: tuple[str, ...] = KINDS

    def __call__(self, request: AlterationRequest) -> Alteration:
        """Alter the part; what is returned as altered is what can be seen to have changed."""
        kind = request.kind or str(request.rng.choice(self.kinds))
        pixels, part = alter(
            kind, request.pixels, request.part, request.mask, request.rng, donor=request.donor
        )
        seen = visibly_changed(request.pixels, pixels, part)
        # What cannot be seen is undone, so that view 1 differs nowhere but in its part.
        return Alteration(np.where(seen[..., None], pixels, request.pixels), seen, kind)


class LabChange:
    """Mean colour difference in CIE Lab: the documented stand-in for LPIPS above 0.15."""

    name = "lab"
    threshold = MIN_CHANGE

    def __call__(self, before: Pixels, after: Pixels, part: Mask) -> float:
        """See ``perceptual_change``."""
        return perceptual_change(before, after, part)


def visibly_changed(before: Pixels, after: Pixels, part: Mask) -> Mask:
    """The part without regions that an alteration left as they were.

    An inpainted wall of one colour is the wall that it was; counting it as altered would teach
    and measure a difference that nobody can see.

    Args:
        before: uint8 [H, W, 3].
        after: uint8 [H, W, 3].
        part: bool [H, W], what was asked for.

    Returns:
        bool [H, W], inside ``part``: pixels around which the mean difference exceeds 3 CIE Lab
        units, smoothed.
    """
    difference = np.linalg.norm(to_lab(before) - to_lab(after), axis=2) * part
    weight = cv2.blur(part.astype(np.float32), (_LOCAL_WINDOW, _LOCAL_WINDOW))
    local = cv2.blur(difference, (_LOCAL_WINDOW, _LOCAL_WINDOW)) / np.maximum(weight, 1e-6)
    seen = ((local > _LOCAL_CHANGE) & part).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    seen = cv2.morphologyEx(cv2.morphologyEx(seen, cv2.MORPH_CLOSE, disc), cv2.MORPH_OPEN, disc)
    return np.asarray((seen > 0) & part)
