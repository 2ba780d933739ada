"""Subject masks: read them, find the one that counts, reduce it to the descriptor grid."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vsm_fast.errors import Flag, InputError, Status
from vsm_fast.images.automatic_masks import AutoMask
from vsm_fast.images.decoding import decode, orient
from vsm_fast.images.framing import Box, check_box
from vsm_fast.images.loading import LoadedImage, tensor_values
from vsm_fast.images.mask_orientation import better_way
from vsm_fast.images.stored import StoredImage

MaskSource = str | os.PathLike[str] | Image.Image | NDArray[Any] | torch.Tensor | StoredImage
Mask = MaskSource | AutoMask | None  # of one image: given, to be found, or the whole of it
MaskOrigin = Literal["given", "alpha", "whole image", "grabcut", "grounded-sam"]
ReductionRule = Literal["nearest", "any"]

_COLOURED = 16  # difference of channels above which a pixel is a colour; less is compression


@dataclass(frozen=True)
class SubjectMask:
    """The mask that counts for one image.

    Attributes:
        pixels: bool [H, W], True on the subject.
        origin: ``"given"``, ``"alpha"``, ``"whole image"``, or the method that found it.
        notes: Conversions that were done to a given mask.
        flags: ``NO_MASK``, ``ORIENTATION_DOUBTFUL``.
    """

    pixels: NDArray[np.bool_]
    origin: MaskOrigin
    notes: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()


def load_mask(source: MaskSource, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Load a subject mask of an image of a known size.

    What counts as on:

    - bool: True;
    - values 0 and one other (0/1, 0/255, an object's label): not 0;
    - other grey values (soft masks): more than half of full scale, for 8 bits above 127;
    - colours: luminance above half of the brightest pixel's;
    - with transparency: the alpha channel as a grey mask, unless what it shows is black and
      white, whose luminance counts then.

    A mask's own EXIF orientation is applied. An empty mask is allowed.

    Args:
        source: Path, PIL image, or bool or uint8 array or tensor [H, W].
        size: (height, width) of the upright image.

    Returns:
        bool [H, W], True on the subject.

    Raises:
        InputError: ``MISSING_FILE``, or ``BAD_MASK``: unreadable, another size, NaN, or an array
            of another type or shape.
    """
    mask, _, _, name = _read(source)
    _check_shape(mask, size, name)
    return mask


def subject_mask(source: Mask, image: LoadedImage) -> SubjectMask:
    """The mask that counts for an image.

    The given one, else its alpha, else what is found where that was asked for, else all of it.

    Args:
        source: The mask, as for :func:`load_mask`; ``AutoMask`` to find it; or None.
        image: The image.

    Raises:
        InputError: As :func:`load_mask`, or ``NO_SUBJECT``.
        ImportError, ModelError: What finds masks is not here.
    """
    if isinstance(source, AutoMask):
        return _found(source, image)
    if source is not None:
        return _given(source, image)
    if image.alpha is not None:
        return SubjectMask(image.alpha, "alpha")
    return SubjectMask(np.ones(image.size, bool), "whole image", flags=(Flag.NO_MASK,))


def _given(source: MaskSource, image: LoadedImage) -> SubjectMask:
    """A given mask, turned like its photograph where it lies like the stored pixels.

    Mask tools often ignore EXIF. The size tells, or the mask's own EXIF; else its content does.
    """
    mask, notes, declared, name = _read(source)
    if image.orientation == 1 or declared or mask.shape != image.stored_size:
        _check_shape(mask, image.size, name)
        return SubjectMask(mask, "given", notes)
    turned = orient(mask, image.orientation)
    one_size = image.size == image.stored_size
    way = better_way(image.pixels, mask, turned) if one_size else "turned"
    if way == "turned":
        notes = (*notes, "mask turned like its photograph's exif")
        return SubjectMask(turned, "given", notes)
    if way == "upright":
        return SubjectMask(mask, "given", notes)
    notes = (*notes, "taken as upright; it may lie like the photograph before exif turned it")
    return SubjectMask(mask, "given", notes, (Flag.ORIENTATION_DOUBTFUL,))


