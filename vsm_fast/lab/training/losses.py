"""Contrastive objective of the two aggregation networks (arXiv 2509.21989, training).

Each term is a symmetric cross-entropy over matched points: row ``n`` of the query matches row
``n`` of the key. Inside an altered part the similarities are negated, which drives the visual
descriptors of a point and of its altered counterpart apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.07


def matched_cross_entropy(
    query: Tensor, key: Tensor, *, negate: bool = False, temperature: float = TEMPERATURE
) -> Tensor:
    """Return the symmetric cross-entropy of matched descriptors.

    Args:
        query: float [N, D], unit length.
        key: float [N, D], unit length; row ``n`` matches ``query[n]``.
        negate: Whether to negate the similarities, which drives matched rows apart.
        temperature: Divisor of the similarities.

    Returns:
        Scalar mean of both directions; 0 (with a graph) if ``N`` is 0.
    """
    if len(query) == 0:
        return query.sum() * 0.0
    logits = query @ key.T / (-temperature if negate else temperature)
    label = torch.arange(len(query), device=query.device)
    return 0.5 * (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label))


def nearest_margin(query: Tensor, key: Tensor, *, low: float, matched: bool) -> Tensor:
    """Return the hinge loss on the similarity that the metric thresholds.

    The metric compares the *nearest* visual similarity with a fixed threshold, while
    cross-entropy leaves the scale of similarities open. The hinge pulls matched points above
    ``1 - low`` at their match and pushes altered points below ``low`` at their nearest
    neighbour. It is our addition, not part of the published objective.

    Args:
        query: float [N, D], unit length.
        key: matched: float [N, D], the matches; else float [M, D], all key points.
        low: Maximum similarity of different points, in (0, 0.5).
        matched: Which of the two hinges to compute.
    """
    if len(query) == 0 or len(key) == 0:
        return query.sum() * 0.0
    if matched:
        return F.relu(1 - low - (query * key).sum(1)).mean()
    return F.relu((query @ key.T).amax(1) - low).mean()
