"""Subject masks: loading, choice of the mask that counts, and reduction to the descriptor grid."""

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
from vsm_fast.images.storage import StoredImage

MaskSource = str | os.PathLike[str] | Image.Image | NDArray[Any] | torch.Tensor | StoredImage
Mask = MaskSource | AutoMask | None  # None: the alpha channel, else the whole image
MaskOrigin = Literal["given", "alpha", "whole image", "grabcut", "grounded-sam"]
ReductionRule = Literal["nearest", "any"]

_COLOURED = 16  # difference of channels in a colour; a smaller one is compression noise

# Orientation of a mask; chosen on half of the photographs of docs/reference/inputs.md, measured
# on the other.
_SIDE = 128  # pixels of the compared copy
_SAME = 0.95  # overlap (IoU) of two orientations that are equivalent
_EDGES = 0.35  # least mean edge strength along the outline, relative to the strongest edges
_EACH = 0.15  # least lead of the better orientation in either measure, as a log ratio
_BOTH = 0.8  # least sum of both leads


@dataclass(frozen=True)
class SubjectMask:
    """The mask that counts for one image.

    Attributes:
        pixels: bool [H, W], True on the subject.
        origin: ``"given"``, ``"alpha"``, ``"whole image"``, ``"grabcut"`` or ``"grounded-sam"``.
        notes: Conversions of a given mask.
        flags: ``NO_MASK``, ``ORIENTATION_DOUBTFUL``.
    """

    pixels: NDArray[np.bool_]
    origin: MaskOrigin
    notes: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()


