"""Step 3: kernel tuning."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from vsm_fast.kernels import tune, tuning

BUDGET = 110  # seconds


def run(device: torch.device, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield one row per tuned shape; copy the file to ``kernels/tuned/``."""
    out = Path(os.environ.get("VSM_RESULTS", ".")) / "tuned"
    code = tune.main(["--out", str(out), "--budget", str(1 if quick else BUDGET)])
    if code:
        yield {"error": f"tuning ended with exit code {code}"}
        return
    path = out / tuning.file_name(torch.cuda.get_device_name(device))
    for entry in tuning.TunedGPU.read(path).entries:
        yield {**vars(entry), "tiles": vars(entry.tiles)}
    (tuning.TUNED / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
