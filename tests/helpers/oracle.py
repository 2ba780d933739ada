"""Visual Semantic Matching in plain loops and float64, written from the paper's text.

It shares nothing with the library: no import of it, no tensor operation of it. Slow on purpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass
class PairOracle:
    """One pair: per source point what the text defines."""

    semantic: list[float]
    target: list[int]
    visual: list[float]
    kept: list[bool]


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    dot = norm_first = norm_second = 0.0
    for x, y in zip(first.tolist(), second.tolist(), strict=True):
        dot += x * y
        norm_first += x * x
        norm_second += y * y
    return dot / math.sqrt(norm_first * norm_second)


def similarities(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Cosine of every source row with every target row, float64 [N, M]."""
    source, target = source.astype(np.float64), target.astype(np.float64)
    result = np.empty((len(source), len(target)))
    for i in range(len(source)):
        for j in range(len(target)):
            result[i, j] = cosine(source[i], target[j])
    return result


def match_pair(
    semantic_source: np.ndarray,
    semantic_target: np.ndarray,
    visual_source: np.ndarray,
    visual_target: np.ndarray,
    threshold: float,
) -> PairOracle:
    """Match one pair.

    A source point is kept when its best semantic similarity is above the threshold and no other
    such point with the same target is better, or as good and earlier.
    """
    if len(semantic_target) == 0:
        points = len(semantic_source)
        nothing = [math.nan] * points
        return PairOracle(nothing, [-1] * points, nothing, [False] * points)
    semantic = similarities(semantic_source, semantic_target)
    visual = similarities(visual_source, visual_target)
    best: list[float] = []
    target: list[int] = []
    best_visual: list[float] = []
    for i in range(len(semantic)):
        winner = 0
        for j in range(1, semantic.shape[1]):
            if semantic[i, j] > semantic[i, winner]:
                winner = j
        target.append(winner)
        best.append(float(semantic[i, winner]))
        best_visual.append(max(visual[i].tolist()))
    return PairOracle(best, target, best_visual, keep(best, target, threshold))


def keep(best: list[float], target: list[int], threshold: float) -> list[bool]:
    """One source per target among those above the threshold."""
    holder: dict[int, int] = {}
    for i, (similarity, wanted) in enumerate(zip(best, target, strict=True)):
        if not similarity > threshold:
            continue
        if wanted not in holder or similarity > best[holder[wanted]]:
            holder[wanted] = i
    return [holder.get(wanted) == i for i, wanted in enumerate(target)]


def score(kept: list[bool], visual: list[float], threshold: float) -> float:
    """Share of the kept points above the visual threshold; NaN when none is kept."""
    judged = passed = 0
    for is_kept, similarity in zip(kept, visual, strict=True):
        if is_kept:
            judged += 1
            passed += similarity > threshold
    return passed / judged if judged else math.nan
