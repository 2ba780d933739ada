"""Images with the descriptors of their subjects: the input of every figure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vsm_fast.descriptors import Descriptors
from vsm_fast.errors import InputError, Status, VSMError
from vsm_fast.images.framing import Box
from vsm_fast.images.inputs import Images, Masks, image_list, mask_list
from vsm_fast.images.loading import load_image
from vsm_fast.images.subjects import prepare_subject
from vsm_fast.results.heatmap import cell_centres, cells_to_pixels
from vsm_fast.scorer import VSMScorer

DRAWN_SIDE = 720  # pixels of the longer side of an image in a figure, enough at 200 dpi


class TooFewPointsError(VSMError, ValueError):
    """The subjects have fewer points than a figure needs."""


@dataclass(frozen=True, eq=False)
class SubjectView:
    """One image in the resolution of figures, with the descriptors of its subject.

    Attributes:
        name: Label in figures.
        photograph: uint8 [H, W, 3], upright RGB; its longer side has ``DRAWN_SIDE`` pixels.
        mask: bool [H, W], the subject.
        box: (left, top, right, bottom) in pixels of ``photograph``: the region that the
            descriptor grid covers.
        grid: (rows, columns).
        cells: int64 [n], row-major index in ``grid`` of each point.
        semantic: float32 [n, D_s], unit length.
        visual: float32 [n, D_v], unit length.
    """

    name: str
    photograph: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    box: Box
    grid: tuple[int, int]
    cells: NDArray[np.int64]
    semantic: NDArray[np.float32]
    visual: NDArray[np.float32]

    def centres(self) -> NDArray[np.float64]:
        """Return the centres of the points' cells: float64 [n, 2], (x, y) in pixels."""
        return cell_centres(self.cells, self.grid, self.box)

    def frame(self) -> NDArray[np.float64]:
        """Return the smallest and the largest (x, y) of the points: float64 [2, 2]."""
        centres = self.centres()
        return np.stack([centres.min(axis=0), centres.max(axis=0)])

    def paint(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resample values of the points to pixels, as heat maps do.

        Args:
            values: float32 [n, C].

        Returns:
            float32 [H, W, C]; NaN off the subject.
        """
        maps = [
            cells_to_pixels(self.cells, channel, self.grid, self.box, self.mask)
            for channel in values.T
        ]
        return np.stack(maps, axis=-1)


@dataclass(frozen=True, eq=False)
class SubjectViews:
    """The images of a figure, in order, with their descriptors and thresholds in [-1, 1]."""

    views: tuple[SubjectView, ...]
    descriptors: Descriptors
    scorer: VSMScorer
    semantic_threshold: float
    visual_threshold: float

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> SubjectView:
        return self.views[index]

    def branch(self, name: str) -> list[NDArray[np.float32]]:
        """Return the ``"semantic"`` or ``"visual"`` descriptors per image, float32 [n, D]."""
        return [getattr(view, name) for view in self.views]


def describe_subjects(
    scorer: VSMScorer,
    images: Images,
    masks: Masks = None,
    *,
    names: Sequence[str] | None = None,
    semantic_threshold: float | None = None,
    visual_threshold: float | None = None,
    crop: bool = False,
) -> SubjectViews:
    """Extract the descriptors of images for figures.

    Args:
        scorer: The model.
        images: As for :meth:`VSMScorer.describe`, at least one.
        masks: Subject masks as for :meth:`VSMScorer.describe`; None = the alpha channel if there
            is one, else the whole image.
        names: Labels of the images; None = their file names, or their positions.
        semantic_threshold: In [-1, 1]; None = the model's.
        visual_threshold: In [-1, 1]; None = the model's.
        crop: Show only the region that the network sees. It is smaller than the image for models
            with ``"subject"`` framing.

    Raises:
        InputError: If an image or a mask is unusable, or a mask marks nothing.
        PairingError: If the numbers of masks and images differ.
        ValueError: If there is no image, the number of names differs from that of images, or a
            threshold is out of range.
    """
    listed = image_list(images, "images")
    if not listed:
        raise ValueError("describe_subjects needs at least one image; got none.")
    if names is None:
        names = [
            Path(os.fsdecode(image)).name if isinstance(image, str | os.PathLike)
            else f"image {position}"
            for position, image in enumerate(listed)
        ]  # fmt: skip
    if len(names) != len(listed):
        raise ValueError(f"names must be one per image, {len(listed)}; got {len(names)}.")
    thresholds = scorer.config.thresholds
    semantic = thresholds.semantic if semantic_threshold is None else float(semantic_threshold)
    visual = thresholds.visual if visual_threshold is None else float(visual_threshold)
    for name, value in (("semantic", semantic), ("visual", visual)):
        if not -1 <= value <= 1:
            raise ValueError(f"{name}_threshold must be a similarity in [-1, 1]; got {value}.")

    drawn, subject_masks = [], []
    for image, mask, name in zip(
        listed, mask_list(masks, len(listed), "image"), names, strict=True
    ):
        subject = prepare_subject(image, mask, name, scorer.config)
        if subject.status is not Status.OK:
            raise InputError(subject.status, subject.reason)
        assert subject.mask is not None  # true of every subject with status "ok"
        subject_masks.append(subject.mask)
        pixels, region, box = load_image(image).pixels, subject.mask, subject.box
        if crop:
            left, top, right, bottom = box
            pixels, region = pixels[top:bottom, left:right], region[top:bottom, left:right]
            box = (0, 0, right - left, bottom - top)
        drawn.append(_at_drawn_size(pixels, region, box))
    descriptors = scorer.describe(listed, subject_masks)
    views = []
    for index, (name, (photograph, on, box)) in enumerate(zip(names, drawn, strict=True)):
        rows = descriptors.rows(index)
        cells = descriptors.cells[rows].numpy()
        branches = (
            values[rows].float().cpu().numpy()
            for values in (descriptors.semantic, descriptors.visual)
        )
        views.append(SubjectView(name, photograph, on, box, descriptors.grid, cells, *branches))
    return SubjectViews(tuple(views), descriptors, scorer, semantic, visual)


def _at_drawn_size(
    pixels: NDArray[np.uint8], mask: NDArray[np.bool_], box: Box
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], Box]:
    """Scale photograph, mask and box to a longer side of ``DRAWN_SIDE`` pixels.

    Small images are enlarged: a grid finer than their pixels stays visible.
    """
    height, width = mask.shape
    scale = DRAWN_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    photograph = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    share = np.asarray(Image.fromarray(mask).convert("L").resize(size, Image.Resampling.BOX))
    # A subject too small to fill half a pixel keeps the pixels that it touches.
    scaled_mask = share >= 128 if (share >= 128).any() else share > 0

    def span(low: int, high: int, scale: float, limit: int) -> tuple[int, int]:
        """Scale a span to at least one pixel inside [0, limit)."""
        start = min(round(low * scale), limit - 1)
        return start, min(max(round(high * scale), start + 1), limit)

    left, right = span(box[0], box[2], size[0] / width, size[0])
    top, bottom = span(box[1], box[3], size[1] / height, size[1])
    return np.asarray(photograph), scaled_mask, (left, top, right, bottom)
