"""Losses on what the metric reads: the nearest visual similarity of every point, and the score.

The contrastive objective (``losses``) orders similarities but leaves their scale open, while the
metric compares each point's nearest similarity with ONE threshold for all images. These losses
are ours, not the paper's: a logistic curve with a learned slope and threshold turns the nearest
similarity into the probability that a point is unaltered; points are judged by cross-entropy,
pairs by the squared error of the mean probability, which is a smooth VSM score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsm_fast.lab.training.contrastive import matched_cross_entropy
from vsm_fast.lab.training.examples import PairCells

_FEW = 40  # with fewer altered points than this their mean is noisy and weighs less
_SEEN_SHARE = 0.85  # of unaltered points; the rest may be hidden in the other photograph


class SimilarityCurve(nn.Module):
    """``sigmoid(slope * (similarity - threshold))`` with both numbers learned.

    A pair's smooth score is ``floor + span`` times the mean of that, both learned too: what
    counts is how scores follow the oracle, not their scale, and some altered points always
    look like another place of the reference.
    """

    def __init__(self, slope: float = 15.0, threshold: float = 0.74) -> None:
        super().__init__()
        self.log_slope = nn.Parameter(torch.tensor(math.log(slope)))
        self.threshold = nn.Parameter(torch.tensor(threshold))
        self.floor = nn.Parameter(torch.tensor(0.2))
        self.span = nn.Parameter(torch.tensor(0.8))

    def forward(self, similarity: Tensor) -> Tensor:
        """Logits of "unaltered", any shape."""
        return self.log_slope.exp() * (similarity - self.threshold)

    def cross_entropy(self, similarity: Tensor, unaltered: bool) -> Tensor:
        """Mean logistic loss of points that are all unaltered, or all altered; 0 of none."""
        if len(similarity) == 0:
            return similarity.sum() * 0.0
        logits = self(similarity)
        return F.softplus(-logits if unaltered else logits).mean()

    def balanced(self, unaltered: Tensor, altered: Tensor) -> Tensor:
        """Half the loss of unaltered points and half that of altered ones, however many."""
        trust = min(1.0, len(altered) / _FEW)
        return 0.5 * (
            self.cross_entropy(unaltered, True) + trust * self.cross_entropy(altered, False)
        )

    def score_error(self, similarity: Tensor, wanted: float | Tensor) -> Tensor:
        """Squared error of the smooth score of one pair."""
        score = self.floor + self.span * torch.sigmoid(self(similarity)).mean()
        return (score - wanted).square()


@dataclass(frozen=True)
class PairViews:
    """Descriptors of one branch, float [n, D] each, unit length.

    Attributes:
        original_1: None for two photographs, whose losses do not need it.
        original_2, altered_1: The reference and the generation.
        altered_2: View 2 with the same alteration; None where it cannot be made.
    """

    original_1: Tensor | None
    original_2: Tensor
    altered_1: Tensor
    altered_2: Tensor | None


def nearest(query: Tensor, key: Tensor) -> Tensor:
    """Highest similarity of each query, float [n]."""
    return (query @ key.T).amax(dim=1)


def exact_pair_losses(
    semantic: PairViews, visual: PairViews, cells: PairCells, curve: SimilarityCurve
) -> dict[str, Tensor]:
    """Losses of a pair with known correspondence.

    The nearest similarity is taught in four situations, so that it compares instead of
    looking for traces of an alteration: altered against original, original against altered
    (the roles swapped), altered against equally altered, and original against original.

    Returns:
        ``semantic`` and ``visual`` (contrastive), ``point`` and ``score``; scalars.
    """
    assert semantic.original_1 is not None
    assert visual.original_1 is not None
    hit, clean = cells.hit, cells.clean
    matched = cells.match >= 0
    every, inside, outside = (
        mask.nonzero()[:, 0] for mask in (matched, matched & hit, matched & clean)
    )
    target = cells.match
    losses = {
        "semantic": 0.5
        * (
            matched_cross_entropy(semantic.original_1[every], semantic.original_2[target[every]])
            + matched_cross_entropy(semantic.altered_1[every], semantic.original_2[target[every]])
        ),
        "visual": 0.5
        * matched_cross_entropy(visual.altered_1[outside], visual.original_2[target[outside]])
        + 0.25
        * matched_cross_entropy(visual.original_1[inside], visual.original_2[target[inside]]),
    }
    reference = visual.original_2[cells.subject_2]
    forward = nearest(visual.altered_1, reference)
    at_match = (visual.altered_1 * visual.original_2[cells.landing.clamp(min=0)]).sum(dim=1)
    seen = (cells.landing >= 0) & clean
    swapped = nearest(visual.original_2, visual.altered_1[cells.subject_1])
    point = 0.6 * curve.balanced(0.5 * (forward + at_match)[seen], forward[hit])
    point = point + 0.4 * curve.balanced(swapped[target[outside]], swapped[target[inside]])
    unaltered = nearest(visual.original_1[inside], reference)
    point = point + 0.15 * curve.cross_entropy(unaltered, True)
    if visual.altered_2 is not None:
        both = nearest(visual.altered_1[inside], visual.altered_2[cells.subject_2])
        point = point + 0.15 * curve.cross_entropy(both, True)
        losses["visual"] = losses["visual"] + 0.25 * matched_cross_entropy(
            visual.altered_1[inside], visual.altered_2[target[inside]]
        )
    losses["point"] = point
    judged = (cells.landing >= 0) & (clean | hit)
    if judged.sum() > _FEW // 2:
        share = clean[judged].float().mean()
        losses["score"] = curve.score_error(forward[judged], share)
    return losses


def photograph_pair_losses(
    visual: PairViews, cells: PairCells, curve: SimilarityCurve
) -> dict[str, Tensor]:
    """Losses of a pair of two photographs, whose correspondence nobody knows.

    Returns:
        ``photo_point`` and ``photo_score``; scalars.
    """
    similarity = nearest(visual.altered_1, visual.original_2[cells.subject_2])
    clean = similarity[cells.clean]
    seen = clean.topk(int(_SEEN_SHARE * len(clean))).values
    wanted = 1.0 - cells.part[cells.subject_1].mean()
    return {
        "photo_point": curve.balanced(seen, similarity[cells.hit]),
        "photo_score": curve.score_error(similarity[cells.subject_1], wanted),
    }


def other_subject_loss(query: Tensor, key: Tensor, curve: SimilarityCurve) -> Tensor:
    """Points of one subject must not find their like on another; scalar."""
    return curve.cross_entropy(nearest(query, key), False)