def _found(automatic: AutoMask, image: LoadedImage) -> SubjectMask:
    if image.alpha is not None:
        return SubjectMask(image.alpha, "alpha")
    method = automatic.chosen_method()
    pixels = automatic.find(image.pixels)
    if pixels is None:
        what = f"no {automatic.subject!r}" if automatic.subject else "no subject"
        raise InputError(Status.NO_SUBJECT, f"{method} found {what}; give it a mask.")
    return SubjectMask(pixels, method)


def reduce_mask(
    mask: NDArray[np.bool_],
    box: Box,
    grid: tuple[int, int],
    rule: ReductionRule,
) -> NDArray[np.bool_]:
    """The cells of the descriptor grid that lie on the subject.

    Args:
        mask: bool [H, W], True on the subject.
        box: (left, top, right, bottom) in pixels of the region that the grid covers.
        grid: (rows, columns) of the grid, finer or coarser than the pixels.
        rule: ``"nearest"``: a cell counts when the pixel at its centre is on; a subject too
            small for every centre is reduced by ``"any"`` instead, so that it is not lost.
            ``"any"``: a cell counts when any pixel that it touches is on.

    Returns:
        bool [rows, columns].

    Raises:
        ValueError: Another rule, a grid without cells, or a box outside the mask.

    Source: arXiv 2509.21989; how the authors reduce masks is not published.
    """
    check_box(box, mask.shape)
    if rule not in ("nearest", "any"):
        raise ValueError(f"rule must be 'nearest' or 'any'; got {rule!r}.")
    rows, columns = grid
    if rows < 1 or columns < 1:
        raise ValueError(f"grid must have rows and columns; got {tuple(grid)}.")
    left, top, right, bottom = box
    region = mask[top:bottom, left:right]
    if rule == "nearest":
        # Integers: floor((i + 1/2) * pixels / cells), without rounding.
        y = (2 * np.arange(rows) + 1) * (bottom - top) // (2 * rows)
        x = (2 * np.arange(columns) + 1) * (right - left) // (2 * columns)
        cells = region[np.ix_(y, x)]
        if cells.any() or not region.any():
            return cells
    return _any_along(_any_along(region, rows).T, columns).T.copy()


