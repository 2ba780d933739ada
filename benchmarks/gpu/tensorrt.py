"""Separate step: TensorRT against torch, SD 2.1 shape with random weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.exports import Contest, Exported, exported, failed
from vsm_fast.export import trt_plans
from vsm_fast.export.trt_engine import BuildOptions
from vsm_fast.runtimes.tensorrt_library import unusable
from vsm_fast.runtimes.tensorrt_runtime import load_tensorrt


def run(device: torch.device, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield rows of TensorRT, without and with a CUDA graph, and of torch."""
    reason = unusable(device)
    if reason:  # before minutes of exporting
        yield {"how": "tensorrt", "batch": 0, "error": reason}
        return
    with tempfile.TemporaryDirectory() as home:
        of = exported(Path(home), quick)
        contest = Contest(of, device, quick)
        for cuda_graph in (False, True):
            yield _built(of, contest, device, cuda_graph)
        yield from contest.torch_rows()


def _built(
    of: Exported, contest: Contest, device: torch.device, cuda_graph: bool
) -> dict[str, Any]:
    """Return the row of a plan; the second build reuses the first one's measurements."""
    how = "tensorrt, CUDA graph" if cuda_graph else "tensorrt"
    try:
        made = trt_plans.make_plan(
            of.folder,
            of.record,
            device,
            BuildOptions(cuda_graph=cuda_graph),
            contest.references,
            photographs=of.model,  # contains none: scores of random weights mean nothing
        )
        runtime = load_tensorrt(of.folder, of.record, device)
    except Exception as error:  # of any class: torch's rows still run
        return {"how": how, "batch": of.record.batch.best} | failed(error)
    return contest.row(runtime) | {
        "how": how,
        "build_minutes": made.record.built["seconds"] / 60,
        "size_mib": made.record.size / 2**20,
        "layers": made.engine.layers,
        "types": made.engine.types,
    }
