"""Images with their descriptors, ready to be drawn: what every figure starts from."""

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
from vsm_fast.images.loading import ImageSource, load_image
from vsm_fast.images.subjects import prepare_subject
from vsm_fast.lab.figures.page import footer_of
from vsm_fast.results.heatmap import cell_centres, cells_to_pixels
from vsm_fast.scorer import VSMScorer

DRAWN_SIDE = 720  # pixels of the longer side of an image in a figure, enough at 200 dpi


class TooFewPointsError(VSMError, ValueError):
    """A figure needs more points than the subjects have."""


@dataclass(frozen=True, eq=False)
class SubjectView:
    """One image at the size in which it is drawn, with the descriptors of its subject.

    Attributes:
        name: What to call it in a figure.
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
        """Centres of the points' cells: float64 [n, 2], (x, y) in pixels of ``photograph``."""
        return cell_centres(self.cells, self.grid, self.box)

    def paint(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values of the points as maps over the photograph, as heat maps are made.

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
    """Images that are drawn together; see :func:`describe_subjects`.

    Attributes:
        views: The images, in order.
        descriptors: Of all of them, as the scorer gave them.
        scorer: What described them.
        semantic_threshold: In [-1, 1].
        visual_threshold: In [-1, 1].
    """

    views: tuple[SubjectView, ...]
    descriptors: Descriptors
    scorer: VSMScorer
    semantic_threshold: float
    visual_threshold: float

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> SubjectView:
        return self.views[index]

    def footer(self) -> str:
        """What made a figure of them: model, thresholds and version."""
        return footer_of(self.scorer, self.semantic_threshold, self.visual_threshold)

    def branch(self, name: str) -> list[NDArray[np.float32]]:
        """The ``"semantic"`` or ``"visual"`` descriptors of each image, float32 [n, D]."""
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
    """Describe images in order to draw them.

    Args:
        scorer: The model.
        images: As for :meth:`VSMScorer.describe`, at least one.
        masks: Subject masks as for :meth:`VSMScorer.describe`; None = alpha channel if there is
            one, else the whole image.
        names: What to call the images; None = their file names, or their positions.
        semantic_threshold: In [-1, 1]; None = the model's.
        visual_threshold: In [-1, 1]; None = the model's.
        crop: Draw only the region that the network sees; that is less than the image for models
            whose framing is ``"subject"``.

    Raises:
        InputError: An image or a mask cannot be used, or a mask marks nothing.
        PairingError: Not as many masks as images.
        ValueError: No image, not as many names as images, or a threshold out of range.
    """
    listed = image_list(images, "images")
    if not listed:
        raise ValueError("describe_subjects needs at least one image; got none.")
    if names is not None and len(names) != len(listed):
        raise ValueError(f"names: wanted one per image, {len(listed)}; got {len(names)}.")
    known = names if names is not None else [_name(*item) for item in enumerate(listed)]
    all_masks = mask_list(masks, len(listed), "image")
    thresholds = scorer.config.thresholds
    semantic = thresholds.semantic if semantic_threshold is None else float(semantic_threshold)
    visual = thresholds.visual if visual_threshold is None else float(visual_threshold)
    for name, value in (("semantic", semantic), ("visual", visual)):
        if not -1 <= value <= 1:
            raise ValueError(f"{name}_threshold must be a similarity in [-1, 1]; got {value}.")

    drawn, found = [], []
    for image, mask, name in zip(listed, all_masks, known, strict=True):
        subject = prepare_subject(image, mask, name, scorer.config)
        if subject.status is not Status.OK:
            raise InputError(subject.status, subject.reason)
        assert subject.mask is not None  # of every subject that is ok
        found.append(subject.mask)
        pixels, region, box = load_image(image).pixels, subject.mask, subject.box
        if crop:
            left, top, right, bottom = box
            pixels, region = pixels[top:bottom, left:right], region[top:bottom, left:right]
            box = (0, 0, right - left, bottom - top)
        drawn.append(_at_drawn_size(pixels, region, box))
    descriptors = scorer.describe(listed, found)
    views = tuple(
        _view(name, *parts, descriptors, index)
        for index, (name, parts) in enumerate(zip(known, drawn, strict=True))
    )
    return SubjectViews(views, descriptors, scorer, semantic, visual)


def _name(position: int, image: ImageSource) -> str:
    if isinstance(image, str | os.PathLike):
        return Path(os.fsdecode(image)).name
    return f"image {position}"


def _at_drawn_size(
    pixels: NDArray[np.uint8], mask: NDArray[np.bool_], box: Box
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], Box]:
    """Photograph, mask and box scaled so that the longer side has ``DRAWN_SIDE`` pixels.

    Also upwards: a grid that is finer than the pixels of a small image stays visible.
    """
    height, width = mask.shape
    scale = DRAWN_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    photograph = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    share = Image.fromarray(mask).convert("L").resize(size, Image.Resampling.BOX)
    on = np.asarray(share)
    # A subject that is too small to fill half a pixel keeps the pixels that it touches.
    scaled_mask = on >= 128 if (on >= 128).any() else on > 0
    across, down = size[0] / width, size[1] / height
    left, right = _scaled(box[0], box[2], across, size[0])
    top, bottom = _scaled(box[1], box[3], down, size[1])
    return np.asarray(photograph), scaled_mask, (left, top, right, bottom)


def _scaled(low: int, high: int, scale: float, limit: int) -> tuple[int, int]:
    """A span of at least one pixel inside [0, limit)."""
    start = min(round(low * scale), limit - 1)
    return start, min(max(round(high * scale), start + 1), limit)


def _view(
    name: str,
    photograph: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    box: Box,
    descriptors: Descriptors,
    index: int,
) -> SubjectView:
    rows = descriptors.rows(index)
    return SubjectView(
        name,
        photograph,
        mask,
        box,
        descriptors.grid,
        descriptors.cells[rows].numpy(),
        descriptors.semantic[rows].float().cpu().numpy(),
        descriptors.visual[rows].float().cpu().numpy(),
    )
