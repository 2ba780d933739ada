"""Step 2: kernel tests on the GPU."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
# Native kernels, bfloat16, races, graphs. Ahead-of-time compilation needs no GPU.
TESTS = (
    "tests/kernels",
    "tests/matching/test_matching.py",
    "--ignore=tests/kernels/test_ahead_of_time.py",
)


def run(device: torch.device, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield one row: numbers of passed and failed tests, and the end of pytest's output."""
    tests = ("tests/kernels/test_schedule.py",) if quick else TESTS
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--maxfail=5", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    counts = {
        word: int(number)
        for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout[-400:])
    }
    yield {"green": done.returncode == 0, **counts, "end": done.stdout[-1500:]}
