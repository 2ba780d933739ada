"""Correspondences between the matched points of a generated image and a reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vsm_fast.lab.figures.views import SubjectViews
from vsm_fast.matching.match import match
from vsm_fast.matching.scoring import score

# sRGB along the top and the bottom edge of the reference, from left to right. Hue runs across,
# lightness down: no place is grey, and readers with a colour vision deficiency confuse a place
# with its neighbours only.
_TOP = np.array([(120, 190, 255), (80, 215, 175), (250, 225, 90), (255, 150, 90)]) / 255
_BOTTOM = np.array([(20, 40, 150), (0, 110, 80), (150, 115, 0), (160, 30, 0)]) / 255


@dataclass(frozen=True, eq=False)
class Correspondences:
    """The ``m`` matched points of one pair.

    Attributes:
        reference: Position of the reference among the views.
        generation: Position of the generated image.
        points: int64 [m], indices of the matched points among those of the generated image.
        semantic_targets: int64 [m], their semantic nearest neighbours in the reference.
        visual_targets: int64 [m], their visual nearest neighbours in the reference.
        passed: bool [m], whether the visual similarity is above its threshold.
        score: In [0, 1], VSM: the share of points that passed; NaN without a match.
        n_source: Number of points of the generated image.
    """

    reference: int
    generation: int
    points: NDArray[np.int64]
    semantic_targets: NDArray[np.int64]
    visual_targets: NDArray[np.int64]
    passed: NDArray[np.bool_]
    score: float
    n_source: int


def correspond(views: SubjectViews, reference: int, generation: int) -> Correspondences:
    """Match one generated image to one reference, given by their positions among the views.

    Raises:
        ValueError: If a position is out of range.

    Source: arXiv 2509.21989, the definition of VSM.
    """
    descriptors, threshold = views.descriptors, views.visual_threshold
    pair = torch.tensor([[generation, reference]])
    matches = match(descriptors, descriptors, pair, views.semantic_threshold)
    kept = matches.kept.cpu()
    points = kept.nonzero()[:, 0]
    similarity = matches.visual_similarity.float().cpu()[kept]
    # Matching returns the highest visual similarity without its position.
    visual = torch.from_numpy(views[generation].visual)[points]
    targets = torch.from_numpy(views[reference].visual)
    return Correspondences(
        reference,
        generation,
        points.numpy(),
        matches.target_index.cpu()[kept].numpy(),
        (visual @ targets.T).argmax(dim=1).numpy(),
        (similarity > threshold).numpy(),
        float(score(matches, [threshold]).score[0, 0]),
        len(kept),
    )


def position_colours(
    places: NDArray[np.float64], frame: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a colour per place of the reference, distinct for colour-blind readers too.

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
    """Choose evenly spread places by farthest-point sampling.

    Args:
        places: float [m, 2], (x, y).
        count: Number of places to choose, at least 1.

    Returns:
        int64 [min(m, count)], ascending. The first choice is the place nearest to the mean.

    Raises:
        ValueError: If ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1; got {count}.")
    if len(places) <= count:
        return np.arange(len(places))
    distance = np.full(len(places), np.inf)
    chosen = [int(np.square(places - places.mean(axis=0)).sum(axis=1).argmin())]
    while len(chosen) < count:
        distance = np.minimum(distance, np.square(places - places[chosen[-1]]).sum(axis=1))
        chosen.append(int(distance.argmax()))
    return np.sort(chosen)
