"""Losses on the nearest visual similarity of every point and on the score.

The contrastive objective (``losses``) orders similarities but leaves their scale open, whereas the
metric compares the nearest similarity with ONE threshold for all images. These losses are ours,
not the paper's: a logistic curve with learned slope and threshold maps the nearest similarity to
the probability that a point is unaltered. Points contribute their cross-entropy, pairs the squared
error of the mean probability, a smooth VSM score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsm_fast.lab.training.contrastive import matched_cross_entropy
from vsm_fast.lab.training.examples import PairCells

_FEW = 40  # the noisy mean of fewer altered points has less weight
_SEEN_SHARE = 0.85  # of unaltered points; the others may be hidden in the other photograph


class SimilarityCurve(nn.Module):
    """``sigmoid(slope * (similarity - threshold))`` with learned slope and threshold.

    The smooth score of a pair is ``floor + span * mean``, both learned, too: the correlation of
    scores with the oracle matters, not their scale, and some altered points always resemble
    another place of the reference.
    """

    def __init__(self, slope: float = 15.0, threshold: float = 0.74) -> None:
        super().__init__()
        self.log_slope = nn.Parameter(torch.tensor(math.log(slope)))
        self.threshold = nn.Parameter(torch.tensor(threshold))
        self.floor = nn.Parameter(torch.tensor(0.2))
        self.span = nn.Parameter(torch.tensor(0.8))

    def forward(self, similarity: Tensor) -> Tensor:
        """Return the logits of "unaltered", any shape."""
        return self.log_slope.exp() * (similarity - self.threshold)

    def cross_entropy(self, similarity: Tensor, unaltered: bool) -> Tensor:
        """Return the mean logistic loss of points with one label; 0 without points."""
        if len(similarity) == 0:
            return similarity.sum() * 0.0
        logits = self(similarity)
        return F.softplus(-logits if unaltered else logits).mean()

    def balanced(self, unaltered: Tensor, altered: Tensor) -> Tensor:
        """Weigh the losses of unaltered and of altered points equally."""
        weight = min(1.0, len(altered) / _FEW)
        loss = self.cross_entropy(unaltered, True) + weight * self.cross_entropy(altered, False)
        return 0.5 * loss

    def score_error(self, similarity: Tensor, target: float | Tensor) -> Tensor:
        """Return the squared error of the smooth score of one pair."""
        score = self.floor + self.span * torch.sigmoid(self(similarity)).mean()
        return (score - target).square()


@dataclass(frozen=True)
class PairViews:
    """Descriptors of one branch, float [n, D] each, unit length.

    Attributes:
        original_1: None for two photographs, whose losses do not read it.
        original_2, altered_1: The reference and the generated image.
        altered_2: View 2 with the same alteration; None if not available.
    """

    original_1: Tensor | None
    original_2: Tensor
    altered_1: Tensor
    altered_2: Tensor | None


def nearest(query: Tensor, key: Tensor) -> Tensor:
    """Return the highest similarity of each query, float [n]."""
    return (query @ key.T).amax(dim=1)


def exact_pair_losses(
    semantic: PairViews, visual: PairViews, cells: PairCells, curve: SimilarityCurve
) -> dict[str, Tensor]:
    """Compute the losses of a pair with known correspondence.

    The nearest similarity is trained in four situations, to compare images rather than detect
    traces of an alteration: altered against original, original against altered (roles swapped),
    altered against equally altered, and original against original.

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
    cross = matched_cross_entropy
    key = semantic.original_2[target[every]]
    unaltered_loss = cross(visual.altered_1[outside], visual.original_2[target[outside]])
    altered_loss = cross(visual.original_1[inside], visual.original_2[target[inside]])
    losses = {
        "semantic": 0.5
        * (cross(semantic.original_1[every], key) + cross(semantic.altered_1[every], key)),
        "visual": 0.5 * unaltered_loss + 0.25 * altered_loss,
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
        both_loss = cross(visual.altered_1[inside], visual.altered_2[target[inside]])
        losses["visual"] = losses["visual"] + 0.25 * both_loss
    losses["point"] = point
    judged = (cells.landing >= 0) & (clean | hit)
    if judged.sum() > _FEW // 2:
        losses["score"] = curve.score_error(forward[judged], clean[judged].float().mean())
    return losses


def photograph_pair_losses(
    visual: PairViews, cells: PairCells, curve: SimilarityCurve
) -> dict[str, Tensor]:
    """Compute the losses of two photographs, without correspondence.

    Returns:
        ``photo_point`` and ``photo_score``; scalars.
    """
    similarity = nearest(visual.altered_1, visual.original_2[cells.subject_2])
    clean = similarity[cells.clean]
    seen = clean.topk(int(_SEEN_SHARE * len(clean))).values
    oracle = 1.0 - cells.part[cells.subject_1].mean()
    return {
        "photo_point": curve.balanced(seen, similarity[cells.hit]),
        "photo_score": curve.score_error(similarity[cells.subject_1], oracle),
    }


def other_subject_loss(query: Tensor, key: Tensor, curve: SimilarityCurve) -> Tensor:
    """Penalise similar points on different subjects; scalar."""
    return curve.cross_entropy(nearest(query, key), False)
