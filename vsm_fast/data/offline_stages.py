"""The stages of dataset generation without pretrained models of others."""

from __future__ import annotations

import cv2
import numpy as np

from vsm_fast.data.alterations import KINDS, MIN_CHANGE, alter, perceptual_change, to_lab
from vsm_fast.data.pairs import Mask, Pixels
from vsm_fast.data.stages import Alteration, AlterationRequest

_RIM = 0.03  # of the longer side: a subject seldom touches the image's border all around
_ROUNDS = 5
_GRABCUT_SIDE = 192  # its time grows with the area: 0.5 s here, 3.3 s at 512 pixels
_LOCAL_CHANGE = 3.0  # CIE Lab units; 2.3 is just noticeable on flat colour
_LOCAL_WINDOW = 9


class GrabCutMasker:
    """The subject by GrabCut (Rother, Kolmogorov and Blake, 2004): centred, unlike its rim."""

    name = "grabcut"

    def __call__(self, pixels: Pixels, subject: str) -> Mask | None:
        """Bool [H, W], the largest piece that is not background; None when nothing is left."""
        scale = min(1.0, _GRABCUT_SIDE / max(pixels.shape[:2]))
        small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        height, width = small.shape[:2]
        rim = max(1, round(_RIM * max(height, width)))
        if min(height, width) <= 4 * rim:
            return None
        labels = np.zeros((height, width), np.uint8)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        frame = (rim, rim, width - 2 * rim, height - 2 * rim)
        cv2.setRNGSeed(0)  # its clustering starts at random
        cv2.grabCut(small, labels, frame, *models, _ROUNDS, cv2.GC_INIT_WITH_RECT)
        found = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
        found = cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3)))
        count, pieces, sizes, _ = cv2.connectedComponentsWithStats(found)
        if count < 2:
            return None
        largest = (pieces == 1 + sizes[1:, cv2.CC_STAT_AREA].argmax()).astype(np.float32)
        smooth = cv2.resize(largest, pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(smooth > 0.5)


class OfflineAlterer:
    """The alterations of ``vsm_fast.data.alterations``."""

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
