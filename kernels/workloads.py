"""Batches of random descriptors, for tuning and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vsm_fast.kernels.match import Matched, match_pairs, schedule_pairs
from vsm_fast.kernels.nearest import Branch, NearestTiles
from vsm_fast.kernels.schedule import Schedule

SEMANTIC_THRESHOLD, VISUAL_THRESHOLDS = 0.7, (0.5, 0.6, 0.7)  # the published ones


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of generated images and references, and the pairs to compare.

    Attributes:
        semantic: Source and target rows, unit length.
        visual: The same for the visual branch.
        source_offsets: int64 [S + 1] on the CPU.
        target_offsets: int64 [R + 1] on the CPU.
        pairs: int64 [P, 2] on the CPU, (source image, target image).
    """

    semantic: Branch
    visual: Branch
    source_offsets: Tensor
    target_offsets: Tensor
    pairs: Tensor

    @property
    def operations(self) -> int:
        """Number of floating-point operations of both branches' products."""
        sources = self.source_offsets.diff()[self.pairs[:, 0]]
        targets = self.target_offsets.diff()[self.pairs[:, 1]]
        channels: int = self.semantic[0].shape[1] + self.visual[0].shape[1]
        return 2 * channels * int((sources * targets).sum())

    def schedule(self, tiles: NearestTiles, *, gemm: bool = False) -> Schedule:
        """Return the schedule of the batch."""
        device = self.semantic[0].device
        return schedule_pairs(
            self.source_offsets, self.target_offsets, self.pairs, device, tiles, gemm=gemm
        )

    def match(
        self,
        schedule: Schedule,
        tiles: NearestTiles,
        *,
        gemm: bool = False,
        float8: bool = False,
    ) -> Matched:
        """Run all launches."""
        return match_pairs(
            self.semantic,
            self.visual,
            schedule,
            SEMANTIC_THRESHOLD,
            VISUAL_THRESHOLDS,
            tiles=tiles,
            gemm=gemm,
            float8=float8,
        )


def random_batch(
    counts: list[int],
    target_counts: list[int],
    channels: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    pairs: Tensor | None = None,
    seed: int = 0,
) -> Batch:
    """Return a batch whose generated images are noisy copies of their references' rows.

    Args:
        counts: Points of each generated image.
        target_counts: Points of each reference, at least 1.
        channels: Channels of both branches.
        dtype: Type of the rows.
        device: Device of the rows.
        pairs: int64 [P, 2] on the CPU; None pairs image ``i`` with reference ``i``, or with the
            only one.
        seed: Seed of the rows.
    """
    if pairs is None:
        sources = torch.arange(len(counts))
        only = len(target_counts) == 1
        pairs = torch.stack([sources, torch.zeros_like(sources) if only else sources], 1)
    starts = torch.tensor([0, *target_counts]).cumsum(0)
    like = {int(source): int(target) for source, target in pairs.tolist()}
    rows = [
        torch.arange(count) % target_counts[like.get(image, 0)] + starts[like.get(image, 0)]
        for image, count in enumerate(counts)
    ]
    copied = torch.cat([*rows, torch.empty(0, dtype=torch.int64)]).to(device)
    generator = torch.Generator(device).manual_seed(seed)

    def branch() -> Branch:
        target = torch.randn(sum(target_counts), channels, generator=generator, device=device)
        noise = torch.randn(len(copied), channels, generator=generator, device=device)
        source = target[copied] + 0.7 * noise
        return F.normalize(source, dim=1).to(dtype), F.normalize(target, dim=1).to(dtype)

    return Batch(branch(), branch(), torch.tensor([0, *counts]).cumsum(0), starts, pairs)
