"""Step 4: the kernels against torch, torch.compile and the matrix product alone.

Every contestant runs both branches of every pair. The peers stop at the nearest neighbours; ours
also resolves duplicate matches, applies thresholds and counts. Peers use a batched product if all
subjects have one size, their best case, else a loop over pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.timing import measure, rate
from vsm_fast.kernels.tuning import choose
from vsm_fast.kernels.workloads import Batch, random_batch

LARGE = 48 * 48  # points of a whole grid of the published model


def _shapes(quick: bool) -> dict[str, dict[str, Any]]:
    """Return counts, target_counts and channels of each batch by name."""
    rng = np.random.default_rng(0)
    ragged = rng.integers(200, LARGE, 64).tolist()
    shapes: dict[str, dict[str, Any]] = {
        "1 x 2304, D=384": {"counts": [LARGE], "target_counts": [LARGE], "channels": 384},
        "8 x 2304, D=384": {"counts": [LARGE] * 8, "target_counts": [LARGE] * 8, "channels": 384},
        "64 x 2304, D=384": {
            "counts": [LARGE] * 64, "target_counts": [LARGE] * 64, "channels": 384,
        },
        "64 x 576, D=384": {"counts": [576] * 64, "target_counts": [576] * 64, "channels": 384},
        "64 x 1024, D=128": {"counts": [1024] * 64, "target_counts": [1024] * 64, "channels": 128},
        "64 ragged, D=384": {"counts": ragged, "target_counts": ragged[::-1], "channels": 384},
        "1 ref x 64 gens, D=384": {
            "counts": [LARGE] * 64, "target_counts": [LARGE], "channels": 384,
        },
        "10,000 x 64, D=128": {
            "counts": [64] * 10_000, "target_counts": [64] * 10_000, "channels": 128,
        },
        "1 x 65,536, D=128": {"counts": [65_536], "target_counts": [65_536], "channels": 128},
    }  # fmt: skip
    if not quick:
        return shapes
    return {
        "2 x 20, D=16": {"counts": [20] * 2, "target_counts": [20] * 2, "channels": 16},
        "ragged, D=16": {"counts": [9, 17], "target_counts": [12, 5], "channels": 16},
    }


def run(device: torch.device, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield rows of (shape, type, contestant) with time, rate and memory."""
    dtypes = [torch.float16] if quick else [torch.float16, torch.bfloat16, torch.float32]
    for name, shape in _shapes(quick).items():
        for dtype in dtypes:
            if dtype != torch.float16 and "64 x 2304" not in name and not quick:
                continue  # the other types on the targets' shape only
            batch = random_batch(dtype=dtype, device=device, **shape)
            for contestant, call in _contestants(batch, dtype, device):
                row = {"shape": name, "dtype": str(dtype).removeprefix("torch.")}
                row |= {"contestant": contestant, "operations": batch.operations}
                yield row | _time(call, batch, device)
            del batch
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _time(call: Callable[[], object], batch: Batch, device: torch.device) -> dict[str, Any]:
    try:
        timing = measure(call, device)
    except Exception as error:  # of any class: the other contestants still run
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return asdict(timing) | {"tflops": rate(batch.operations, timing)}


def _contestants(
    batch: Batch, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, Callable[[], object]]]:
    points = int(batch.target_offsets.diff().max())
    channels = batch.semantic[0].shape[1]
    precisions = {"vsm_fast": dtype}
    if device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9):
        precisions["vsm_fast, float8 search"] = torch.float8_e4m3fn
    for name, searched in precisions.items():
        float8 = searched != dtype
        tiles = choose(searched, channels, points, device).tiles
        schedule = batch.schedule(tiles)
        yield name, lambda s=schedule, t=tiles, f=float8: batch.match(s, t, float8=f)
    tiles = choose(dtype, channels, points, device).tiles
    flat = batch.schedule(tiles, gemm=True)
    yield "vsm_fast, torch's products", lambda: batch.match(flat, tiles, gemm=True)
    branches = [_views(batch, *branch) for branch in (batch.semantic, batch.visual)]
    yield "GEMM alone", lambda: [_products(branch) for branch in branches]
    yield "torch eager", lambda: [_naive(branch) for branch in branches]
    compiled = torch.compile(_naive)
    yield "torch.compile", lambda: [compiled(branch) for branch in branches]


Views = list[tuple[Tensor, Tensor]]


def _views(batch: Batch, source: Tensor, target: Tensor) -> Views:
    """Return (source rows, target rows) per pair, or one pair of stacks of equal sizes."""
    starts, sizes = batch.source_offsets.tolist(), batch.source_offsets.diff().tolist()
    firsts, counts = batch.target_offsets.tolist(), batch.target_offsets.diff().tolist()
    one_size = len(set(sizes)) == 1 and len(set(counts)) == 1
    pairs = batch.pairs.tolist()
    if one_size and pairs == [[i, i] for i in range(len(sizes))]:
        stacks = source.view(len(sizes), sizes[0], -1), target.view(len(counts), counts[0], -1)
        return [stacks]
    return [
        (source[starts[i] : starts[i] + sizes[i]], target[firsts[j] : firsts[j] + counts[j]])
        for i, j in pairs
    ]


def _products(views: Views) -> list[Tensor]:
    return [source @ target.transpose(-1, -2) for source, target in views]


def _naive(views: Views) -> list[Tensor]:
    found = []
    for source, target in views:
        similarity = F.normalize(source, dim=-1) @ F.normalize(target, dim=-1).transpose(-1, -2)
        found += list(similarity.max(-1))
    return found
