"""Stored features of training pairs: the frozen backbone runs once per picture.

Each level is stored at its own resolution, or on the descriptor grid where that is coarser. The
aggregation networks read the same, so that training on stored features equals training on images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsm_fast.lab.pairs.semantic_matches import trusted_matches
from vsm_fast.lab.training.examples import TrainingExample, varied
from vsm_fast.model.aggregation import reduced

_PART_SHARE = 0.5  # minimum altered share of an altered cell
_CLEAN_SHARE = 0.05  # maximum altered share of a clean cell; cells in between are not trained on


@dataclass(frozen=True)
class FeatureSettings:
    """Augmentation and matching settings; the defaults are the paper's where it names them.

    Attributes:
        variants: Augmented variants per pair, with other frames, colours and mirror images.
        flips: Whether to mirror half of the variants.
        jitter: Maximum relative change of a colour channel, in [0, 1).
        known_points: Whether to use the matched points of a pair. Without them, and for pairs
            that have none, matches come from the features of ``match_level``.
        match_level: Level for feature matching; "" = ``us6``, the paper's, or the model's first
            level if it has no ``us6``.
        match_similarity: Minimum score of a feature match.
        match_skewness: Minimum skewness of a match's similarity row; negative = no minimum.
        seed: Seed of all random draws.
    """

    variants: int = 2
    flips: bool = True
    jitter: float = 0.08
    known_points: bool = True
    match_level: str = ""
    match_similarity: float = 0.7
    match_skewness: float = 1.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.variants < 1:
            raise ValueError(f"variants must be at least 1; got {self.variants}.")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter must lie in [0, 1); got {self.jitter}.")

    def level_of(self, levels: Sequence[str]) -> int:
        """Return the position of ``match_level`` among a model's levels.

        Raises:
            ValueError: If the model does not read that level.
        """
        level = self.match_level or ("us6" if "us6" in levels else levels[0])
        if level not in levels:
            raise ValueError(
                f"match_level {level!r} is not among the model's levels {', '.join(levels)}."
            )
        return list(levels).index(level)


@dataclass(frozen=True)
class PairFeatures:
    """Features and matches of one variant of a pair; ``n`` cells per view.

    Attributes:
        levels: One float [3, C, h, w] per level; (original 1, original 2, altered 1).
        match: int64 [n], matching cell of view 2 of each cell of view 1, or -1.
        part: int8 [n], cells of view 1: 1 altered, 0 clean, -1 in between.
        subject_2: bool [n], cells of the subject in view 2.
    """

    levels: tuple[Tensor, ...]
    match: Tensor
    part: Tensor
    subject_2: Tensor

    def row(self) -> dict[str, Tensor]:
        """Return the tensors by name, for ``rows.write_rows``."""
        named = {f"level_{number}": level for number, level in enumerate(self.levels)}
        return {**named, "match": self.match, "part": self.part, "subject_2": self.subject_2}

    @staticmethod
    def of_row(row: dict[str, Tensor]) -> PairFeatures:
        """Invert :meth:`row`."""
        return PairFeatures(levels_of(row), row["match"], row["part"], row["subject_2"])


def levels_of(row: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Return the levels of a stored row, in order."""
    count = sum(name.startswith("level_") for name in row)
    return tuple(row[f"level_{number}"] for number in range(count))


def batch_levels(rows: Iterable[tuple[Tensor, ...]], device: torch.device | str) -> list[Tensor]:
    """Concatenate the levels of several rows; float32 on the device."""
    return [torch.cat(views).to(device).float() for views in zip(*rows, strict=True)]


@torch.inference_mode()
def stored_levels(backbone: nn.Module, pictures: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    """Extract the levels of pictures in their stored form, float16 on the CPU.

    Args:
        backbone: float [B, 3, R, R] in [-1, 1] -> one tensor per level.
        pictures: float32 [B, 3, R, R].
        grid: (rows, columns) of the descriptors.

    Raises:
        FloatingPointError: If a feature does not fit into float16.
    """
    parameter = next(backbone.parameters(), pictures)
    levels = backbone(pictures.to(parameter.device, parameter.dtype))
    stored = [reduced(level, grid).to("cpu", torch.float16).contiguous() for level in levels]
    if not all(torch.isfinite(level).all() for level in stored):
        raise FloatingPointError(
            "the backbone's features hold NaN, Inf or numbers above 65504, which float16 cannot "
            "hold: run it with --dtype float32. If the error stays, its weights are damaged."
        )
    return stored


def pair_features(
    backbone: nn.Module,
    examples: Sequence[TrainingExample],
    grid: tuple[int, int],
    rngs: Sequence[np.random.Generator],
    settings: FeatureSettings,
    match_level: int = 0,
) -> list[PairFeatures]:
    """Extract the features of one variant of each example with the frozen backbone.

    Each example has its random generator of the augmentation; ``match_level`` is the position of
    the level for feature matching. Other arguments as in :func:`stored_levels`.
    """
    visits = [
        varied(example, rng, flips=settings.flips, jitter=settings.jitter)
        for example, rng in zip(examples, rngs, strict=True)
    ]
    levels = stored_levels(backbone, torch.cat([pictures[:3] for pictures, _ in visits]), grid)
    features = []
    for number, (_, cells) in enumerate(visits):
        own = tuple(level[3 * number : 3 * number + 3] for level in levels)
        match = cells.match
        if not (cells.exact and settings.known_points):
            match = _semantic_matches(
                own[match_level], cells.subject_1, cells.subject_2, grid, settings
            )
        part = torch.full_like(cells.part, -1, dtype=torch.int8)
        part[cells.part >= _PART_SHARE] = 1
        part[cells.part <= _CLEAN_SHARE] = 0
        features.append(PairFeatures(own, match, part, cells.subject_2))
    return features


def _semantic_matches(
    level: Tensor,
    subject_1: Tensor,
    subject_2: Tensor,
    grid: tuple[int, int],
    settings: FeatureSettings,
) -> Tensor:
    """Match the cells of view 1 to view 2 in feature space; int64 [n], -1 = no match."""
    resized = F.interpolate(level[:2].float(), grid, mode="bilinear", align_corners=False)
    rows = F.normalize(resized.flatten(2).transpose(1, 2), dim=2)
    cells_1, cells_2 = subject_1.nonzero()[:, 0], subject_2.nonzero()[:, 0]
    skewness = settings.match_skewness if settings.match_skewness >= 0 else None
    matches = trusted_matches(
        rows[0][cells_1], rows[1][cells_2], settings.match_similarity, skewness
    )
    match = torch.full_like(subject_1, -1, dtype=torch.int64)
    match[cells_1[matches[:, 0]]] = cells_2[matches[:, 1]]
    return match
