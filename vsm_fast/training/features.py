"""Precomputed features of controlled triplets: the frozen backbone runs once per image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vsm_fast.atomic import replacing
from vsm_fast.data.triplets import Triplet

_PART_SHARE = 0.5  # a cell is altered when at least this share of it is
_CLEAN_SHARE = 0.05  # and clean when at most this share is; cells between are not trained on


@dataclass(frozen=True)
class TripletFeatures:
    """Features of ``N`` triplets on the descriptor grid.

    Attributes:
        features: float16 [N, 3, C, h, w]; views (original 1, original 2, altered 1); the
            levels one after the other along ``C``.
        target: int64 [N, h * w]; the cell of view 2 that each cell of view 1 matches, or -1.
        part: int8 [N, h * w]; 1 altered, 0 clean, -1 between (view 1).
        mask_2: bool [N, h * w]; the subject in view 2.
    """

    features: Tensor
    target: Tensor
    part: Tensor
    mask_2: Tensor

    def __len__(self) -> int:
        return len(self.features)


def at_cell_centres(picture: NDArray[Any], grid: tuple[int, int]) -> NDArray[Any]:
    """Values of a picture [H, W, ...] at the centre of each cell, [h, w, ...]."""
    rows, columns = (
        ((np.arange(cells) + 0.5) * length / cells).astype(np.int64)
        for cells, length in zip(grid, picture.shape, strict=False)
    )
    values: NDArray[Any] = picture[rows][:, columns]
    return values


def cell_matches(triplet: Triplet, grid: tuple[int, int]) -> NDArray[np.int64]:
    """The cell of view 2 that shows what each cell of view 1 shows, int64 [h * w], -1 = none.

    Each target cell is given to one source cell only: the one that lands nearest its centre.
    """
    size = triplet.mask_1.shape[0]
    rows, columns = grid
    flow = at_cell_centres(triplet.flow, grid).reshape(-1, 2)
    inside = at_cell_centres(triplet.mask_1, grid).ravel() & np.isfinite(flow).all(1)
    landing = np.where(inside[:, None], flow, -1.0)
    inside &= (landing >= 0).all(1) & (landing < size).all(1)
    position = landing * [columns / size, rows / size]
    cell = np.floor(position).astype(np.int64)
    flat = np.where(inside, cell[:, 1] * columns + cell[:, 0], 0)
    inside &= at_cell_centres(triplet.mask_2, grid).ravel()[flat]
    distance = np.square(position - cell - 0.5).sum(1)
    matched = np.full(rows * columns, -1, np.int64)
    best: dict[int, int] = {}
    for source in np.nonzero(inside)[0][np.argsort(distance[inside], kind="stable")].tolist():
        best.setdefault(int(flat[source]), source)
    for target, source in best.items():
        matched[source] = target
    return matched


def cell_part(triplet: Triplet, grid: tuple[int, int]) -> NDArray[np.int8]:
    """Which cells of view 1 are altered (1), clean (0) or neither (-1); int8 [h * w]."""
    share = cv2.resize(
        triplet.part.astype(np.float32), (grid[1], grid[0]), interpolation=cv2.INTER_AREA
    ).ravel()
    state = np.full(share.shape, -1, np.int8)
    state[share >= _PART_SHARE] = 1
    state[share <= _CLEAN_SHARE] = 0
    return state


def _network_input(images: list[NDArray[np.uint8]]) -> Tensor:
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1


@torch.inference_mode()
def triplet_features(
    backbone: nn.Module, triplets: list[Triplet], grid: tuple[int, int]
) -> TripletFeatures:
    """Run the frozen backbone on triplets.

    Args:
        backbone: float [B, 3, R, R] in [-1, 1] -> one tensor per level.
        triplets: The triplets; their images are R pixels square.
        grid: (rows, columns) that every level is resized to.
    """
    images = [view for t in triplets for view in (t.original_1, t.original_2, t.altered_1)]
    levels = backbone(_network_input(images))
    resized = [
        F.interpolate(level, size=grid, mode="bilinear", align_corners=False) for level in levels
    ]
    stacked = torch.cat(resized, dim=1).to(torch.float16)
    return TripletFeatures(
        stacked.reshape(len(triplets), 3, *stacked.shape[1:]),
        torch.from_numpy(np.stack([cell_matches(t, grid) for t in triplets])),
        torch.from_numpy(np.stack([cell_part(t, grid) for t in triplets])),
        torch.from_numpy(np.stack([at_cell_centres(t.mask_2, grid).ravel() for t in triplets])),
    )


def save_features(part: TripletFeatures, path: Path) -> None:
    """Write one shard as safetensors, atomically."""
    with replacing(path) as temporary:
        save_file(
            {
                "features": part.features.contiguous(),
                "target": part.target,
                "part": part.part,
                "mask_2": part.mask_2,
            },
            temporary,
        )


def load_features(paths: Iterable[Path]) -> TripletFeatures:
    """Read shards into one; features stay float16.

    Raises:
        FileNotFoundError: There is no shard.
    """
    shards = [load_file(path) for path in paths]
    if not shards:
        raise FileNotFoundError("no feature shard was given; run the feature stage first.")
    joined = {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}
    return TripletFeatures(**joined)
