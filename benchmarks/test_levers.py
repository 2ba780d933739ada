"""Speed and drift of each lever, embedded model.

    pytest benchmarks/test_levers.py --benchmark-only

Nothing is asserted of the speed: which lever pays depends on the machine. What each does to the
scores is.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable

import pytest
import torch
from levers import DEFAULT, LEVERS, scores_of_photographs
from pytest_benchmark.fixture import BenchmarkFixture

from vsm_fast import VSMScorer
from vsm_fast.evaluation.drift import drift

BATCH = 8
# Score and share of flipped points that a precision may cost.
MOST_DRIFT = {"float32": (2e-3, 1e-3), "float16": (0.01, 0.005), "bfloat16": (0.05, 0.03)}


def test_levers(
    benchmark: BenchmarkFixture,
    capsys: pytest.CaptureFixture[str],
    interleaved_times: Callable[..., dict[str, list[float]]],
) -> None:
    """Milliseconds per image at batch 8, and drift on the shipped photographs."""
    benchmark.group = "levers"
    scorers = {
        (runtime, dtype): VSMScorer.from_pretrained("tiny", runtime=runtime, dtype=dtype)
        for runtime, dtype in LEVERS
        if runtime != "torch-compile" or shutil.which("g++")
    }
    side = scorers[DEFAULT].config.backbone.resolution
    images = torch.rand(BATCH, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    calls = {
        " ".join(lever): lambda runtime=scorer.runtime: runtime(images)
        for lever, scorer in scorers.items()
    }
    seconds = benchmark.pedantic(
        interleaved_times, args=(calls,), kwargs={"rounds": 5, "warmup": 2}, rounds=1
    )
    wanted = scores_of_photographs(scorers[DEFAULT])
    first = " ".join(DEFAULT)
    rows = {}
    for lever, scorer in scorers.items():
        name = " ".join(lever)
        ratios = [a / b for a, b in zip(seconds[first], seconds[name], strict=True)]
        found = drift(wanted, scores_of_photographs(scorer))
        rows[name] = {
            "ms_per_image": 1e3 * statistics.median(seconds[name]) / BATCH,
            "speed": statistics.median(ratios),
            "drift": found,
            "recomputed": scorer.recomputed,
        }
    with capsys.disabled():
        print(f"\nlevers, batch {BATCH}, {torch.get_num_threads()} threads")
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
