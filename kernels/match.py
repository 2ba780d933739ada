"""Matching and counting a batch of pairs in three launches.

    nearest -> claim -> count

Nothing here synchronises with the device: the host computes all sizes from its offsets. A batch
with a precomputed :class:`Schedule` can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vsm_fast.kernels.claim import Nearest, claim
from vsm_fast.kernels.count import count
from vsm_fast.kernels.devices import processors
from vsm_fast.kernels.nearest import Branch, NearestTiles, Precision, nearest
from vsm_fast.kernels.nearest_gemm import nearest_gemm
from vsm_fast.kernels.schedule import Schedule, plan
from vsm_fast.torch_state import pinned

# Channels of a unit vector are at most 1; float8 e4m3 reaches 448 and is precise down to 2^-6.
# This factor uses the upper part of that range; a power of two rounds nothing.
FLOAT8_SCALE = 256.0


@dataclass(frozen=True, eq=False)
class Matched:
    """Matches and counts of ``P`` pairs with ``T`` source points.

    Attributes:
        nearest: Similarities and targets of the points.
        kept: bool [T], matched points, at most one per target point of a pair.
        counts: int32 [P, 1 + V], number of matched points per pair, then number of those above
            each visual threshold.
    """

    nearest: Nearest
    kept: Tensor
    counts: Tensor


def schedule_pairs(
    source_offsets: Tensor,
    target_offsets: Tensor,
    pairs: Tensor,
    device: torch.device,
    tiles: NearestTiles,
    *,
    gemm: bool = False,
) -> Schedule:
    """Plan a batch for :func:`match_pairs`.

    Args:
        source_offsets: int64 [S + 1] on the CPU, rows of each source image.
        target_offsets: int64 [R + 1] on the CPU, rows of each target image.
        pairs: int64 [P, 2] on the CPU, (source image, target image).
        device: Device of the rows.
        tiles: Tiles of :func:`match_pairs`.
        gemm: Option of :func:`match_pairs`.
    """
    return plan(
        source_offsets,
        target_offsets,
        pairs,
        device,
        tile_queries=tiles.queries,
        tile_keys=tiles.keys,
        processors=1 if gemm else processors(device),  # 1: torch's products need no splits
    )


@pinned()
def match_pairs(
    semantic: Branch,
    visual: Branch,
    schedule: Schedule,
    semantic_threshold: float,
    visual_thresholds: Sequence[float],
    *,
    tiles: NearestTiles,
    normalised: bool = True,
    precision: Precision = "ieee",
    float8: bool = False,
    gemm: bool = False,
) -> Matched:
    """Match and count all pairs of a schedule.

    Args:
        semantic: Source and target rows [rows, D_s], contiguous, float32, float16 or bfloat16.
        visual: The same, [rows, D_v].
        schedule: From :func:`schedule_pairs` with the same ``tiles``.
        semantic_threshold: In [-1, 1]; a point matches strictly above it.
        visual_thresholds: At most four; a point matches visually strictly above one.
        tiles: Tiles of the nearest-neighbour kernel.
        normalised: Whether rows have unit length.
        precision: Precision of float32 products, ``"ieee"`` or ``"tf32"``.
        float8: Search with rows rounded to float8 (e4m3) and recompute the similarities of the
            result in float32 from the original rows.
        gemm: Search with torch's matrix products instead of the fused kernel.

    Returns:
        Matches and counts, on the device of the rows.

    Source: arXiv 2509.21989, the definition of VSM.
    """
    device = schedule.items.device
    claims = torch.empty(schedule.claims, dtype=torch.int64, device=device)
    shape = (schedule.pairs, 1 + len(visual_thresholds))
    if schedule.points == 0:
        none = torch.empty(0, device=device)
        return Matched(
            Nearest(none, none.long(), none),
            none.bool(),
            torch.zeros(shape, dtype=torch.int32, device=device),
        )
    counts = torch.empty(shape, dtype=torch.int32, device=device)
    semantic = semantic[0].contiguous(), semantic[1].contiguous()
    visual = visual[0].contiguous(), visual[1].contiguous()
    if gemm:
        parts = nearest_gemm(
            semantic, visual, schedule, claims=claims, counts=counts, normalised=normalised
        )
    else:
        parts = nearest(
            _float8(semantic, normalised) if float8 else semantic,
            _float8(visual, normalised) if float8 else visual,
            schedule,
            claims=claims,
            counts=counts,
            tiles=tiles,
            normalised=normalised or float8,
            precision=precision,
            visual_index=float8,
            scale=FLOAT8_SCALE**-2 if float8 else 1.0,
        )
    found = claim(
        parts,
        schedule,
        claims,
        semantic_threshold,
        semantic=semantic,
        visual=visual,
        exact=float8,
        normalised=normalised,
    )
    kept = count(found, schedule, claims, counts, semantic_threshold, visual_thresholds)
    return Matched(found, kept, counts)


def _float8(branch: Branch, normalised: bool) -> Branch:
    """Round unit-length rows, scaled by ``FLOAT8_SCALE``, to float8."""
    query, key = (
        ((rows if normalised else F.normalize(rows.float(), dim=1)).float() * FLOAT8_SCALE).to(
            torch.float8_e4m3fn
        )
        for rows in branch
    )
    return query, key