def load_mask(source: MaskSource, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Load a subject mask of an image of known size.

    Pixels on the subject:

    - bool: True;
    - values 0 and one other (0/1, 0/255, an object's label): not 0;
    - other grey values (soft masks): more than half of full scale, for 8 bits above 127;
    - colours: luminance above half of the brightest pixel's;
    - with transparency: the alpha channel as a grey mask; if the visible pixels are black and
      white, their luminance instead.

    The mask's own EXIF orientation is applied. An empty mask is allowed.

    Args:
        source: Path, PIL image, or bool or uint8 array or tensor [H, W].
        size: (height, width) of the upright image.

    Returns:
        bool [H, W], True on the subject.

    Raises:
        InputError: With ``MISSING_FILE``, or ``BAD_MASK`` for an unreadable mask, another size,
            NaN, or an array of another type or shape.
    """
    mask, _, _, name = _read(source)
    _check_shape(mask, size, name)
    return mask


def subject_mask(source: Mask, image: LoadedImage) -> SubjectMask:
    """Return the mask that counts: the given one, else alpha, else an automatic one, else all.

    Mask tools often ignore EXIF. A given mask is therefore turned with its photograph if its size,
    its own EXIF or else its content shows that it lies like the stored pixels.

    Args:
        source: A mask as in :func:`load_mask`; ``AutoMask`` to find the subject; or None.
        image: The image.

    Raises:
        InputError: As in :func:`load_mask`, or with ``NO_SUBJECT``.
        ImportError: If an automatic mask needs a missing package.
        ModelError: If an automatic mask needs a missing model.
    """
    if source is None or isinstance(source, AutoMask):
        if image.alpha is not None:
            return SubjectMask(image.alpha, "alpha")
        if source is None:
            return SubjectMask(np.ones(image.size, bool), "whole image", flags=(Flag.NO_MASK,))
        method = source.chosen_method()
        pixels = source.find(image.pixels)
        if pixels is None:
            target = f"no {source.subject!r}" if source.subject else "no subject"
            raise InputError(Status.NO_SUBJECT, f"{method} found {target}. Pass a mask.")
        return SubjectMask(pixels, method)
    mask, notes, declared, name = _read(source)
    if image.orientation == 1 or declared or mask.shape != image.stored_size:
        _check_shape(mask, image.size, name)
        return SubjectMask(mask, "given", notes)
    turned = orient(mask, image.orientation)
    same_size = image.size == image.stored_size
    way = _better_way(image.pixels, mask, turned) if same_size else "turned"
    if way == "turned":
        notes = (*notes, "mask turned like its photograph's exif")
        return SubjectMask(turned, "given", notes)
    if way == "upright":
        return SubjectMask(mask, "given", notes)
    notes = (*notes, "taken as upright; it may lie like the photograph before exif turned it")
    return SubjectMask(mask, "given", notes, (Flag.ORIENTATION_DOUBTFUL,))


def _better_way(
    pixels: NDArray[np.uint8], upright: NDArray[np.bool_], turned: NDArray[np.bool_]
) -> Literal["upright", "turned"] | None:
    """Return the orientation in which a mask fits the content of its image.

    The outline of a well-placed mask follows edges and separates colours.

    Args:
        pixels: uint8 [H, W, 3], RGB.
        upright: bool [H, W], the mask as stored.
        turned: bool [H, W], the mask turned with the photograph.

    Returns:
        The better orientation, ``"upright"`` if both are nearly equal; None if neither is clearly
        better.
    """
    import cv2

    def small(image: Image.Image) -> NDArray[np.float32]:
        return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)

    union = np.count_nonzero(upright | turned)
    if np.count_nonzero(upright & turned) >= _SAME * union:
        return "upright"
    image = small(Image.fromarray(pixels))
    slopes = np.stack([*np.gradient(image, axis=(0, 1))])  # [2, N, N, 3], down and across
    strong = float(np.quantile(np.sqrt(np.square(slopes).sum((0, 3))), 0.95))
    red, green, blue = np.moveaxis((image // 64).astype(np.int64), -1, 0)
    colour = 16 * red + 4 * green + blue
    binomial = np.array([1, 4, 6, 4, 1], np.float32) / 16
    scores = []
    for mask in (upright, turned):
        soft = small(Image.fromarray(mask.astype(np.uint8) * 255)) / 255
        blurred = cv2.sepFilter2D(
            soft, cv2.CV_32F, binomial, binomial, borderType=cv2.BORDER_REPLICATE
        )
        # Mean slope of the image across the outline, in [0, 1] of a strong edge.
        outline = np.stack([*np.gradient(blurred)])
        weight = np.sqrt(np.square(outline).sum(0))
        across = np.sqrt(np.square((slopes * outline[..., None]).sum(0)).sum(-1))
        total = float(weight.sum()) * strong
        edges = float(np.minimum(across, strong * weight).sum()) / total if total else 0.0
        # Share in [0, 1] of the mask's entropy that a pixel's colour, one of 64, explains.
        inside = soft > 0.5
        counts = np.stack([np.bincount(colour[side], minlength=64) for side in (inside, ~inside)])
        joint = (counts + 0.5) / (counts + 0.5).sum()
        sides, colours = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
        explained = (joint * np.log(joint / (sides * colours))).sum()
        scores.append((edges, float(explained / -(sides * np.log(sides)).sum())))
    leads = [
        np.log(first + 1e-4) - np.log(second + 1e-4) for first, second in zip(*scores, strict=True)
    ]
    if scores[0][0] > _EDGES and min(leads) > _EACH and sum(leads) > _BOTH:
        return "upright"
    if scores[1][0] > _EDGES and max(leads) < -_EACH and sum(leads) < -_BOTH:
        return "turned"
    return None


def reduce_mask(
    mask: NDArray[np.bool_],
    box: Box,
    grid: tuple[int, int],
    rule: ReductionRule,
) -> NDArray[np.bool_]:
    """Reduce a mask to the cells of the descriptor grid.

    Args:
        mask: bool [H, W], True on the subject.
        box: (left, top, right, bottom) in pixels of the region under the grid.
        grid: (rows, columns) of the grid, finer or coarser than the pixels.
        rule: ``"nearest"``: a cell is on if the pixel at its centre is on; if no centre meets the
            subject, ``"any"`` applies. ``"any"``: a cell is on if it touches a pixel that is on.

    Returns:
        bool [rows, columns].

    Raises:
        ValueError: If ``rule`` is unknown, the grid has no cells, or the box leaves the mask.

    Source: arXiv 2509.21989; the authors have not published their reduction.
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
    """Reduce the first axis to ``cells`` bands: on if any pixel is on."""
    index = np.arange(cells)
    first = index * len(region) // cells
    last = -((index + 1) * -len(region) // cells)  # ceil: bands share a pixel that both touch
    return np.stack([region[a:b].any(axis=0) for a, b in zip(first, last, strict=True)])


def _check_shape(mask: NDArray[np.bool_], size: tuple[int, ...], name: str) -> None:
    if mask.shape != tuple(size):
        raise InputError(
            Status.BAD_MASK,
            f"{name} is {mask.shape[1]} x {mask.shape[0]} pixels, but its image is "
            f"{size[1]} x {size[0]} (width x height). Pass the mask of this image, or resize "
            "it with nearest-neighbour sampling.",
        )


def _read(source: MaskSource) -> tuple[NDArray[np.bool_], tuple[str, ...], bool, str]:
    """Return a mask upright by its own EXIF, notes, whether it has such EXIF, and its name."""
    if isinstance(source, np.ndarray | torch.Tensor):
        return _from_array(source), (), False, "the mask"
    if isinstance(source, str | os.PathLike):
        name = f"mask {os.fsdecode(source)}"
    elif isinstance(source, StoredImage):
        name = f"mask {source.name}"
    elif isinstance(source, Image.Image):
        name = "the mask"
    else:
        raise InputError(
            Status.BAD_MASK,
            "a mask must be a path, a PIL image, an array or a tensor; got "
            f"{type(source).__name__}.",
        )
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
            raise InputError(Status.BAD_MASK, f"{name} contains NaN or Inf. Save finite values.")
        full_scale = 255
        if image.mode == "F" and values.max() <= 1:
            full_scale = 1
        elif image.mode.startswith("I;16") or (image.mode == "I" and values.max() > 255):
            full_scale = 65535
        mask = _binary(values, full_scale)
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


def _from_array(source: NDArray[Any] | torch.Tensor) -> NDArray[np.bool_]:
    kind = str(source.dtype).removeprefix("torch.")
    if isinstance(source, np.ma.MaskedArray):
        raise InputError(
            Status.BAD_MASK, "a masked array has undefined values. Pass array.filled(0)."
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


def _binary(values: NDArray[Any], full_scale: int) -> NDArray[np.bool_]:
    """Binarise grey values by the rule of :func:`load_mask`."""
    if values.dtype == bool or values.size == 0:
        return np.array(values, bool)
    labelled = bool(((values == 0) | (values == values.max())).all())
    return np.asarray(values > (0 if labelled else full_scale / 2))


def _from_colours(image: Image.Image) -> tuple[NDArray[np.bool_], str]:
    """Binarise a mask with colours or transparency; also name the channel in use."""
    straight = image.convert("LA") if image.mode == "La" else image
    # One array per channel: reductions over an axis of three take ten times as long.
    *rgb, alpha = (np.asarray(band) for band in straight.convert("RGBA").split())
    red, green, blue = rgb
    visible = alpha > 0
    highest = np.maximum(np.maximum(red, green), blue)
    spread = highest - np.minimum(np.minimum(red, green), blue)
    coloured = bool((spread > _COLOURED)[visible].any())
    if alpha.min() < 255:
        plain = not visible.any() or all(np.ptp(band[visible]) <= _COLOURED for band in rgb)
        if plain or coloured:
            return _binary(alpha, 255), "alpha"
    luminance = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    luminance *= visible
    if coloured:
        return np.asarray(luminance > luminance.max() / 2), "luminance of colours"
    return _binary(np.rint(luminance), 255), "luminance"
