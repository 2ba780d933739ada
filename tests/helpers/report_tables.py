"""Synthetic results for report tests: scores with matched points, and images."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vsm_fast.results.heatmap import HeatmapEvidence
from vsm_fast.results.points import GridFrame, MatchedPoints
from vsm_fast.results.scores import VSMScores

GRID = (24, 32)
SIZE = (120, 160)  # height, width of the images
BOX = (16, 12, 144, 108)
HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    '"><svg onload=alert(2)>',
    "line\u2028and\u2029paragraph",
    "{{ 7 * 7 }}{% raw %}",
    "<!--<script>&amp;&lt;",
)


def made_scores(count, points=300, seed=0, refs=(), gens=(), names=()):
    """Return ``count`` pairs; every tenth, from the second, has no match."""
    rng = np.random.default_rng(seed)
    kept, matched = [], np.full(count, points)
    matched[1::10] = 0
    for row in range(count):
        kept.append(None if matched[row] == 0 else made_points(rng, points))
    visual = np.concatenate(
        [p.visual_similarity for p in kept if p is not None] or [np.empty(0, np.float32)]
    )
    evidence = [None if p is None else p.evidence for p in kept]
    offsets = np.concatenate([[0], np.cumsum(matched)])
    scores = VSMScores(
        score=np.full(count, np.nan), n_matched=matched, n_source=np.full(count, points + 60),
        status=np.where(matched > 0, "ok", "no_semantic_match"),
        reason=np.where(matched > 0, "", "no point matched semantically"),
        ref_id=[refs[row % len(refs)] if refs else f"ref{row % 7}.png" for row in range(count)],
        gen_id=[gens[row % len(gens)] if gens else f"gen{row}.png" for row in range(count)],
        notes=["exif rotated" if row % 5 == 0 else "" for row in range(count)],
        flags=["tiny_subject" if row % 4 == 0 else "" for row in range(count)],
        ref_mask_origin=["given"] * count, gen_mask_origin=["alpha"] * count,
        visual_similarity=visual, offsets=offsets, semantic_threshold=0.45, visual_threshold=0.66,
        model="tiny", evidence=evidence, points=kept,
    )  # fmt: skip
    object.__setattr__(scores, "score", scores.at(0.66))
    ids = [names[row] if row < len(names) else f"pair {row}" for row in range(count)]
    return scores.with_columns(
        {"id": ids, "subject": [("cat", "dog", "vase")[row % 3] for row in range(count)],
         "generator": [("sdxl", "flux")[row % 2] for row in range(count)]}
    )  # fmt: skip


def made_points(rng, count):
    cells = GRID[0] * GRID[1]
    subject = np.sort(rng.permutation(cells)[: count + 60])
    kept = np.zeros(len(subject), bool)
    kept[rng.permutation(len(subject))[:count]] = True
    similarity = rng.uniform(-0.2, 1, len(subject)).astype(np.float32)
    similarity[kept.argmax()] = np.float32(0.66)  # equal to the threshold: not above it
    evidence = HeatmapEvidence.pack(subject, kept, similarity, GRID, BOX, np.ones(SIZE, bool))
    targets = rng.permutation(cells)[:count]
    return MatchedPoints(evidence, targets, rng.uniform(0.5, 1, count), GridFrame(BOX, SIZE))


def made_images(folder, count):
    """Write distinct PNG files and return their paths."""
    paths = []
    for number in range(count):
        paths.append(str(folder / f"{number}.png"))
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8))
        small.resize(SIZE[::-1], Image.Resampling.BICUBIC).save(paths[-1])
    return paths
