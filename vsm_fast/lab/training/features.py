"""Features of training pairs: the frozen backbone runs once per picture, and never again.

Every level is kept at its own resolution, or on the descriptor grid where that is coarser, which
is what the aggregation networks read: training on stored features is training on the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsm_fast.lab.pairs.semantic_matches import trusted_matches
from vsm_fast.lab.training.examples import TrainingExample, varied
from vsm_fast.model.aggregation import reduced

_PART_SHARE = 0.5  # a cell is altered when at least this share of it is
_CLEAN_SHARE = 0.05  # and clean when at most this share is; cells between are not trained on


@dataclass(frozen=True)
class FeatureSettings:
    """What of a pair is kept; the defaults are the paper's where it names them.

    Attributes:
        variants: Visits of each pair with other frames, colours and mirror images.
        flips: Whether visits are mirrored.
        jitter: Most relative change of a colour channel.
        known_points: Whether to use the matched points that pairs bring along; without them, and
            for pairs that have none, features are matched as below.
        match_level: Level whose features match them; "" = ``us6``, the paper's, or the
            model's first level where it has no ``us6``.
        match_similarity: Least score of such a match.
        match_skewness: Least skewness of its row; negative = every row.
        seed: Of all draws.
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
        """Position of ``match_level`` among a model's levels.

        Raises:
            ValueError: The model does not read that level.
        """
        wanted = self.match_level or ("us6" if "us6" in levels else levels[0])
        if wanted not in levels:
            raise ValueError(
                f"match_level {wanted!r} is not among the model's levels {', '.join(levels)}."
            )
        return list(levels).index(wanted)


@dataclass(frozen=True)
class PairFeatures:
    """What contrastive training reads of one visit of a pair; ``n`` cells a view.

    Attributes:
        levels: One float [3, C, h, w] per level; (original 1, original 2, altered 1).
        match: int64 [n], the cell of view 2 that each cell of view 1 matches, or -1.
        part: int8 [n], 1 altered, 0 clean, -1 between (view 1).
        subject_2: bool [n].
    """

    levels: tuple[Tensor, ...]
    match: Tensor
    part: Tensor
    subject_2: Tensor

    def row(self) -> dict[str, Tensor]:
        """The tensors by name, for ``rows.write_rows``."""
        named = {f"level_{number}": level for number, level in enumerate(self.levels)}
        return {**named, "match": self.match, "part": self.part, "subject_2": self.subject_2}

    @staticmethod
    def of_row(row: dict[str, Tensor]) -> PairFeatures:
        """The inverse of :meth:`row`."""
        return PairFeatures(levels_of(row), row["match"], row["part"], row["subject_2"])


def levels_of(row: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The levels of a row, in order."""
    count = sum(name.startswith("level_") for name in row)
    return tuple(row[f"level_{number}"] for number in range(count))


def cell_states(part: Tensor) -> Tensor:
    """Cells that are altered (1), clean (0) or neither (-1), int8; from shares in [0, 1]."""
    state = torch.full_like(part, -1, dtype=torch.int8)
    state[part >= _PART_SHARE] = 1
    state[part <= _CLEAN_SHARE] = 0
    return state


@torch.inference_mode()
def stored_levels(backbone: nn.Module, pictures: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    """Levels as they are stored, float16 on the CPU.

    Args:
        backbone: float [B, 3, R, R] in [-1, 1] -> one tensor per level.
        pictures: float32 [B, 3, R, R].
        grid: (rows, columns) of the descriptors.

    Raises:
        FloatingPointError: A feature does not fit into float16.
    """
    parameter = next(backbone.parameters(), pictures)
    levels = backbone(pictures.to(parameter.device, parameter.dtype))
    stored = [reduced(level, grid).to("cpu", torch.float16).contiguous() for level in levels]
    if not all(torch.isfinite(level).all() for level in stored):
        raise FloatingPointError(
            "the backbone's features hold NaN, Inf or numbers above 65504, which float16 cannot "
            "hold; run it with --dtype float32, and if that stays, its weights are damaged."
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
    """One visit of each example through the frozen backbone.

    Args:
        backbone: float [B, 3, R, R] in [-1, 1] -> one tensor per level.
        examples: Framed pairs.
        grid: (rows, columns) of the descriptors.
        rngs: One an example, of the visit's draws.
        settings: Of the draws and of matching.
        match_level: Position of the level whose features match points.
    """
    visits = [
        varied(example, rng, flips=settings.flips, jitter=settings.jitter)
        for example, rng in zip(examples, rngs, strict=True)
    ]
    levels = stored_levels(backbone, torch.cat([pictures[:3] for pictures, _ in visits]), grid)
    made = []
    for number, (_, cells) in enumerate(visits):
        own = tuple(level[3 * number : 3 * number + 3] for level in levels)
        match = cells.match
        if not (cells.exact and settings.known_points):
            subjects = cells.subject_1, cells.subject_2
            match = _semantic_matches(own[match_level], subjects, grid, settings)
        made.append(PairFeatures(own, match, cell_states(cells.part), cells.subject_2))
    return made


def _semantic_matches(
    level: Tensor,
    subjects: tuple[Tensor, Tensor],
    grid: tuple[int, int],
    settings: FeatureSettings,
) -> Tensor:
    """The cell of view 2 that each cell of view 1 matches in feature space, or -1; int64 [n]."""
    resized = F.interpolate(level[:2].float(), grid, mode="bilinear", align_corners=False)
    rows = F.normalize(resized.flatten(2).transpose(1, 2), dim=2)
    cells = [subject.nonzero()[:, 0] for subject in subjects]
    skewness = settings.match_skewness if settings.match_skewness >= 0 else None
    found = trusted_matches(
        rows[0][cells[0]], rows[1][cells[1]], settings.match_similarity, skewness
    )
    match = torch.full_like(subjects[0], -1, dtype=torch.int64)
    match[cells[0][found[:, 0]]] = cells[1][found[:, 1]]
    return match
