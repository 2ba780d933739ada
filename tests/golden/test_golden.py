"""The embedded model scores the shipped photographs as it did: no silent drift.

Updates of torch, Pillow, diffusers or of this code that move scores fail here, with the points
that got another verdict. ``make.py`` writes the golden scores.
"""

from __future__ import annotations

import json

import pytest
import torch
from golden.make import FILE, flipped_points, replayed, scores_of

from vsm_fast import VSMScorer
from vsm_fast.model.config import weights_fingerprint
from vsm_fast.results.drift import Drift, drift
from vsm_fast.results.scores import VSMScores

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))
# Other orders of summation: CPUs, versions and runtimes are 1e-5 apart in similarity, which turns
# points that lie as near to a threshold, or have two neighbours as near.
FLOAT32 = Drift(0, 0, flipped=6, score=0.01, mean_score=0.001, similarity=1e-4)


def scores(dtype: str, runtime: str = "torch") -> VSMScores:
    scorer = VSMScorer.from_pretrained("tiny", device="cpu", dtype=dtype, runtime=runtime)
    assert weights_fingerprint(scorer.config) == GOLDEN["weights"], "another model: see make.py"
    return scores_of(scorer)


def check(found: VSMScores, dtype: str, most: Drift) -> None:
    """Fail if the scores are further from the golden ones than ``most``."""
    wanted = replayed(GOLDEN["pairs"][dtype], found)
    moved = drift(wanted, found)
    too_far = [
        f"{name} {getattr(moved, name):.6g} > {getattr(most, name):.6g}"
        for name in ("flipped", "score", "mean_score", "similarity")
        if getattr(moved, name) > getattr(most, name)
    ]
    if too_far:
        flips = flipped_points(wanted, found)
        pytest.fail(
            f"{dtype} scores are not those of {GOLDEN['versions']}, {GOLDEN['machine']}: "
            f"{', '.join(too_far)}.\n{moved}\n" + "\n".join([*flips[:40], f"{len(flips)} flips"]),
            pytrace=False,
        )


@pytest.fixture(scope="module")
def float32() -> VSMScores:
    return scores("float32")


def test_float32_scores_are_the_golden_ones(float32: VSMScores) -> None:
    check(float32, "float32", FLOAT32)


def test_onnx_runtime_gives_the_same(float32: VSMScores) -> None:
    check(scores("float32", "onnxruntime"), "float32", FLOAT32)


def test_bfloat16_scores_are_the_golden_ones(float32: VSMScores) -> None:
    """CPUs with and without bfloat16 instructions round at other places.

    Each of them is as far from float32 as the golden ones are, so that two of them are at most
    twice as far from each other. The largest difference of scores is that of one pair with few
    matches, where single points decide.
    """
    apart = drift(*(replayed(GOLDEN["pairs"][dtype], float32) for dtype in ("float32", "bfloat16")))
    assert apart.flipped > 20  # else this compares float32 with itself
    most = Drift(0, 0, 2 * apart.flipped, 0.05, 2 * apart.mean_score, 2 * apart.similarity)
    check(scores("bfloat16"), "bfloat16", most)


@torch.no_grad()
def test_a_small_change_of_the_network_is_seen() -> None:
    scorer = VSMScorer.from_pretrained("tiny", device="cpu", dtype="float32")
    first = next(scorer.network.visual.parameters())
    first[0] += 0.02
    with pytest.raises(pytest.fail.Exception, match=r"similarity 0\.00\d+ > 0\.0001") as failed:
        check(scores_of(scorer), "float32", FLOAT32)
    assert "robot_toy/repainted.jpg, row " in str(failed.value)
    assert "-> " in str(failed.value)
