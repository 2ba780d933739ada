"""Subject masks by GrabCut, without a model."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# Chosen on half of the subjects in docs/how-to/masks.md, measured on the other half.
_SIDE = 192  # pixels of the longer side; time grows with the area
_RIM = 0.03  # of the longer side: a subject seldom touches the whole border
_ELLIPSE = 0.8  # of the image's half axes: initial guess of the subject
_ROUNDS = 2  # further rounds take time and change little


class GrabCutMasker:
    """GrabCut (Rother, Kolmogorov and Blake, 2004) for a central subject unlike its surroundings.

    An ellipse around the centre starts as probable subject, the rest as probable background and the
    border as certain background; GrabCut moves the outline to changes of colour. An image gives the
    same mask in every thread: OpenCV's random numbers, which initialise its clustering, are
    thread-local and seeded per image.
    """

    name = "grabcut"

    def __call__(self, pixels: NDArray[np.uint8], subject: str) -> NDArray[np.bool_] | None:
        """Find the subject.

        Args:
            pixels: uint8 [H, W, 3], RGB.
            subject: Ignored.

        Returns:
            bool [H, W], the largest connected foreground region; None if there is none.
        """
        scale = min(1.0, _SIDE / max(pixels.shape[:2]))
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        y = (2 * np.arange(height)[:, None] + 1) / height - 1
        x = (2 * np.arange(width) + 1) / width - 1
        labels = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
        labels[x**2 + y**2 < _ELLIPSE**2] = cv2.GC_PR_FGD
        rim = max(1, round(_RIM * max(height, width)))
        border = np.ones((height, width), bool)
        border[rim : height - rim, rim : width - rim] = False
        labels[border] = cv2.GC_BGD
        if not (labels == cv2.GC_PR_FGD).any():  # the image is all border
            return None
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(0)
        cv2.grabCut(small, labels, None, *models, _ROUNDS, cv2.GC_INIT_WITH_MASK)
        foreground = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
        foreground = cv2.morphologyEx(foreground, cv2.MORPH_OPEN, np.ones((3, 3)))
        count, regions, sizes, _ = cv2.connectedComponentsWithStats(foreground)
        if count < 2:
            return None
        largest = (regions == 1 + sizes[1:, cv2.CC_STAT_AREA].argmax()).astype(np.float32)
        smooth = cv2.resize(largest, pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(smooth > 0.5)
