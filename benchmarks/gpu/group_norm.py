"""Step 8: gain of a fused GroupNorm and activation in the VAE's encoder."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]


def run(device: torch.device, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield one row per benchmark of ``benchmarks/test_group_norm.py``."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        command = [sys.executable, "-m", "pytest", "-q", "benchmarks/test_group_norm.py"]
        command += ["--benchmark-only", f"--benchmark-json={results}", "-p", "no:cacheprovider"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            yield {"error": f"pytest ended with {done.returncode}: {done.stdout[-800:]}"}
            return
        for one in json.loads(results.read_text(encoding="utf-8"))["benchmarks"]:
            median_us = 1e6 * one["stats"]["median"]
            yield {"benchmark": one["name"], "median_us": median_us, **one["extra_info"]}
