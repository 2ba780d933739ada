"""Correspondences: which reference point each matched point of a generation goes to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vsm_fast.lab.figures.views import SubjectViews
from vsm_fast.matching.match import match
from vsm_fast.matching.scoring import score

# sRGB of the reference's top and bottom edge, from left to right. Hue runs across, from blue over
# green and yellow to red, and lightness down, so that no place is grey and neighbours of a place
# are the only ones that readers with a colour vision deficiency take for it.
_TOP = np.array([(120, 190, 255), (80, 215, 175), (250, 225, 90), (255, 150, 90)]) / 255
_BOTTOM = np.array([(20, 40, 150), (0, 110, 80), (150, 115, 0), (160, 30, 0)]) / 255


@dataclass(frozen=True, eq=False)
class Correspondences:
    """The matched points of one pair, ``m`` of them.

    Attributes:
        reference: Position of the reference among the views.
        generation: Position of the generation.
        points: int64 [m], matched points of the generation, counted among its points.
        semantic_targets: int64 [m], their semantic nearest neighbours in the reference.
        visual_targets: int64 [m], their visual nearest neighbours in the reference.
        visual_similarity: float32 [m] in [-1, 1], to the visual nearest neighbour.
        passed: bool [m], whether that is above the visual threshold.
        score: In [0, 1], the share that passed, which is VSM; NaN without a match.
        n_source: Number of points of the generation.
    """

    reference: int
    generation: int
    points: NDArray[np.int64]
    semantic_targets: NDArray[np.int64]
    visual_targets: NDArray[np.int64]
    visual_similarity: NDArray[np.float32]
    passed: NDArray[np.bool_]
    score: float
    n_source: int


def correspond(views: SubjectViews, reference: int, generation: int) -> Correspondences:
    """Match one generation to one reference.

    Args:
        views: The described images.
        reference: Position of the reference.
        generation: Position of the generation.

    Raises:
        ValueError: A position that is not there.

    Source: arXiv 2509.21989, the definition of VSM.
    """
    described, threshold = views.descriptors, views.visual_threshold
    pair = torch.tensor([[generation, reference]])
    matches = match(described, described, pair, views.semantic_threshold)
    kept = matches.kept.cpu()
    points = kept.nonzero()[:, 0]
    similarity = matches.visual_similarity.float().cpu()[kept]
    # Matching gives the visual similarity, not whose it is.
    visual = described.visual[described.rows(generation)].float().cpu()[points]
    targets = described.visual[described.rows(reference)].float().cpu()
    return Correspondences(
        reference,
        generation,
        points.numpy(),
        matches.target_index.cpu()[kept].numpy(),
        (visual @ targets.T).argmax(dim=1).numpy(),
        similarity.numpy(),
        (similarity > threshold).numpy(),
        float(score(matches, [threshold]).score[0, 0]),
        len(kept),
    )


def position_colours(
    places: NDArray[np.float64], frame: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Colours that tell places of the reference apart, also for colour-blind readers.

    Args:
        places: float [m, 2], (x, y).
        frame: float [2, 2], the smallest and the largest (x, y) of the reference's points.

    Returns:
        float64 [m, 3] in [0, 1], sRGB: blue, green, yellow, red from left to right, light at the
        top, dark at the bottom.
    """
    low, high = frame
    x, y = ((places - low) / np.maximum(high - low, 1e-9)).clip(0, 1).T
    stops = np.linspace(0, 1, len(_TOP))
    top, bottom = (
        np.stack([np.interp(x, stops, channel) for channel in edge.T], axis=-1)
        for edge in (_TOP, _BOTTOM)
    )
    return np.asarray(top * (1 - y[:, None]) + bottom * y[:, None])


def spread_out(places: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Choose places evenly: each next one is the farthest from those chosen.

    Args:
        places: float [m, 2], (x, y).
        count: How many to choose, at least 1.

    Returns:
        int64 [min(m, count)], ascending. The first choice is the place nearest to the mean.

    Raises:
        ValueError: ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1; got {count}.")
    if len(places) <= count:
        return np.arange(len(places))
    chosen = [int(_squared(places, places.mean(axis=0)).argmin())]
    distance = _squared(places, places[chosen[0]])
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, _squared(places, places[chosen[-1]]))
    return np.sort(chosen)


def _squared(places: NDArray[np.float64], place: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(((places - place) ** 2).sum(axis=1))
