"""Preparation of tensor batches on their own device, without Pillow or numpy.

The batch counterpart of :func:`vsm_fast.images.subjects.prepare_subject`: the same masks, frames,
grids and resampling, up to rounding. The result has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from vsm_fast.errors import InputError, Status
from vsm_fast.images.framing import Framing, Interpolation, frame_margin
from vsm_fast.images.loading import TOLERANCE
from vsm_fast.images.masks import ReductionRule
from vsm_fast.model.config import ModelConfig

_GREY = 127.0  # the background of framing.on_grey


@torch.no_grad()
def prepare_tensors(
    images: Tensor | Sequence[Tensor],
    masks: Tensor | Sequence[Tensor] | None,
    config: ModelConfig,
) -> tuple[Tensor, Tensor]:
    """Mask, frame and resize a batch of images.

    Args:
        images: [B, 3, H, W], or B of [3, H, W] of any sizes; float in [0, 1] or uint8.
        masks: Subject masks, bool or uint8 [B, H, W], or B of [H, W]; None = the whole images.
        config: Configuration of the model that receives the images.

    Returns:
        float32 [B, 3, R, R] in [-1, 1], and bool [B, h, w], the subjects on the descriptor grid.
        An image with NaN or Inf has an empty subject.

    Raises:
        InputError: If images or masks have another type or shape, or finite values beyond [0, 1].
    """
    if isinstance(images, Tensor):
        return _prepare(images, masks, config)
    if not len(images):
        raise InputError(Status.UNREADABLE, "images contains no tensor. Pass at least one.")
    if masks is not None and len(masks) != len(images):
        raise InputError(Status.BAD_MASK, f"got {len(masks)} masks for {len(images)} images.")
    parts = [
        _prepare(image[None], None if masks is None else masks[number][None], config)
        for number, image in enumerate(images)
    ]
    pixels, cells = (torch.cat(part) for part in zip(*parts, strict=True))
    return pixels, cells


def _prepare(
    images: Tensor, masks: Tensor | Sequence[Tensor] | None, config: ModelConfig
) -> tuple[Tensor, Tensor]:
    levels, usable = _eight_bits(images)
    backbone, aggregation = config.backbone, config.aggregation
    if masks is None:
        subject = torch.ones_like(levels[:1, 0], dtype=torch.bool)  # one for all
    else:
        stacked = masks if isinstance(masks, Tensor) else torch.stack(list(masks))
        subject = _binary(stacked, images).to(levels.device)
        if backbone.background == "grey":
            levels = levels.where(subject[:, None], _GREY)
    frames = subject_frames(subject, backbone.framing)
    pixels = resize(levels, frames, backbone.resolution, backbone.interpolation)
    cells = reduce_masks(subject, frames, aggregation.grid, aggregation.mask_reduction)
    pixels = (pixels / 127.5 - 1).where(usable[:, None, None, None], 0)
    return pixels, cells & usable[:, None, None]


def subject_frames(masks: Tensor, framing: Framing) -> Tensor:
    """Return the regions that the network sees: ``framing.subject_box`` of a batch.

    Args:
        masks: bool [B, H, W].
        framing: ``"image"`` or ``"subject"``.

    Returns:
        int64 [F, 4], (left, top, right, bottom) in pixels; F is B, or 1 if all are equal.
    """
    height, width = masks.shape[1:]
    whole = torch.tensor([[0, 0, width, height]], device=masks.device)
    if framing == "image":
        return whole
    (left, right), (top, bottom) = _extent(masks.any(1)), _extent(masks.any(2))
    longer = torch.maximum(right - left, bottom - top)
    side = longer + 2 * _margins(max(height, width), masks.device)[longer]
    edges = []
    for low, high, limit in ((left, right, width), (top, bottom, height)):
        length = side.clamp(max=limit)
        start = ((low + high - length) // 2).clamp(min=0).minimum(limit - length)
        edges.append((start, start + length))
    (left, right), (top, bottom) = edges
    frames = torch.stack([left, top, right, bottom], dim=1)
    return frames.where(masks.flatten(1).any(1, keepdim=True), whole)


def _extent(on: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first position that is on, and the position after the last, of bool [B, N]."""
    places = torch.arange(on.shape[1], device=on.device)
    return places.where(on, on.shape[1]).amin(1), places.where(on, -1).amax(1) + 1


@lru_cache(maxsize=16)
def _margins(longest: int, device: torch.device) -> Tensor:
    """Tabulate ``frame_margin`` for longer sides of 0 to ``longest``."""
    return torch.tensor([frame_margin(longer) for longer in range(longest + 1)], device=device)


def resize(images: Tensor, frames: Tensor, resolution: int, interpolation: Interpolation) -> Tensor:
    """Resize regions as Pillow resizes 8-bit images: columns, then rows, each rounded.

    Args:
        images: float32 [B, 3, H, W], whole numbers in [0, 255].
        frames: int64 [B, 4] or [1, 4], (left, top, right, bottom) in pixels.
        resolution: Side of the result in pixels.
        interpolation: ``"bicubic"`` or ``"bilinear"``.

    Returns:
        float32 [B, 3, resolution, resolution], whole numbers in [0, 255], equal to Pillow's except
        for sums next to a half and for tall images: Pillow 13 sometimes resizes rows first and
        rounds in between, which changes values by one or a few.
    """
    height, width = images.shape[2:]
    left, top, right, bottom = frames.unbind(1)
    across = _weights(left, right, width, resolution, interpolation)
    down = _weights(top, bottom, height, resolution, interpolation)
    narrow = _rounded(images @ across.mT[:, None])
    return _rounded(down[:, None] @ narrow)


