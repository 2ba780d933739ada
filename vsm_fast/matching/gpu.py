"""Matching with the Triton kernels (:mod:`vsm_fast.kernels`): descriptors in, matches out."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vsm_fast.descriptors import Descriptors
from vsm_fast.matching.matches import Matches, PairCounts

logger = logging.getLogger(__name__)

MatchPrecision = Literal["full", "tf32", "float8"]
_LEAST_TRITON = (3, 6)  # the earliest tested version
_LEAST_CAPABILITY = (8, 0)  # asynchronous copies and bfloat16 tensor cores
_FLOAT8_CAPABILITY = (8, 9)


def why_not(device: torch.device) -> str | None:
    """Return why the kernels cannot run on ``device``; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install '.[gpu]')"
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device.type != "cuda":
        return f"the Triton kernels run on CUDA and ROCm devices, not on {device.type}"
    installed = triton_version()
    if tuple(map(int, installed.split(".")[:2])) < _LEAST_TRITON:
        return "the Triton kernels need Triton {}.{}; {} is installed".format(
            *_LEAST_TRITON, installed
        )
    if torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < _LEAST_CAPABILITY:
            return "the Triton kernels need compute capability 8.0; this GPU has {}.{}".format(
                *capability
            )
    return None


def triton_version() -> str:
    """Return the version of the module; the distribution's name depends on its builder."""
    import triton

    return str(triton.__version__)


def match_triton(
    source: Descriptors,
    target: Descriptors,
    pairs: Tensor,
    semantic_threshold: float,
    *,
    visual_thresholds: Sequence[float] = (),
    precision: MatchPrecision = "full",
) -> Matches:
    """Match a batch in three launches, without synchronising with the device.

    Args:
        source: Descriptors of the generated images.
        target: Descriptors of the references, of the same type.
        pairs: int64 [P, 2], (image of ``source``, image of ``target``).
        semantic_threshold: In [-1, 1]; a point matches strictly above it.
        visual_thresholds: Thresholds to count for; more than four are not counted here.
        precision: Precision of the search: ``"full"``, ``"tf32"`` (float32 descriptors only) or
            ``"float8"`` (the similarities of the result are exact).

    Returns:
        Matches as from :func:`vsm_fast.matching.match.match_eager`, with counts.

    Raises:
        ValueError: If the types differ or the precision is unavailable.
    """
    from vsm_fast.kernels.count import MAX_THRESHOLDS
    from vsm_fast.kernels.match import match_pairs, schedule_pairs
    from vsm_fast.kernels.tuning import choose

    dtype, device = source.semantic.dtype, source.semantic.device
    dtypes = {rows.dtype for side in (source, target) for rows in (side.semantic, side.visual)}
    if len(dtypes) != 1:
        names = sorted(str(each).removeprefix("torch.") for each in dtypes)
        raise ValueError(
            f"path 'triton' needs descriptors of one type; got {', '.join(names)}. Convert them "
            "with Descriptors.to(device, dtype)."
        )
    if precision == "tf32" and dtype != torch.float32:
        raise ValueError(f"precision 'tf32' is for float32 descriptors; got {dtype}.")
    if (
        precision == "float8"
        and device.type == "cuda"
        and (torch.version.hip or torch.cuda.get_device_capability(device) < _FLOAT8_CAPABILITY)
    ):
        raise ValueError(
            "precision 'float8' needs an NVIDIA GPU of compute capability 8.9 or later, unlike "
            f"{torch.cuda.get_device_name(device)}. Use precision='full'."
        )
    counted = tuple(visual_thresholds) if len(visual_thresholds) <= MAX_THRESHOLDS else ()
    points = int(target.offsets.diff().max()) if len(target) else 0
    choice = choose(
        torch.float8_e4m3fn if precision == "float8" else dtype,
        source.semantic.shape[1],
        points,
        device,
    )
    gemm = choice.gemm and precision == "full"
    logger.debug("matching %d pairs: %s", len(pairs), choice.reason)
    schedule = schedule_pairs(
        source.offsets, target.offsets, pairs.cpu(), device, choice.tiles, gemm=gemm
    )
    matched = match_pairs(
        (source.semantic, target.semantic),
        (source.visual, target.visual),
        schedule,
        semantic_threshold,
        counted,
        tiles=choice.tiles,
        precision="tf32" if precision == "tf32" else "ieee",
        float8=precision == "float8",
        gemm=gemm,
    )
    return Matches(
        matched.nearest.semantic_similarity,
        matched.nearest.target_index,
        matched.nearest.visual_similarity,
        matched.kept,
        schedule.offsets,
        PairCounts(counted, matched.counts),
    )
