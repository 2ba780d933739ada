"""Matching and scoring as a second ONNX graph, for programs without Python.

Chained with the graph of the network it gives scores from two images. The graphs are separate so
that features of a reference are extracted once for any number of generated images.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsm_fast.descriptors import Descriptors
from vsm_fast.errors import ModelError
from vsm_fast.export.onnx_check import check_valid, on_cpu
from vsm_fast.export.onnx_graph import to_onnx
from vsm_fast.matching.match import match_eager
from vsm_fast.matching.scoring import score_eager
from vsm_fast.model.config import AggregationConfig
from vsm_fast.runtimes.exported import BatchRange

INPUTS = (
    "generation_semantic", "generation_visual", "generation_mask",
    "reference_semantic", "reference_visual", "reference_mask",
    "semantic_threshold", "visual_threshold",
)  # fmt: skip
OUTPUTS = ("score", "matched", "visual_similarity")
_NEVER = -2.0  # below every cosine


class PairScores(nn.Module):
    """Visual Semantic Matching of pairs of dense descriptors, in ONNX operations.

    Equivalent to ``match_eager`` and ``score_eager``, on all cells instead of lists of points.
    """

    def forward(
        self,
        generation_semantic: Tensor,
        generation_visual: Tensor,
        generation_mask: Tensor,
        reference_semantic: Tensor,
        reference_visual: Tensor,
        reference_mask: Tensor,
        semantic_threshold: Tensor,
        visual_threshold: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Score pairs.

        Args:
            generation_semantic: float32 [B, D, h, w], unit length over D.
            generation_visual: As ``generation_semantic``.
            generation_mask: bool [B, h, w], the subject's cells.
            reference_semantic: As ``generation_semantic``.
            reference_visual: As ``generation_semantic``.
            reference_mask: As ``generation_mask``.
            semantic_threshold: float32 [1].
            visual_threshold: float32 [1].

        Returns:
            Score float32 [B], NaN without matches; matched bool [B, h·w]; visual similarity
            float32 [B, h·w], meaningful where matched.
        """
        targets = reference_mask.flatten(1)[:, None]
        semantic = _similarities(generation_semantic, reference_semantic, targets)
        visual = _similarities(generation_visual, reference_visual, targets).amax(2)
        best, target = semantic.max(2)
        above = generation_mask.flatten(1) & (best > semantic_threshold)
        # Duplicate matches: of the points with one target the best stays; of equal ones the first.
        candidates = above[..., None] & (F.one_hot(target, semantic.shape[2]) > 0)
        ranked = torch.where(candidates, best[..., None], torch.full_like(semantic, _NEVER))
        winner = ranked.argmax(1)
        cells = torch.arange(semantic.shape[1], device=semantic.device)
        matched = above & (winner.gather(1, target) == cells)
        consistent = (matched & (visual > visual_threshold)).float().sum(1)
        return consistent / matched.float().sum(1), matched, visual


def _similarities(source: Tensor, target: Tensor, targets: Tensor) -> Tensor:
    """Return cosines [B, N, M], ``_NEVER`` for targets outside the mask."""
    products = source.flatten(2).transpose(1, 2) @ target.flatten(2)
    return torch.where(targets, products, torch.full_like(products, _NEVER))


def export_scores(
    path: Path, aggregation: AggregationConfig, batch: BatchRange, opset: int
) -> None:
    """Write the graph and check it against the library's own matching.

    Raises:
        ModelError: If it cannot be exported or is inaccurate.
        ImportError: If onnx, onnxscript or onnxruntime is not installed.
    """
    count = batch.most if batch.static else max(2, batch.least)
    example = example_pairs(count, aggregation)
    to_onnx(PairScores(), example, INPUTS, OUTPUTS, batch, opset, "matching").save(path)
    check_valid(path)
    _check(example, *on_cpu(path)(dict(zip(INPUTS, example, strict=True))))


def example_pairs(count: int, aggregation: AggregationConfig) -> tuple[Tensor, ...]:
    """Return inputs like a network's, with generated images that resemble their references."""
    generator = torch.Generator().manual_seed(0)
    size = (count, aggregation.descriptor_channels, *aggregation.grid)
    inputs = []
    for _ in range(2):
        reference = F.normalize(torch.randn(size, generator=generator), dim=1)
        noise = torch.randn(size, generator=generator) * 0.1
        # Similar neighbours choose the same target: duplicate matches.
        generation = F.normalize(reference.roll(1, 3) + reference + noise, dim=1)
        inputs += [(generation, reference)]
    masks = [torch.rand(count, *aggregation.grid, generator=generator) < 0.6 for _ in range(2)]
    (semantic, reference_semantic), (visual, reference_visual) = inputs
    return (
        semantic, visual, masks[0], reference_semantic, reference_visual, masks[1],
        torch.tensor([0.5]), torch.tensor([0.55]),
    )  # fmt: skip


def _check(example: tuple[Tensor, ...], score: Tensor, matched: Tensor, visual: Tensor) -> None:
    generation, reference = (Descriptors.pack(*example[start : start + 3]) for start in (0, 3))
    pairs = torch.arange(len(score))[:, None].expand(-1, 2)
    semantic_threshold, visual_threshold = (float(value) for value in example[6:])
    matches = match_eager(generation, reference, pairs, semantic_threshold)
    expected = score_eager(matches, [visual_threshold]).score[:, 0]
    inside = example[2].flatten(1)
    same = torch.equal(matched[inside], matches.kept) and not matched[~inside].any()
    near = torch.allclose(visual[inside], matches.visual_similarity, atol=1e-5)
    if not (same and near and torch.allclose(score, expected, atol=1e-6, equal_nan=True)):
        raise ModelError(
            "the exported matching disagrees with vsm_fast's. Report it with the versions in use."
        )
