"""Speed and drift of each lever with the embedded model.

    pytest benchmarks/test_levers.py --benchmark-only

Speed depends on the machine and is reported; drift is asserted.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from levers import DEFAULT, LEVERS, load, scores_of_photographs
from pytest_benchmark.fixture import BenchmarkFixture

from vsm_fast.results.drift import drift
from vsm_fast.runtimes.runtime import Runtime
from vsm_fast.runtimes.streams import STREAMS, in_streams

IMAGES = 32
# Largest drift of a score and largest share of flipped points per precision.
MOST_DRIFT = {
    "float32": (6e-3, 1e-3),  # one point of 180 changes a score by more than 5e-3
    "float16": (0.01, 0.005),
    "bfloat16": (0.05, 0.03),
    "int8": (0.08, 0.12),
}


def describe(runtime: Runtime, images: torch.Tensor) -> None:
    """Run all images in batches, as the scorer does."""
    batches = images.split(4 if runtime.concurrent else 8)
    for _ in in_streams(runtime, batches, STREAMS if runtime.concurrent else 1):
        pass


def test_levers(
    benchmark: BenchmarkFixture,
    capsys: pytest.CaptureFixture[str],
    interleaved_times: Callable[..., dict[str, list[float]]],
    tmp_path: Path,
) -> None:
    """Report milliseconds per image and check drift on the shipped photographs."""
    benchmark.group = "levers"
    scorers = {
        (runtime, dtype): load(runtime, dtype, tmp_path / "exported")
        for runtime, dtype in LEVERS
        if runtime != "torch-compile" or shutil.which("g++")
    }
    side = scorers[DEFAULT].config.backbone.resolution
    images = torch.rand(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    calls = {
        " ".join(lever): lambda runtime=scorer.runtime: describe(runtime, images)
        for lever, scorer in scorers.items()
    }
    seconds = benchmark.pedantic(
        interleaved_times, args=(calls,), kwargs={"rounds": 5, "warmup": 1}, rounds=1
    )
    wanted = scores_of_photographs(scorers[DEFAULT])
    first = " ".join(DEFAULT)
    rows = {}
    for lever, scorer in scorers.items():
        name = " ".join(lever)
        ratios = [a / b for a, b in zip(seconds[first], seconds[name], strict=True)]
        found = drift(wanted, scores_of_photographs(scorer))
        rows[name] = {
            "ms_per_image": 1e3 * statistics.median(seconds[name]) / IMAGES,
            "speed": statistics.median(ratios),
            "drift": found,
            "recomputed": scorer.recomputed,
        }
    with capsys.disabled():
        print(f"\nlevers, {torch.get_num_threads()} threads")
        for name, row in rows.items():
            print(
                f"{name:24} {row['ms_per_image']:6.1f} ms/image {row['speed']:5.2f} x"
                f"  {row['drift']}"
            )
    benchmark.extra_info["levers"] = {
        name: {**row, "drift": vars(row["drift"])} for name, row in rows.items()
    }
    for (_, dtype), row in zip(scorers, rows.values(), strict=True):
        score, flipped = MOST_DRIFT[dtype]
        assert row["drift"].score <= score, f"{dtype}: {row['drift']}"
        assert row["drift"].flipped_share <= flipped, f"{dtype}: {row['drift']}"
