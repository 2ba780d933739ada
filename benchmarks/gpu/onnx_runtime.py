"""Separate step: ONNX Runtime against torch, SD 2.1 shape with random weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.exports import Contest, exported, failed
from vsm_fast.errors import ModelError
from vsm_fast.runtimes.onnx_runtime import OnnxRuntime


def run(device: torch.device, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield rows of ONNX Runtime and of torch, eager and compiled, on the same device."""
    with tempfile.TemporaryDirectory() as home:
        of = exported(Path(home), quick)
        size = sum((of.folder / name).stat().st_size for name in of.record.files) / 2**20
        made = {"build_minutes": of.minutes, "size_mib": size}
        contest = Contest(of, device, quick)
        try:
            yield contest.row(OnnxRuntime(of.folder, of.record, device)) | made
        except (ImportError, ModelError) as error:  # no package, no provider
            yield {"how": "onnxruntime", "batch": of.record.batch.best} | failed(error)
        yield from contest.torch_rows()
