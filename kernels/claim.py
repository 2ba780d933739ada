"""Second launch: merge splits; each source point claims its target and the best claim wins.

A claim is one int64: similarity in the upper half, point in the lower half, encoded so that a
larger integer is a better claim. One atomic maximum resolves exact ties, independently of the
order of the programs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vsm_fast.kernels.devices import launching_on
from vsm_fast.kernels.nearest import Branch, NearestParts
from vsm_fast.kernels.schedule import BLOCK_COLUMNS, POINTS_PER_BLOCK, Schedule

WARPS = 4
# For recomputed similarities: channels per step, and the warps that hold them without spilling.
CHANNELS_EXACT = 16
WARPS_EXACT = 8


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest targets of ``T`` points.

    Attributes:
        semantic_similarity: float32 [T]; NaN without a target.
        target_index: int64 [T], index within the target image; -1 without a target.
        visual_similarity: float32 [T]; NaN without a target.
    """

    semantic_similarity: Tensor
    target_index: Tensor
    visual_similarity: Tensor


@triton.jit
def pack_claim(similarity, point):
    """Encode a claim as int64, ordered by similarity, then by the earlier point."""
    # Adding 0 turns -0 into +0, because they must tie. The bits of positive floats sort like
    # integers, those of negative ones in reverse: flip them below the sign.
    bits = (similarity + 0.0).to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - point).to(tl.int64)


@triton.jit
def _merged(similarity, index, branch, n_splits, n_points, points, inside):
    """Return the best of all splits; of equal ones the first, which has the smaller index."""
    best = tl.full(points.shape, -float("inf"), tl.float32)
    found = tl.full(points.shape, -1, tl.int32)
    for split in range(n_splits):
        at = (branch * n_splits + split).to(tl.int64) * n_points + points
        candidate = tl.load(similarity + at, mask=inside, other=-float("inf"))
        better = candidate > best
        found = tl.where(better, tl.load(index + at, mask=inside, other=-1), found)
        best = tl.where(better, candidate, best)
    return tl.where(found < 0, float("nan"), best), found


@triton.jit
def _cosine(
    query, key, rows, targets, inside, D: tl.constexpr, C: tl.constexpr, NORMALISED: tl.constexpr
):
    """Return float32 similarities of row pairs; NaN without a target."""
    from_row = query + rows.to(tl.int64)[:, None] * D
    to_row = key + tl.maximum(targets, 0).to(tl.int64)[:, None] * D
    products = tl.zeros(rows.shape, tl.float32)
    lengths = tl.zeros(rows.shape, tl.float32)
    key_lengths = tl.zeros(rows.shape, tl.float32)
    for channel in range(0, D, C):
        channels = channel + tl.arange(0, C)[None, :]
        there = inside[:, None] & (channels < D)
        q = tl.load(from_row + channels, mask=there, other=0.0).to(tl.float32)
        k = tl.load(to_row + channels, mask=there, other=0.0).to(tl.float32)
        products += tl.sum(q * k, 1)
        if not NORMALISED:
            lengths += tl.sum(q * q, 1)
            key_lengths += tl.sum(k * k, 1)
    if not NORMALISED:
        products /= tl.maximum(tl.sqrt(lengths), 1e-12) * tl.maximum(tl.sqrt(key_lengths), 1e-12)
    return tl.where(inside, products, float("nan"))


@triton.jit(do_not_specialize=["n_splits", "n_points", "threshold"])
def _claim_kernel(
    similarity, index, blocks, claims,  # [2, S, T], [2, S, T], [B, 6], int64 [claims]
    semantic_similarity, target_index, visual_similarity,  # outputs [T]
    semantic_query, semantic_key, visual_query, visual_key,  # exact rows, if EXACT
    n_splits, n_points, threshold,
    D_SEMANTIC: tl.constexpr, D_VISUAL: tl.constexpr, C: tl.constexpr,
    EXACT: tl.constexpr, NORMALISED: tl.constexpr,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program: the points of one block, all of one pair."""
    block = blocks + tl.program_id(0).to(tl.int64) * COLUMNS
    lanes = tl.arange(0, BLOCK)
    inside = lanes < tl.load(block + 2)
    points = tl.load(block + 1) + lanes
    similar, found = _merged(similarity, index, 0, n_splits, n_points, points, inside)
    looks, seen = _merged(similarity, index, 1, n_splits, n_points, points, inside)
    if EXACT:
        rows = tl.load(block + 4) + lanes
        k0 = tl.load(block + 5)
        similar = _cosine(
            semantic_query, semantic_key, rows, k0 + found, inside & (found >= 0),
            D_SEMANTIC, C, NORMALISED,
        )  # fmt: skip
        looks = _cosine(
            visual_query, visual_key, rows, k0 + seen, inside & (seen >= 0),
            D_VISUAL, C, NORMALISED,
        )  # fmt: skip
    # A non-finite row has no target.
    found = tl.where(similar == similar, found, -1)
    tl.store(semantic_similarity + points, similar, mask=inside)
    tl.store(target_index + points, found.to(tl.int64), mask=inside)
    tl.store(visual_similarity + points, looks, mask=inside)
    target = tl.load(block + 3) + found
    claimed = inside & (similar > threshold)
    tl.atomic_max(claims + target, pack_claim(similar, points), mask=claimed, sem="relaxed")


def claim(
    parts: NearestParts,
    schedule: Schedule,
    claims: Tensor,
    semantic_threshold: float,
    *,
    semantic: Branch,
    visual: Branch,
    exact: bool = False,
    normalised: bool = True,
) -> Nearest:
    """Merge splits and claim the target of each point above the threshold.

    Args:
        parts: Result of ``nearest``.
        schedule: Schedule of the batch.
        claims: int64 [schedule.claims], cleared; output: best claim per target.
        semantic_threshold: In [-1, 1]; a point claims strictly above it.
        semantic: Source and target rows [rows, D_s] in full precision.
        visual: The same, [rows, D_v].
        exact: Recompute the similarities in float32 from these rows, because ``parts`` comes
            from rounded rows. Needs the index of both branches.
        normalised: Whether rows have unit length.

    Returns:
        Similarities and targets of all points.
    """
    points, device = schedule.points, schedule.blocks.device
    found = Nearest(
        torch.empty(points, dtype=torch.float32, device=device),
        torch.empty(points, dtype=torch.int64, device=device),
        torch.empty(points, dtype=torch.float32, device=device),
    )
    with launching_on(device):
        _claim_kernel[(len(schedule.blocks),)](
            parts.similarity, parts.index, schedule.blocks, claims,
            found.semantic_similarity, found.target_index, found.visual_similarity,
            *semantic, *visual,
            schedule.splits, points, semantic_threshold,
            D_SEMANTIC=semantic[0].shape[1], D_VISUAL=visual[0].shape[1], C=CHANNELS_EXACT,
            EXACT=exact, NORMALISED=normalised,
            BLOCK=POINTS_PER_BLOCK, COLUMNS=len(BLOCK_COLUMNS),
            num_warps=WARPS_EXACT if exact else WARPS,
        )  # fmt: skip
    return found
