"""The kernels and the CPU path agree on photographs, kept points included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from triton_device import match_on_triton

from vsm_fast import VSMScorer
from vsm_fast.descriptors import Descriptors
from vsm_fast.matching.match import match, match_eager
from vsm_fast.matching.scoring import score

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def scorer() -> VSMScorer:
    return VSMScorer.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def described(scorer: VSMScorer) -> tuple[Descriptors, Descriptors]:
    """Every generated photograph and every reference of the examples."""
    sides = []
    for side in ("gens", "refs"):
        images = sorted(
            path for path in (EXAMPLES / side).rglob("*.jpg") if "_mask" not in path.stem
        )
        masks = [path.with_name(f"{path.stem}_mask.png") for path in images]
        assert images
        sides.append(scorer.describe(images, masks))
    return sides[0], sides[1]


def test_scores_and_kept_points_are_those_of_the_cpu_path(
    scorer: VSMScorer, described: tuple[Descriptors, Descriptors]
) -> None:
    gens, refs = described
    pairs = torch.cartesian_prod(torch.arange(len(gens)), torch.arange(len(refs)))
    thresholds = scorer.config.thresholds
    visual = [0.2, 0.4, thresholds.visual]
    on_cpu = match(gens, refs, pairs, thresholds.semantic)
    on_triton = match_on_triton(gens, refs, pairs, thresholds.semantic)
    assert torch.equal(on_triton.kept, on_cpu.kept)
    assert torch.equal(on_triton.target_index, on_cpu.target_index)
    torch.testing.assert_close(
        score(on_triton, visual).score, score(on_cpu, visual).score, atol=0, rtol=0, equal_nan=True
    )
    assert score(on_cpu, visual).n_matched.sum() > 1000  # the examples do match


def test_float16_descriptors_keep_nearly_the_same_points(
    scorer: VSMScorer, described: tuple[Descriptors, Descriptors]
) -> None:
    """What a GPU compares when its network computes in 16 bits."""
    gens, refs = (side.to("cpu", torch.float16) for side in described)
    pairs = torch.cartesian_prod(torch.arange(len(gens)), torch.arange(len(refs)))
    thresholds = scorer.config.thresholds
    exact = match_eager(*described, pairs, thresholds.semantic)
    rounded = match_on_triton(gens, refs, pairs, thresholds.semantic)
    flipped = (rounded.kept != exact.kept).float().mean()
    drift = score(rounded, [thresholds.visual]).score - score(exact, [thresholds.visual]).score
    assert flipped <= 0.005
    assert drift.abs().max() <= 0.01
