"""The subject of an image without any model: GrabCut on a small copy."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# Chosen on half of the subjects of docs/how-to/masks.md, where the other half measures them.
_SIDE = 192  # pixels of the longer side; the time grows with the area
_RIM = 0.03  # of the longer side: a subject seldom touches the image's border all around
_ELLIPSE = 0.8  # of the image's half axes: where the subject is looked for first
_ROUNDS = 2  # further ones cost their time and change little


class GrabCutMasker:
    """The subject by GrabCut (Rother, Kolmogorov and Blake, 2004): central, unlike the rest.

    What lies in an ellipse around the centre is taken for the subject, what lies outside it for
    the background, the border surely so; GrabCut then moves the line to where colours change. The
    same image gives the same mask in every thread: OpenCV's random numbers, which start its
    clustering, are each thread's own, and are seeded for each image.
    """

    name = "grabcut"

    def __call__(self, pixels: NDArray[np.uint8], subject: str) -> NDArray[np.bool_] | None:
        """Mask the subject.

        Args:
            pixels: uint8 [H, W, 3], RGB.
            subject: Its name, which is not used.

        Returns:
            bool [H, W], the largest piece that is not background; None when nothing is left.
        """
        scale = min(1.0, _SIDE / max(pixels.shape[:2]))
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        labels = _first_guess(height, width)
        if not (labels == cv2.GC_PR_FGD).any():
            return None
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(0)
        cv2.grabCut(small, labels, None, *models, _ROUNDS, cv2.GC_INIT_WITH_MASK)
        found = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
        found = cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3)))
        count, pieces, sizes, _ = cv2.connectedComponentsWithStats(found)
        if count < 2:
            return None
        largest = (pieces == 1 + sizes[1:, cv2.CC_STAT_AREA].argmax()).astype(np.float32)
        smooth = cv2.resize(largest, pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(smooth > 0.5)


def _first_guess(height: int, width: int) -> NDArray[np.uint8]:
    """uint8 [height, width], GrabCut's labels to start from; no subject in tiny images."""
    y = (2 * np.arange(height)[:, None] + 1) / height - 1
    x = (2 * np.arange(width) + 1) / width - 1
    labels = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    labels[x**2 + y**2 < _ELLIPSE**2] = cv2.GC_PR_FGD
    rim = max(1, round(_RIM * max(height, width)))
    core = np.zeros((height, width), bool)
    core[rim : height - rim, rim : width - rim] = True
    labels[~core] = cv2.GC_BGD
    return labels
