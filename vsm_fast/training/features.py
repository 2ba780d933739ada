"""Precomputed features of training examples: the frozen backbone runs once per image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vsm_fast.atomic import replacing
from vsm_fast.training.examples import TrainingExample

_PART_SHARE = 0.5  # a cell is altered when at least this share of it is
_CLEAN_SHARE = 0.05  # and clean when at most this share is; cells between are not trained on


@dataclass(frozen=True)
class PairFeatures:
    """Features of ``N`` pairs with known correspondence, on the descriptor grid.

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


def cell_states(part: Tensor) -> Tensor:
    """Cells that are altered (1), clean (0) or neither (-1), int8; from shares in [0, 1]."""
    state = torch.full_like(part, -1, dtype=torch.int8)
    state[part >= _PART_SHARE] = 1
    state[part <= _CLEAN_SHARE] = 0
    return state


@torch.inference_mode()
def pair_features(
    backbone: nn.Module, examples: Sequence[TrainingExample], grid: tuple[int, int]
) -> PairFeatures:
    """Run the frozen backbone on examples.

    Args:
        backbone: float [B, 3, R, R] in [-1, 1] -> one tensor per level.
        examples: With known correspondence.
        grid: (rows, columns) that every level is resized to.
    """
    images = torch.cat([example.pictures[:3] for example in examples])
    levels = backbone(images.float() / 127.5 - 1)
    resized = [
        F.interpolate(level, size=grid, mode="bilinear", align_corners=False) for level in levels
    ]
    stacked = torch.cat(resized, dim=1).to(torch.float16)
    return PairFeatures(
        stacked.unflatten(0, (len(examples), 3)),
        torch.stack([example.match for example in examples]),
        torch.stack([cell_states(example.part) for example in examples]),
        torch.stack([example.subject_2 for example in examples]),
    )


def save_features(part: PairFeatures, path: Path) -> None:
    """Write one shard as safetensors, atomically."""
    tensors = {
        "features": part.features.contiguous(),
        "target": part.target,
        "part": part.part,
        "mask_2": part.mask_2,
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary)


def load_features(paths: Iterable[Path]) -> PairFeatures:
    """Read shards into one; features stay float16.

    Raises:
        FileNotFoundError: There is no shard.
    """
    shards = [load_file(path) for path in paths]
    if not shards:
        raise FileNotFoundError("no feature shard was given; run the feature stage first.")
    joined = {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}
    return PairFeatures(**joined)
