"""Candidate kernel: GroupNorm and its activation, channels-last, in three launches.

    moments -> affine -> normalise

It reads the tensor twice and writes it once; torch on a GPU reads it three times, writes it twice
and first copies a channels-last tensor. The package does not use it: ``test_group_norm.py`` has
to measure on a GPU whether it makes the VAE's encoder at least 5 % faster.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from vsm_fast.kernels.devices import launching_on, processors

Activation = Literal["none", "relu", "silu"]

_PARTS = 128  # most parts an image is cut into for its moments
_PROGRAMS = 8  # per processor, to have enough loads in flight


@dataclass(frozen=True)
class GroupNormTiles:
    """Tile sizes of the kernels.

    Attributes:
        cells: Cells (positions) of a tile; a power of two.
        channels: Channels of a tile; a power of two.
        warps: Warps of a program.
    """

    cells: int = 64
    channels: int = 64
    warps: int = 4

    def __post_init__(self) -> None:
        for name in ("cells", "channels", "warps"):
            size = getattr(self, name)
            if size < 1 or size & (size - 1):
                raise ValueError(f"{name} must be a power of two; got {asdict(self)}.")


@triton.jit(do_not_specialize=["n_cells", "n_steps"])
def _moments_kernel(
    x, moments,  # [B, N, C]; float32 [B, P, 2, C], output: means, sums of squared deviations
    n_cells, n_steps,
    CHANNELS: tl.constexpr, N: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """One program: some channels of one part of one image, n_steps tiles long."""
    part, image = tl.program_id(1), tl.program_id(2)
    channels = tl.program_id(0) * C + tl.arange(0, C)
    there = channels < CHANNELS
    x += image.to(tl.int64) * n_cells * CHANNELS
    mean = tl.zeros([C], tl.float32)
    squares = tl.zeros([C], tl.float32)
    seen = 0.0
    first = part * n_steps * N
    for start in range(first, tl.minimum(first + n_steps * N, n_cells), N):
        cells = start + tl.arange(0, N)
        inside = (cells < n_cells)[:, None] & there[None, :]
        at = x + cells.to(tl.int64)[:, None] * CHANNELS + channels[None, :]
        tile = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        count = tl.minimum(n_cells - start, N).to(tl.float32)
        # Deviations from the tile's own mean: sums of plain squares would cancel.
        tile_mean = tl.sum(tile, 0) / count
        off = tl.where(inside, tile - tile_mean[None, :], 0.0)
        step = tile_mean - mean
        mean += step * (count / (seen + count))
        squares += tl.sum(off * off, 0) + step * step * (seen * count / (seen + count))
        seen += count
    at = moments + (image * tl.num_programs(1) + part).to(tl.int64) * 2 * CHANNELS + channels
    tl.store(at, mean, mask=there)
    tl.store(at + CHANNELS, squares, mask=there)


@triton.jit(do_not_specialize=["n_cells", "n_parts", "part_cells", "eps"])
def _affine_kernel(
    moments, weight, bias, affine,  # [B, P, 2, C], [C], [C]; float32 [B, 2, C]: scales, shifts
    n_cells, n_parts, part_cells, eps,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, P: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """One program: one group, WIDTH channels, of one image."""
    group, image = tl.program_id(0), tl.program_id(1)
    parts, lanes = tl.arange(0, P), tl.arange(0, W)
    channels = group * WIDTH + lanes
    there = lanes < WIDTH
    inside = (parts < n_parts)[:, None] & there[None, :]
    at = moments + (image * n_parts + parts).to(tl.int64)[:, None] * 2 * CHANNELS
    means = tl.load(at + channels[None, :], mask=inside, other=0.0)
    squares = tl.load(at + CHANNELS + channels[None, :], mask=inside, other=0.0)
    counts = tl.minimum(n_cells - parts * part_cells, part_cells).to(tl.float32)[:, None]
    size = n_cells.to(tl.float32) * WIDTH
    mean = tl.sum(tl.sum(tl.where(inside, means * counts, 0.0), 1), 0) / size
    off = tl.where(inside, means - mean, 0.0)
    spread = tl.sum(tl.sum(squares + off * off * counts, 1), 0) / size
    scale = tl.load(weight + channels, mask=there, other=0.0).to(tl.float32)
    scale /= tl.sqrt(spread + eps)
    shift = tl.load(bias + channels, mask=there, other=0.0).to(tl.float32) - mean * scale
    at = affine + image.to(tl.int64) * 2 * CHANNELS + channels
    tl.store(at, scale, mask=there)
    tl.store(at + CHANNELS, shift, mask=there)


@triton.jit(do_not_specialize=["n_cells"])
def _normalise_kernel(
    x, affine, out,  # [B, N, C], [B, 2, C]; output [B, N, C]
    n_cells,
    CHANNELS: tl.constexpr, ACTIVATION: tl.constexpr, N: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """One program: one tile."""
    image = tl.program_id(2).to(tl.int64)
    channels = tl.program_id(1) * C + tl.arange(0, C)
    cells = tl.program_id(0) * N + tl.arange(0, N)
    there = channels < CHANNELS
    inside = (cells < n_cells)[:, None] & there[None, :]
    scale = tl.load(affine + image * 2 * CHANNELS + channels, mask=there, other=0.0)
    shift = tl.load(affine + (image * 2 + 1) * CHANNELS + channels, mask=there, other=0.0)
    at = (image * n_cells + cells.to(tl.int64))[:, None] * CHANNELS + channels[None, :]
    y = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * scale[None, :] + shift[None, :]
    if ACTIVATION == "relu":
        y = tl.where(y < 0, 0.0, y)  # unlike a maximum it keeps NaN
    if ACTIVATION == "silu":
        y = y / (1.0 + tl.exp(-y))
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)


@torch.no_grad()
def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    activation: Activation = "none",
    *,
    tiles: GroupNormTiles | None = None,
) -> Tensor:
    """Return ``activation(F.group_norm(x, groups, weight, bias, eps))``, for inference.

    Args:
        x: float32, float16 or bfloat16 [B, C, h, w], channels-last in memory.
        groups: Groups of channels; divides C.
        weight: Floating [C].
        bias: Floating [C].
        eps: Added to the variance.
        activation: Function applied to the result.
        tiles: Tile sizes; None for the default.

    Returns:
        [B, C, h, w] like ``x``, rounded once, at the end.

    Raises:
        ValueError: If ``x`` is not 4-D and channels-last, or ``groups`` does not divide C.
    """
    if x.ndim != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(
            f"group_norm needs [B, C, h, w] in channels-last memory; got {list(x.shape)} with "
            f"strides {list(x.stride())}."
        )
    images, channels, rows, columns = x.shape
    if groups < 1 or channels % groups or weight.shape != (channels,) or bias.shape != (channels,):
        raise ValueError(
            f"group_norm needs groups that divide {channels} channels and that many weights and "
            f"biases; got {groups}, {list(weight.shape)} and {list(bias.shape)}."
        )
    out = torch.empty_like(x, memory_format=torch.channels_last)
    if x.numel() == 0:
        return out
    tiles = tiles or GroupNormTiles()
    cells = rows * columns
    sizes = {"N": tiles.cells, "C": tiles.channels}
    blocks, steps = triton.cdiv(channels, tiles.channels), triton.cdiv(cells, tiles.cells)
    wanted = triton.cdiv(_PROGRAMS * processors(x.device), images * blocks)
    per_part = triton.cdiv(steps, min(wanted, _PARTS))
    parts = triton.cdiv(steps, per_part)
    moments = torch.empty(images, parts, 2, channels, dtype=torch.float32, device=x.device)
    affine = torch.empty(images, 2, channels, dtype=torch.float32, device=x.device)
    width = channels // groups
    with launching_on(x.device):
        _moments_kernel[(blocks, parts, images)](
            x, moments, cells, per_part, CHANNELS=channels, **sizes, num_warps=tiles.warps
        )
        _affine_kernel[(groups, images)](
            moments, weight, bias, affine, cells, parts, per_part * tiles.cells, eps,
            CHANNELS=channels, WIDTH=width,
            P=triton.next_power_of_2(parts), W=triton.next_power_of_2(width),
        )  # fmt: skip
        _normalise_kernel[(steps, blocks, images)](
            x, affine, out, cells,
            CHANNELS=channels, ACTIVATION=activation, **sizes, num_warps=tiles.warps,
        )  # fmt: skip
    return out