def _weights(
    low: Tensor, high: Tensor, size: int, resolution: int, interpolation: Interpolation
) -> Tensor:
    """Return Pillow's antialiased weights, float32 [F, resolution, size].

    As in Pillow, pixels outside a region contribute at its border.
    """
    length = (high - low)[:, None, None]
    new = torch.arange(resolution, device=low.device)[:, None]
    old = torch.arange(size, device=low.device) - low[:, None, None]
    # Distance of pixel centres in whole numbers: float32 would lose digits in large images.
    distance = resolution * (2 * old + 1) - (2 * new + 1) * length
    x = (distance / (2 * length.clamp(min=resolution))).abs()
    if interpolation == "bilinear":
        weights = (1 - x).clamp(min=0)
    else:
        near = (1.5 * x - 2.5) * x * x + 1
        far = ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights = near.where(x < 1, far.where(x < 2, 0))
    return weights / weights.sum(2, keepdim=True)


def _rounded(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)  # halves upwards, as in Pillow's resampling


def reduce_masks(
    masks: Tensor, frames: Tensor, grid: tuple[int, int], rule: ReductionRule
) -> Tensor:
    """Reduce masks to the descriptor grid: ``masks.reduce_mask`` of a batch.

    Args:
        masks: bool [B, H, W].
        frames: int64 [B, 4] or [1, 4], (left, top, right, bottom) in pixels.
        grid: (rows, columns).
        rule: ``"nearest"`` or ``"any"``.

    Returns:
        bool [B, rows, columns].
    """
    left, top, right, bottom = frames[:, :, None].unbind(1)
    down = _bands(top, bottom, masks.shape[1], grid[0])
    across = _bands(left, right, masks.shape[2], grid[1])
    touched = down @ masks.float() @ across.mT > 0
    if rule == "any":
        return touched
    y, x = (
        low + (2 * torch.arange(cells, device=masks.device) + 1) * (high - low) // (2 * cells)
        for low, high, cells in ((top, bottom, grid[0]), (left, right, grid[1]))
    )
    image = torch.arange(len(masks), device=masks.device)[:, None, None]
    nearest = masks[image, y[:, :, None], x[:, None]]
    # Small subjects between all cell centres fall back to the "any" rule.
    return nearest.where(nearest.flatten(1).any(1)[:, None, None], touched)


def _bands(low: Tensor, high: Tensor, size: int, cells: int) -> Tensor:
    """Return float32 [F, cells, size]: 1 where a cell of the region touches a pixel."""
    number = torch.arange(cells, device=low.device)
    first = low + number * (high - low) // cells
    last = low - (-(number + 1) * (high - low) // cells)  # ceil
    place = torch.arange(size, device=low.device)
    return ((place >= first[:, :, None]) & (place < last[:, :, None])).float()


def _eight_bits(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return images as float32 whole numbers in [0, 255], and bool [B]: which are finite.

    An image with NaN keeps it; resizing spreads it over that image only.
    """
    _check_dense(images, Status.UNREADABLE, "images")
    floating = images.dtype.is_floating_point
    if images.ndim != 4 or images.shape[1] != 3 or not (floating or images.dtype == torch.uint8):
        raise InputError(
            Status.UNREADABLE,
            "images must be [B, 3, H, W], float in [0, 1] or uint8; got "
            f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}.",
        )
    if 0 in images.shape[2:]:
        raise InputError(Status.UNREADABLE, f"images have no pixels: {list(images.shape)}.")
    values = images.detach().float()
    if not floating:
        return values, torch.ones(len(images), dtype=torch.bool, device=images.device)
    lowest, highest = values.flatten(1).aminmax(dim=1)  # NaN if any value is
    usable = lowest.isfinite() & highest.isfinite()
    ends = [lowest.where(usable, 0).amin(), highest.where(usable, 0).amax()] if len(values) else []
    low, high = torch.stack(ends).tolist() if ends else (0.0, 0.0)
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise InputError(
            Status.BAD_VALUES,
            f"images must lie in [0, 1]; their values run from {low:.4g} to {high:.4g}. For the "
            "output of a VAE use ((x + 1) / 2).clamp(0, 1).",
        )
    return (values * 255).clamp_(0, 255).round_(), usable  # halves to even, as in load_image


def _binary(masks: Tensor, images: Tensor) -> Tensor:
    """Binarise masks by the rule of :func:`vsm_fast.images.masks.load_mask`."""
    _check_dense(masks, Status.BAD_MASK, "masks")
    expected = (len(images), *images.shape[2:])
    if masks.shape != expected or masks.dtype not in (torch.bool, torch.uint8):
        raise InputError(
            Status.BAD_MASK,
            f"masks must be bool or uint8 {list(expected)}, the size of the images; got "
            f"{str(masks.dtype).removeprefix('torch.')} {list(masks.shape)}. Pass (masks > "
            "threshold) without an axis of channels.",
        )
    if masks.dtype == torch.bool:
        return masks
    highest = masks.amax((1, 2), keepdim=True)
    labelled = ((masks == 0) | (masks == highest)).flatten(1).all(1)[:, None, None]
    return (masks > 0).where(labelled, masks > 127)


def _check_dense(tensor: Tensor, status: Status, name: str) -> None:
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_meta:
        raise InputError(
            status,
            f"{name} must be a dense tensor with values, not sparse, nested or on the device "
            f'"meta"; got {str(tensor.layout).removeprefix("torch.")} on {tensor.device}.',
        )
