"""Matching: which points of a source image are the same part as a point of the target.

``source`` is the generated image, ``target`` the reference. :func:`match` is the one place that
picks an implementation; :func:`match_eager` is the specification that all of them follow.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from vsm_fast._cpu_matching import NearestJob, find_nearest
from vsm_fast.descriptors import Descriptors

logger = logging.getLogger(__name__)

MatchPath = Literal["eager", "blocked"]


@dataclass(frozen=True, eq=False)
class Matches:
    """Matches of ``P`` pairs, packed; ``T`` source points in all.

    Attributes:
        semantic_similarity: float32 [T] in [-1, 1], to the semantically nearest target point;
            NaN where the target has no point.
        target_index: int64 [T], that point, counted within its image; -1 where there is none.
        visual_similarity: float32 [T] in [-1, 1], to the visually nearest target point; NaN
            where the target has no point.
        kept: bool [T], the matched points, at most one per target point.
        offsets: int64 [P + 1] on the CPU; pair ``p`` owns points ``offsets[p]:offsets[p+1]``.
    """

    semantic_similarity: Tensor
    target_index: Tensor
    visual_similarity: Tensor
    kept: Tensor
    offsets: Tensor


@torch.no_grad()
def match_eager(
    source: Descriptors, target: Descriptors, pairs: Tensor, semantic_threshold: float
) -> Matches:
    """Match pair by pair with full similarity matrices: the specification of :func:`match`."""
    parts = []
    for source_image, target_image in pairs.tolist():
        mine, theirs = source.rows(source_image), target.rows(target_image)
        semantic = source.semantic[mine].float() @ target.semantic[theirs].float().T
        visual = source.visual[mine].float() @ target.visual[theirs].float().T
        if semantic.shape[1] == 0:
            nothing = semantic.new_full((len(semantic),), torch.nan)
            parts.append((nothing, nothing.new_full(nothing.shape, -1).long(), nothing, nothing > 0))
            continue
        similarity, index = semantic.max(dim=1)  # of equal ones the first
        kept = similarity > semantic_threshold
        # A point loses when a rival, kept with the same target, is higher, or equal and earlier.
        rival = (index[:, None] == index) & kept
        earlier = torch.ones_like(rival).tril(-1)
        higher = similarity > similarity[:, None]
        beaten = rival & (higher | ((similarity == similarity[:, None]) & earlier))
        parts.append((similarity, index, visual.amax(dim=1), kept & ~beaten.any(dim=1)))
    offsets = torch.tensor([0, *(len(part[0]) for part in parts)]).cumsum(0)
    if not parts:
        none = source.semantic.new_empty(0, dtype=torch.float32)
        return Matches(none, none.long(), none, none.bool(), offsets)
    return Matches(*(torch.cat(column) for column in zip(*parts, strict=True)), offsets)


@torch.no_grad()
def match_blocked(
    source: Descriptors,
    target: Descriptors,
    pairs: Tensor,
    semantic_threshold: float,
    *,
    bfloat16_filter: bool | None = None,
) -> Matches:
    """Match on a CPU, never holding more than a cache-sized block of a similarity matrix.

    Args:
        source: The generated images.
        target: The references.
        pairs: int64 [P, 2], (image of ``source``, image of ``target``).
        semantic_threshold: In [-1, 1]; a point matches strictly above it.
        bfloat16_filter: Whether large pairs are filtered in bfloat16 before float32 decides;
            None measures once whether that is faster on this CPU.

    Returns:
        What :func:`match_eager` returns; similarities differ by float32 rounding.

    Source: arXiv 2509.21989, the definition of VSM.
    """
    starts, counts, target_starts, target_counts = _extents(source, target, pairs)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    total = int(offsets[-1])
    similarity = torch.full((total,), torch.nan)
    visual_similarity = torch.full((total,), torch.nan)
    index = torch.full((total,), -1)
    jobs = []
    for first, last in _runs(pairs, starts, counts, target_counts):
        rows = slice(int(starts[first]), int(starts[last] + counts[last]))
        columns = slice(int(target_starts[first]), int(target_starts[first] + target_counts[first]))
        out = slice(int(offsets[first]), int(offsets[last + 1]))
