"""End-to-end throughput of the embedded model, and network time per image.

    pytest benchmarks/ --benchmark-only

The baseline is a loop over pairs that describes both images of every pair.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from vsm_fast import VSMScorer

EXAMPLES = Path(__file__).parents[1] / "examples"
GENERATIONS = 32


@pytest.fixture(scope="module")
def scorer() -> VSMScorer:
    return VSMScorer.from_pretrained("tiny")


@pytest.fixture(scope="module")
def workload() -> tuple[Image.Image, list[Image.Image], np.ndarray]:
    """Return one photograph, 32 noisy copies, and the subject mask."""
    photo = Image.open(EXAMPLES / "refs" / "bear_plushie" / "reference.jpg").convert("RGB")
    mask = Image.open(EXAMPLES / "refs" / "bear_plushie" / "reference_mask.png").convert("L")
    rng = np.random.default_rng(0)
    pixels = np.asarray(photo).astype(np.int16)
    generations = [
        Image.fromarray(np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8))
        for _ in range(GENERATIONS)
    ]
    return photo, generations, np.asarray(mask) > 127


def test_batch_against_a_loop_over_pairs(
    benchmark: BenchmarkFixture,
    capsys: pytest.CaptureFixture[str],
    scorer: VSMScorer,
    workload: tuple[Image.Image, list[Image.Image], np.ndarray],
    interleaved_times: Callable[..., dict[str, list[float]]],
) -> None:
    """Report pairs per second for 1 reference x 32 images, batched and in a loop."""
    benchmark.group = "scoring 1 x 32"
    reference, generations, mask = workload

    def batch() -> None:
        scorer.score([reference], generations, ref_masks=[mask], gen_masks=[mask] * GENERATIONS)

    def loop() -> None:
        for generation in generations:
            scorer.score([reference], [generation], ref_masks=[mask], gen_masks=[mask])

    seconds = benchmark.pedantic(
        interleaved_times,
        args=({"batch": batch, "loop": loop},),
        kwargs={"rounds": 5, "warmup": 1},
        rounds=1,
    )
    ratio = statistics.median(a / b for a, b in zip(seconds["loop"], seconds["batch"], strict=True))
    rate = {name: GENERATIONS / statistics.median(times) for name, times in seconds.items()}
    benchmark.extra_info.update(
        loop_to_batch=ratio, threads=torch.get_num_threads(), pairs_per_second=rate
    )
    with capsys.disabled():
        print(
            f"\n1 x {GENERATIONS}, {torch.get_num_threads()} threads: {rate['batch']:.1f} pairs/s "
            f"against {rate['loop']:.1f} of the loop, {ratio:.2f} times"
        )


def test_milliseconds_per_image(
    benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str], scorer: VSMScorer
) -> None:
    """Report the time of the network alone at batch 8."""
    benchmark.group = "network, batch 8"
    side = scorer.config.backbone.resolution
    images = torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(0))
    benchmark.pedantic(lambda: scorer.network(images), rounds=10, warmup_rounds=2)
    assert benchmark.stats is not None
    per_image = 1e3 * benchmark.stats.stats.median / len(images)
    benchmark.extra_info.update(ms_per_image=per_image, threads=torch.get_num_threads())
    with capsys.disabled():
        print(f"\nnetwork at batch 8, {torch.get_num_threads()} threads: {per_image:.1f} ms/image")
