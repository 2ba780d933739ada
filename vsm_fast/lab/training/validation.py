"""Validation of aggregation networks on stored features, as often as wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vsm_fast.descriptors import Descriptors
from vsm_fast.errors import TrainingError
from vsm_fast.lab.evaluation.evaluating import OTHER_SUBJECT
from vsm_fast.lab.training.calibration import PointTable, calibrate, point_table, report
from vsm_fast.lab.training.contrastive import AggregationPair
from vsm_fast.lab.training.features import levels_of
from vsm_fast.lab.training.rows import RowShards

_BATCH = 16  # pairs described at a time
_FEWEST_PAIRS = 3  # that have a correlation


@dataclass(frozen=True)
class Validation:
    """Thresholds that were calibrated, and the figures of ``calibration.report`` at them."""

    thresholds: tuple[float, float]
    figures: dict[str, float]


def validate(networks: AggregationPair, features: RowShards) -> Validation:
    """Calibrate on validation pairs, and measure on the same: which epoch is best, not how good.

    Args:
        networks: In eval mode.
        features: Of ``feature_cache.validation_features``.

    Raises:
        ValueError: No thresholds can be found; too few pairs.
    """
    oracle, kinds = _known(features)
    table = stored_point_table(networks, features)
    thresholds = calibrate(table, oracle, kinds == OTHER_SUBJECT)
    return Validation(thresholds, report(oracle, kinds, table, thresholds))


def check_pairs(features: RowShards) -> None:
    """Refuse validation pairs with which no epoch could be judged, before hours go into one.

    Raises:
        TrainingError: Fewer than three pairs of one subject, or all altered by one share.
    """
    oracle, kinds = _known(features)
    judged = oracle[kinds != OTHER_SUBJECT]
    if len(judged) < _FEWEST_PAIRS or np.ptp(judged) == 0:
        raise TrainingError(
            f"validation needs at least {_FEWEST_PAIRS} pairs of one subject whose altered shares "
            f"differ; got {len(judged)}, with {len(set(judged))} different shares. Make more."
        )


def measure_at(
    networks: AggregationPair, features: RowShards, thresholds: tuple[float, float]
) -> dict[str, float]:
    """Figures of other pairs at thresholds that were calibrated elsewhere."""
    table = stored_point_table(networks, features)
    return report(*_known(features), table, thresholds)


def _known(features: RowShards) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Oracle and kind of every pair."""
    oracle = np.array(features.notes("oracle"), np.float64)
    return oracle, np.array(features.notes("kind"), np.str_)


@torch.inference_mode()
def stored_point_table(networks: AggregationPair, features: RowShards) -> PointTable:
    """Matched points of all pairs, from stored features; networks in eval mode."""
    device: Any = next(networks.parameters()).device
    parts: list[tuple[Descriptors, Descriptors]] = []
    altered: list[NDArray[np.bool_]] = []
    for first in range(0, len(features), _BATCH):
        rows = [features[row] for row in range(first, min(first + _BATCH, len(features)))]
        levels = [
            torch.cat(views).to(device).float()
            for views in zip(*(levels_of(row) for row in rows), strict=True)
        ]
        maps = [branch.unflatten(0, (len(rows), 2)) for branch in networks(levels)]
        subjects = torch.stack([row["subject"] for row in rows])
        parts.append((_side(maps, subjects, 0), _side(maps, subjects, 1)))
        altered += [row["altered"][row["subject"][1].flatten()].numpy() for row in rows]
    references, generations = (Descriptors.cat(side) for side in zip(*parts, strict=True))
    return point_table(generations, references, np.concatenate(altered))


def _side(maps: list[Tensor], subjects: Tensor, side: int) -> Descriptors:
    semantic, visual = (branch[:, side] for branch in maps)
    return Descriptors.pack(semantic, visual, subjects[:, side])
