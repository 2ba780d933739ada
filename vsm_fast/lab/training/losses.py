"""The contrastive objective of the two aggregation networks (arXiv 2509.21989, training).

Each term is a symmetric cross-entropy over matched points: row ``n`` of the query belongs to
row ``n`` of the key. Inside an altered part the similarities are negated, so that the visual
descriptors of a point and of its altered counterpart are driven apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.07


def matched_cross_entropy(
    query: Tensor, key: Tensor, *, negate: bool = False, temperature: float = TEMPERATURE
) -> Tensor:
    """Symmetric cross-entropy of matched descriptors.

    Args:
        query: float [N, D], unit length.
        key: float [N, D], unit length; row ``n`` matches ``query[n]``.
        negate: Negate the similarities: drives matched rows apart instead of together.
        temperature: What similarities are divided by.

    Returns:
        Scalar mean of both directions; 0 (with a graph) when ``N`` is 0.
    """
    if len(query) == 0:
        return query.sum() * 0.0
    logits = query @ key.T / (-temperature if negate else temperature)
    label = torch.arange(len(query), device=query.device)
    return 0.5 * (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label))


def nearest_margin(query: Tensor, key: Tensor, *, low: float, matched: bool) -> Tensor:
    """Hinge on the similarity that the metric thresholds.

    The metric compares the *nearest* visual similarity with a fixed threshold, which
    cross-entropy alone leaves without an absolute scale. Matched points are pulled above
    ``1 - low`` at their match, altered points pushed below ``low`` at their nearest
    neighbour. An addition of ours, not part of the published objective.

    Args:
        query: float [N, D], unit length.
        key: matched: float [N, D] rows of the matches; else float [M, D] all key points.
        low: Similarity under which two points count as different, in (0, 0.5).
        matched: Which of the two hinges to compute.
    """
    if len(query) == 0 or len(key) == 0:
        return query.sum() * 0.0
    if matched:
        return F.relu(1 - low - (query * key).sum(1)).mean()
    return F.relu((query @ key.T).amax(1) - low).mean()
