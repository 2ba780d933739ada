"""Third launch: kept points and counts per pair.

A point is kept if the best claim of its target is its own. Counts are integer sums, which are
independent of order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from vsm_fast.kernels.claim import WARPS, Nearest, pack_claim
from vsm_fast.kernels.devices import launching_on
from vsm_fast.kernels.schedule import BLOCK_COLUMNS, POINTS_PER_BLOCK, Schedule

MAX_THRESHOLDS = 4


@triton.jit
def _add(counts, column: tl.constexpr, counted):
    tl.atomic_add(counts + column, tl.sum(counted.to(tl.int32), 0), sem="relaxed")


@triton.jit(do_not_specialize=["semantic", "visual_0", "visual_1", "visual_2", "visual_3"])
def _count_kernel(
    semantic_similarity, target_index, visual_similarity,  # [T]
    blocks, claims, kept, counts,  # [B, 6], int64 [claims], uint8 [T], int32 [P, 1 + V]
    semantic, visual_0, visual_1, visual_2, visual_3,  # thresholds
    THRESHOLDS: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program: the points of one block, all of one pair."""
    block = blocks + tl.program_id(0).to(tl.int64) * COLUMNS
    lanes = tl.arange(0, BLOCK)
    inside = lanes < tl.load(block + 2)
    points = tl.load(block + 1) + lanes
    similar = tl.load(semantic_similarity + points, mask=inside, other=float("nan"))
    looks = tl.load(visual_similarity + points, mask=inside, other=float("nan"))
    claimed = inside & (similar > semantic)
    target = tl.load(target_index + points, mask=claimed, other=0)
    winner = tl.load(claims + tl.load(block + 3) + target, mask=claimed, other=0)
    mine = claimed & (winner == pack_claim(similar, points))
    tl.store(kept + points, mine.to(tl.uint8), mask=inside)
    row = counts + tl.load(block).to(tl.int64) * (1 + THRESHOLDS)
    _add(row, 0, mine)
    if THRESHOLDS > 0:
        _add(row, 1, mine & (looks > visual_0))
    if THRESHOLDS > 1:
        _add(row, 2, mine & (looks > visual_1))
    if THRESHOLDS > 2:
        _add(row, 3, mine & (looks > visual_2))
    if THRESHOLDS > 3:
        _add(row, 4, mine & (looks > visual_3))


def count(
    found: Nearest,
    schedule: Schedule,
    claims: Tensor,
    counts: Tensor,
    semantic_threshold: float,
    visual_thresholds: Sequence[float],
) -> Tensor:
    """Keep the points with the winning claim, and count them.

    Args:
        found: Result of ``claim``.
        schedule: Schedule of the batch.
        claims: int64 [schedule.claims], output of ``claim``.
        counts: int32 [P, 1 + V], cleared; output: number of kept points per pair, then number of
            those with a visual similarity strictly above each threshold.
        semantic_threshold: Threshold of ``claim``.
        visual_thresholds: V thresholds, at most four.

    Returns:
        bool [T], kept points.

    Raises:
        ValueError: If there are more than four visual thresholds.
    """
    if len(visual_thresholds) > MAX_THRESHOLDS:
        raise ValueError(
            f"count takes at most {MAX_THRESHOLDS} visual thresholds; got "
            f"{len(visual_thresholds)}. Compare the visual similarities instead."
        )
    kept = torch.empty(schedule.points, dtype=torch.bool, device=claims.device)
    unused = [0.0] * (MAX_THRESHOLDS - len(visual_thresholds))
    with launching_on(claims.device):
        _count_kernel[(len(schedule.blocks),)](
            found.semantic_similarity, found.target_index, found.visual_similarity,
            schedule.blocks, claims, kept.view(torch.uint8), counts,
            semantic_threshold, *visual_thresholds, *unused,
            THRESHOLDS=len(visual_thresholds), BLOCK=POINTS_PER_BLOCK, COLUMNS=len(BLOCK_COLUMNS),
            num_warps=WARPS,
        )  # fmt: skip
    return kept
