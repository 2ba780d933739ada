"""Preparation of one image for the network: decoding, masking, framing and resizing."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vsm_fast.errors import Flag, InputError, Status
from vsm_fast.images.doubts import Fingerprint, fingerprint, mask_doubts
from vsm_fast.images.framing import Box, on_grey, subject_box, to_input
from vsm_fast.images.loading import ImageSource, load_image
from vsm_fast.images.masks import Mask, reduce_mask, subject_mask
from vsm_fast.images.storage import StoredImage
from vsm_fast.model.config import ModelConfig

# The standard error of a share of so few points reaches 0.1.
_LEAST_CELLS = 25
# Mean over the subject. DreamBooth photographs shrunk to 2.4 pixels per cell score within 0.01 of
# the large ones, like those at 40 pixels; the difference is 0.12 at 0.6 and 0.6 at 0.14.
_LEAST_PIXELS_PER_CELL = 2


@dataclass(frozen=True)
class Subject:
    """One image ready for the network, or the reason why it is unusable.

    Attributes:
        status: ``OK``, or the status of every row with this image.
        reason: Explanation of the status; "" if ok.
        notes: Conversions of the image or its mask, and reasons of flags.
        flags: Reasons to doubt the scores of this image.
        mask_origin: ``"given"``, ``"alpha"``, ``"whole image"``, ``"grabcut"``,
            ``"grounded-sam"``; "" if unknown.
        pixels: float32 [3, R, R] in [-1, 1]; None unless ok.
        cell_mask: bool [h, w], the subject on the descriptor grid; None unless ok.
        box: (left, top, right, bottom) in pixels of the region that the network sees.
        size: (H, W) of the image in pixels; zeros if unknown.
        mask: bool [H, W], the subject on the image; None unless ok.
        name: Path of the image; "" for pixels.
        fingerprint: Thumbnail and chroma of the image, for flags of pairs; None unless ok.
    """

    status: Status = Status.OK
    reason: str = ""
    notes: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()
    mask_origin: str = ""
    pixels: Tensor | None = None
    cell_mask: NDArray[np.bool_] | None = None
    box: Box = (0, 0, 0, 0)
    size: tuple[int, int] = (0, 0)
    mask: NDArray[np.bool_] | None = None
    name: str = ""
    fingerprint: Fingerprint | None = None

    def without_pixels(self) -> Subject:
        """Return the subject without its pixels, which a batch holds."""
        return replace(self, pixels=None)

    def summary(self) -> Subject:
        """Return the subject without pixels and masks, as descriptors keep it."""
        return replace(self, pixels=None, cell_mask=None, mask=None)


def prepare_subject(
    source: ImageSource, mask_source: Mask, name: str, config: ModelConfig
) -> Subject:
    """Decode, mask, frame and resize one image.

    Args:
        source: The image.
        mask_source: Its subject mask, ``AutoMask``, or None.
        name: Name of an image without a path, in reasons.
        config: Configuration of the model that receives the image.

    Returns:
        The prepared subject; a bad image or mask gives a status instead of an exception.

    Raises:
        ImportError: If an automatic mask needs a missing package.
        ModelError: If an automatic mask needs a missing model.
    """
    path = ""
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
    elif isinstance(source, StoredImage):
        path = source.name
    name = path or name
    try:
        subject = _prepare(source, mask_source, name, config)
    except InputError as error:
        message = str(error)
        subject = Subject(error.status, message if name in message else f"{name}: {message}")
    except MemoryError:  # the other images of the batch may fit
        subject = Subject(Status.TOO_LARGE, f"{name} does not fit into memory.")
    return replace(subject, name=path)


def _prepare(source: ImageSource, mask_source: Mask, name: str, config: ModelConfig) -> Subject:
    image = load_image(source)
    mask = subject_mask(mask_source, image)
    notes = image.notes + tuple(f"mask: {note}" for note in mask.notes)
    if not mask.pixels.any():
        reason = f"{name}: the mask ({mask.origin}) marks no pixel of the image."
        return Subject(Status.EMPTY_MASK, reason, notes, mask.flags, mask.origin)
    backbone, aggregation = config.backbone, config.aggregation
    box = subject_box(mask.pixels, backbone.framing)
    pixels = image.pixels
    if backbone.background == "grey":
        pixels = on_grey(pixels, mask.pixels)
    cells = reduce_mask(mask.pixels, box, aggregation.grid, aggregation.mask_reduction)
    flags = mask.flags
    points, area = np.count_nonzero(cells), np.count_nonzero(mask.pixels)
    if points < _LEAST_CELLS or area < _LEAST_PIXELS_PER_CELL * points:
        flags += (Flag.TINY_SUBJECT,)
        notes += (f"the subject has {area} pixels in {points} cells of the grid",)
    for flag, note in mask_doubts(mask.pixels, mask.origin):
        flags += (flag,)
        notes += (note,)
    return Subject(
        notes=notes,
        flags=flags,
        mask_origin=mask.origin,
        pixels=to_input(pixels, box, backbone.resolution, backbone.interpolation),
        cell_mask=cells,
        box=box,
        size=image.size,
        mask=mask.pixels,
        fingerprint=fingerprint(image.pixels, mask.pixels),
    )
