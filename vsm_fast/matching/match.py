"""Matching: the corresponding target point of each source point.

``source`` is the generated image, ``target`` the reference. :func:`match` selects an
implementation; :func:`match_eager` is the specification of all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from vsm_fast.descriptors import Descriptors
from vsm_fast.identity import require_same_model
from vsm_fast.matching.cpu import NearestJob, find_nearest, product_library
from vsm_fast.matching.gpu import MatchPrecision, match_triton, why_not
from vsm_fast.matching.matches import Matches
from vsm_fast.torch_state import pinned

logger = logging.getLogger(__name__)

MatchPath = Literal["eager", "blocked", "triton"]


@torch.no_grad()
def match_eager(
    source: Descriptors, target: Descriptors, pairs: Tensor, semantic_threshold: float
) -> Matches:
    """Match pair by pair with full similarity matrices; the specification of :func:`match`."""
    parts = []
    for source_image, target_image in pairs.tolist():
        mine, theirs = source.rows(source_image), target.rows(target_image)
        semantic = source.semantic[mine].float() @ target.semantic[theirs].float().T
        visual = source.visual[mine].float() @ target.visual[theirs].float().T
        if semantic.shape[1] == 0:
            nothing = semantic.new_full((len(semantic),), torch.nan)
            parts.append((nothing, torch.full_like(nothing, -1).long(), nothing, nothing > 0))
            continue
        similarity, index = _best(semantic)
        kept = similarity > semantic_threshold
        # A point loses to a higher one with the same target, and to an equal one before it.
        same = (index[:, None] == index) & kept
        earlier = torch.ones_like(same).tril(-1)
        higher = similarity > similarity[:, None]
        beaten = same & (higher | ((similarity == similarity[:, None]) & earlier))
        parts.append((similarity, index, _best(visual)[0], kept & ~beaten.any(dim=1)))
    offsets = torch.tensor([0, *(len(part[0]) for part in parts)]).cumsum(0)
    if not parts:
        none = source.semantic.new_empty(0, dtype=torch.float32)
        return Matches(none, none.long(), none, none.bool(), offsets)
    similarity, index, visual, kept = (torch.cat(column) for column in zip(*parts, strict=True))
    return Matches(similarity, index, visual, kept, offsets)


def _best(similarities: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's maximum and its first index; NaN and -1 if all are NaN."""
    best, index = similarities.masked_fill(similarities.isnan(), -torch.inf).max(dim=1)
    nothing = best == -torch.inf
    return best.masked_fill(nothing, torch.nan), index.masked_fill(nothing, -1)


@torch.no_grad()
def match_blocked(
    source: Descriptors,
    target: Descriptors,
    pairs: Tensor,
    semantic_threshold: float,
) -> Matches:
    """Match on a CPU, one cache-sized block of a similarity matrix at a time.

    Arguments and result as for :func:`match_eager`; similarities differ by float32 rounding.
    """
    sources, targets = pairs.cpu().unbind(1)
    starts, counts = source.offsets[sources], source.offsets.diff()[sources]
    target_starts, target_counts = target.offsets[targets], target.offsets.diff()[targets]
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    points = int(offsets[-1])
    similarity, visual_similarity = torch.full((2, points), torch.nan)
    index, unused = torch.full((2, points), -1)
    branches = [
        (mine.float().contiguous(), theirs.float().contiguous(), best, position)
        for mine, theirs, best, position in (
            (source.semantic, target.semantic, similarity, index),
            (source.visual, target.visual, visual_similarity, unused),
        )
    ]
    jobs = []
    for first, end in pairwise(_joined(targets, starts, counts)):
        out = slice(int(offsets[first]), int(offsets[end]))
        if out.start == out.stop or target_counts[first] == 0:
            continue
        rows = slice(int(starts[first]), int(starts[first]) + out.stop - out.start)
        columns = slice(int(target_starts[first]), int((target_starts + target_counts)[first]))
        jobs += [
            NearestJob(mine[rows], theirs[columns], best[out], position[out])
            for mine, theirs, best, position in branches
        ]
    find_nearest(jobs)
    # A common numbering of all pairs' target points resolves duplicates in one pass.
    numbering = (target_counts.cumsum(0) - target_counts).repeat_interleave(counts) + index
    kept = _one_source_per_target(
        similarity, numbering, similarity > semantic_threshold, int(target_counts.sum())
    )
    return Matches(similarity, index, visual_similarity, kept, offsets)


def _joined(targets: Tensor, starts: Tensor, counts: Tensor) -> list[int]:
    """Return the bounds of runs of pairs with the same target and consecutive source rows.

    A run is matched as one tall block instead of many small ones.
    """
    follows = (targets[1:] == targets[:-1]) & (starts[1:] == (starts + counts)[:-1])
    ends = [len(targets)] if len(targets) else []
    return [0, *((~follows).nonzero()[:, 0] + 1).tolist(), *ends]


def _one_source_per_target(
    similarity: Tensor, target: Tensor, kept: Tensor, n_targets: int
) -> Tensor:
    """Resolve duplicate matches: bool [T], the most similar source per target, first of equal."""
    rows = kept.nonzero()[:, 0]
    chosen, score = target[rows], similarity[rows]
    best = score.new_full((n_targets,), -torch.inf).scatter_reduce_(0, chosen, score, "amax")
    rows, chosen = (column[score == best[chosen]] for column in (rows, chosen))
    first = rows.new_full((n_targets,), len(kept)).scatter_reduce_(0, chosen, rows, "amin")
    winner = torch.zeros_like(kept)
    winner[rows[first[chosen] == rows]] = True
    return winner


