"""Step 2: the tests of the kernels on the GPU itself."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
# What a GPU adds: native kernels, bfloat16, races, graphs. Ahead-of-time compilation needs none.
TESTS = (
    "tests/kernels",
    "tests/matching/test_matching.py",
    "--ignore=tests/kernels/test_ahead_of_time.py",
)


def run(device: torch.device, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """One row: how many passed and failed, and the end of what pytest said."""
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
