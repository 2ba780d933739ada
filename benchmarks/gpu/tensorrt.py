"""A step of the second call: TensorRT against torch, random weights of the SD 2.1 shape."""

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
    """Rows of TensorRT, launched one by one and as a CUDA graph, and of torch."""
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
    """A row of a plan; the second one is built from what the first one measured."""
    how = "tensorrt, CUDA graph" if cuda_graph else "tensorrt"
    try:
        made = trt_plans.make_plan(
            of.folder,
            of.record,
            device,
            BuildOptions(cuda_graph=cuda_graph),
            contest.references,
            photographs=of.model,  # none there: scores of random weights mean nothing
        )
        runtime = load_tensorrt(of.folder, of.record, device)
    except Exception as error:  # not installed, not built, not the same: torch's rows go on
        return {"how": how, "batch": of.record.batch.best} | failed(error)
    return contest.row(runtime) | {
        "how": how,
        "build_minutes": made.record.built["seconds"] / 60,
        "size_mib": made.record.size / 2**20,
        "layers": made.engine.layers,
        "types": made.engine.types,
    }