def choose_path(
    device: torch.device | str, path: Literal["auto"] | MatchPath = "auto"
) -> tuple[MatchPath, str]:
    """Choose the implementation of matching.

    Args:
        device: Device of the descriptors.
        path: ``"auto"`` or the name of an implementation.

    Returns:
        Its name and a short reason.

    Raises:
        ValueError: If the path is unknown or cannot run on ``device``.
    """
    device = torch.device(device)
    on_cpu = device.type == "cpu"
    no_triton = why_not(device)
    if path == "auto":
        if on_cpu:
            return "blocked", "blocks of rows stay in the CPU's cache"
        if no_triton is None:
            return "triton", "one fused search for all pairs without a similarity matrix"
        return "eager", no_triton
    if path not in get_args(MatchPath):
        known = ", ".join(map(repr, ("auto", *get_args(MatchPath))))
        raise ValueError(f"path must be one of {known}; got {path!r}.")
    if path == "blocked" and not on_cpu:
        raise ValueError(
            f"path 'blocked' runs on a CPU; the descriptors are on {device}. "
            "Use path='auto' or move them with .to('cpu')."
        )
    if path == "triton" and no_triton is not None:
        raise ValueError(f"path 'triton' cannot run: {no_triton}. Use path='auto'.")
    return path, "requested"


def describe_search(
    device: torch.device | str, dtype: torch.dtype, channels: int, points: int
) -> str:
    """Return a short description of the search of path ``"auto"``, with its reason.

    Args:
        device: Device of the descriptors.
        dtype: Type of the descriptors.
        channels: Channels of a descriptor.
        points: Points of the largest reference.

    Raises:
        ValueError: If the file of tuned tiles of this GPU is damaged.
    """
    device = torch.device(device)
    path, _ = choose_path(device)
    if path == "blocked":
        return f"blocks of float32 similarities, multiplied by {product_library()}"
    if path == "triton":
        from vsm_fast.kernels.tuning import choose

        return str(choose(dtype, channels, points, device).reason)
    return "a full similarity matrix per pair"


@pinned()
def match(
    source: Descriptors,
    target: Descriptors,
    pairs: Tensor,
    semantic_threshold: float,
    *,
    visual_thresholds: Sequence[float] = (),
    path: Literal["auto"] | MatchPath = "auto",
    precision: MatchPrecision = "full",
) -> Matches:
    """Match the points of image pairs.

    A source point is kept if its best semantic similarity is above the threshold and no other
    kept source point of the pair has the same best target point with a higher similarity (of
    equal ones the first is kept). Its visual similarity is the best over all target points.

    NaN similarities are ignored: a target point with a NaN channel is never the best; a source
    point with one gets similarity NaN and target -1, is not kept and affects no other point.

    Args:
        source: Descriptors of the generated images, unit length.
        target: Descriptors of the references, on the same device.
        pairs: int64 [P, 2], (image of ``source``, image of ``target``). Fastest if the pairs of
            a reference are consecutive, in the order of their generated images.
        semantic_threshold: In [-1, 1]; a point matches strictly above it.
        visual_thresholds: Thresholds of the scores, counted during matching if the path can.
        path: ``"auto"``, ``"eager"``, ``"blocked"`` (on a CPU) or ``"triton"`` (on a GPU).
        precision: Precision of the search. ``"full"`` is that of the descriptors; path
            ``"triton"`` also has ``"tf32"`` for float32 descriptors and ``"float8"``.

    Returns:
        Matches, float32, on the device of the descriptors.

    Raises:
        ValueError: If pairs have a wrong shape or are out of range, descriptors are incompatible,
            or the path or precision is unavailable.
        ModelError: If ``source`` and ``target`` come from different models.

    Source: arXiv 2509.21989, the definition of VSM.
    """
    _check(source, target, pairs)
    device = source.semantic.device
    chosen, reason = choose_path(device, path)
    logger.debug("matching %d pairs on %s: %s (%s)", len(pairs), device, chosen, reason)
    if chosen == "triton":
        return match_triton(
            source,
            target,
            pairs,
            semantic_threshold,
            visual_thresholds=visual_thresholds,
            precision=precision,
        )
    if precision != "full":
        raise ValueError(f"precision {precision!r} needs path 'triton'; this is {chosen!r}.")
    implementation = {"eager": match_eager, "blocked": match_blocked}[chosen]
    return implementation(source, target, pairs, semantic_threshold)


def _check(source: Descriptors, target: Descriptors, pairs: Tensor) -> None:
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype != torch.int64:
        raise ValueError(
            f"pairs must be int64 [P, 2], (source image, target image); got {pairs.dtype} "
            f"{list(pairs.shape)}."
        )
    for column, (name, descriptors) in enumerate((("source", source), ("target", target))):
        images = pairs[:, column]
        if len(images) and not (0 <= int(images.min()) <= int(images.max()) < len(descriptors)):
            raise ValueError(
                f"pairs refer to {name} images {int(images.min())} to {int(images.max())}; there "
                f"are {len(descriptors)}, counted from 0."
            )
    require_same_model(target.identity, source.identity)
    for branch in ("semantic", "visual"):
        mine, theirs = getattr(source, branch), getattr(target, branch)
        if mine.shape[1] != theirs.shape[1] or mine.device != theirs.device:
            raise ValueError(
                f"{branch} descriptors must have the same channels and device; source has "
                f"{mine.shape[1]} on {mine.device}, target {theirs.shape[1]} on {theirs.device}."
            )