def _any_along(region: NDArray[np.bool_], cells: int) -> NDArray[np.bool_]:
    """Whether any pixel is on in each of ``cells`` bands of the first axis."""
    index = np.arange(cells)
    first = index * len(region) // cells
    last = -((index + 1) * -len(region) // cells)  # ceil: bands share a pixel that both touch
    return np.stack([region[a:b].any(axis=0) for a, b in zip(first, last, strict=True)])


def _read(source: MaskSource) -> tuple[NDArray[np.bool_], tuple[str, ...], bool, str]:
    """A mask upright by its own EXIF, notes, whether it has such EXIF, and its name."""
    if isinstance(source, np.ndarray | torch.Tensor):
        return _from_array(source), (), False, "the mask"
    if isinstance(source, str | os.PathLike):
        return _from_image(source, f"mask {os.fsdecode(source)}")
    if isinstance(source, StoredImage):
        return _from_image(source, f"mask {source.name}")
    if isinstance(source, Image.Image):
        return _from_image(source, "the mask")
    raise InputError(
        Status.BAD_MASK,
        f"a mask must be a path, a PIL image, an array or a tensor; got {type(source).__name__}.",
    )


def _check_shape(mask: NDArray[np.bool_], size: tuple[int, ...], name: str) -> None:
    if mask.shape != tuple(size):
        raise InputError(
            Status.BAD_MASK,
            f"{name} is {mask.shape[1]} x {mask.shape[0]} pixels, but its image is "
            f"{size[1]} x {size[0]} (width x height). Pass the mask of this image, or resize "
            "it with nearest-neighbour sampling.",
        )


def _from_array(source: NDArray[Any] | torch.Tensor) -> NDArray[np.bool_]:
    kind = str(source.dtype).removeprefix("torch.")
    if isinstance(source, np.ma.MaskedArray):
        raise InputError(
            Status.BAD_MASK, "a masked array has values that do not count. Pass array.filled(0)."
        )
    if isinstance(source, torch.Tensor) and source.is_nested:
        raise InputError(Status.BAD_MASK, "a mask is a nested tensor. Pass tensor.unbind().")
    if source.ndim != 2 or kind not in ("bool", "uint8"):
        raise InputError(
            Status.BAD_MASK,
            f"a mask must be bool or uint8 [H, W]; got {kind} {list(source.shape)}. "
            "Pass (mask > threshold), and one channel only.",
        )
    try:
        values = tensor_values(source) if isinstance(source, torch.Tensor) else source
    except TypeError as error:
        raise InputError(Status.BAD_MASK, f"mask: {error}") from error
    return _binary(np.asarray(values), 255)


def _from_image(
    source: str | os.PathLike[str] | Image.Image | StoredImage, name: str
) -> tuple[NDArray[np.bool_], tuple[str, ...], bool, str]:
    try:
        decoded = decode(source)
    except InputError as error:
        missing = error.status is Status.MISSING_FILE
        status = Status.MISSING_FILE if missing else Status.BAD_MASK
        raise InputError(status, f"mask: {error}") from error
    notes = [f"mask: {note}" for note in decoded.notes]
    image = decoded.image
    deep = image.mode.startswith("I;16") or image.mode in ("I", "F")
    if deep or (image.mode in ("1", "L") and not image.has_transparency_data):
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise InputError(Status.BAD_MASK, f"{name} holds NaN or Inf; finite values wanted.")
        mask = _binary(values, _full_scale(image.mode, values))
    else:
        try:
            mask, used = _from_colours(image)
        except (ValueError, OSError) as error:
            raise InputError(
                Status.BAD_MASK,
                f"{name} of mode {image.mode} cannot be converted: {error}. Save it as a grey PNG.",
            ) from error
        notes.append(f"mask: {used}")
    return orient(mask, decoded.pending), tuple(notes), decoded.orientation != 1, name


def _full_scale(mode: str, values: NDArray[Any]) -> float:
    if mode in ("1", "L"):
        return 255
    if mode == "F":
        return 1 if values.max() <= 1 else 255
    return 65535 if mode != "I" or values.max() > 255 else 255


def _binary(values: NDArray[Any], full_scale: float) -> NDArray[np.bool_]:
    """Which of the grey values are on; the rule is in :func:`load_mask`."""
    if values.dtype == bool or values.size == 0:
        return np.array(values, bool)
    labelled = bool(((values == 0) | (values == values.max())).all())
    return np.asarray(values > (0 if labelled else full_scale / 2))


def _from_colours(image: Image.Image) -> tuple[NDArray[np.bool_], str]:
    """A mask with colours or transparency, and which of them was used."""
    straight = image.convert("LA") if image.mode == "La" else image
    # One array a channel: reductions over an axis of three take ten times as long.
    *rgb, alpha = (np.asarray(band) for band in straight.convert("RGBA").split())
    red, green, blue = rgb
    seen = alpha > 0
    highest = np.maximum(np.maximum(red, green), blue)
    spread = highest - np.minimum(np.minimum(red, green), blue)
    coloured = bool((spread > _COLOURED)[seen].any())
    if alpha.min() < 255:
        plain = not seen.any() or all(np.ptp(band[seen]) <= _COLOURED for band in rgb)
        if plain or coloured:
            return _binary(alpha, 255), "alpha"
    luminance = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    luminance *= seen
    if coloured:
        return np.asarray(luminance > luminance.max() / 2), "luminance of colours"
    return _binary(np.rint(luminance), 255), "luminance"
