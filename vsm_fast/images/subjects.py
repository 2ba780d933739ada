"""One image prepared for the network: decoded, masked, framed and resized."""

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
from vsm_fast.images.stored import StoredImage
from vsm_fast.model.config import ModelConfig

# A share of so few points has a standard error of up to 0.1.
_LEAST_CELLS = 25
# On average. Photographs shrunk to 2.4 pixels per cell score like large ones (0.01 apart, as far
# as at 40), at 0.6 they are 0.12 apart, at 0.14 they are 0.6 apart: 14 pairs of DreamBooth.
_LEAST_PIXELS_PER_CELL = 2


@dataclass(frozen=True)
class Subject:
    """One image, framed and ready for the network, or the reason why it is not.

    Attributes:
        status: ``OK``, or what the rows of this image will say.
        reason: The status for people; "" when ok.
        notes: Conversions that were done to the image or its mask, and reasons of flags.
        flags: Why to doubt what follows from this image.
        mask_origin: ``"given"``, ``"alpha"``, ``"whole image"``, or the method that found the
            mask: ``"grabcut"``, ``"grounded-sam"``; "" when unknown.
        pixels: float32 [3, R, R] in [-1, 1]; None unless ok.
        cell_mask: bool [h, w], the subject on the descriptor grid; None unless ok.
        box: (left, top, right, bottom) in pixels of the region that the network sees.
        size: (H, W) of the image in pixels; zeros where it is not known.
        mask: bool [H, W], the subject on the image; None unless ok.
        name: The path that the image came from; "" for pixels.
        fingerprint: Of the image, for flags of pairs; None unless ok.
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
        """The same after its pixels went into a batch."""
        return replace(self, pixels=None)

    def summary(self) -> Subject:
        """The same without pixels and masks: what is kept of a described reference."""
        return replace(self, pixels=None, cell_mask=None, mask=None)


def prepare_subject(
    source: ImageSource, mask_source: Mask, name: str, config: ModelConfig
) -> Subject:
    """Decode, mask, frame and resize one image.

    Args:
        source: The image.
        mask_source: Its subject mask, or ``AutoMask`` to find it, or None.
        name: What to call the image in a reason.
        config: The model that will see it.

    Returns:
        The prepared subject; a bad image or mask gives a status, never an exception.

    Raises:
        ImportError, ModelError: What finds masks is not here.
    """
    path = ""
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
    elif isinstance(source, StoredImage):
        path = source.name
    name = path or name
    try:
        subject = _prepared(source, mask_source, name, config)
    except InputError as error:
        message = str(error)
        subject = Subject(error.status, message if name in message else f"{name}: {message}")
    except MemoryError:  # others of the batch may fit
        subject = Subject(Status.TOO_LARGE, f"{name} does not fit into the memory.")
    return replace(subject, name=path)


def _prepared(source: ImageSource, mask_source: Mask, name: str, config: ModelConfig) -> Subject:
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
        size=(mask.pixels.shape[0], mask.pixels.shape[1]),
        mask=mask.pixels,
        fingerprint=fingerprint(image.pixels, mask.pixels),
    )
