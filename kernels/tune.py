"""Tile tuning for this GPU: ``python -m vsm_fast.kernels.tune``.

Per type and number of channels, all candidates run on the first shape and the finalists on the
others. Each candidate is checked against float32 before it is timed; one that fails to compile or
is wrong is excluded and logged. At the end of the time budget the results so far are written.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import torch

from vsm_fast.files import replacing
from vsm_fast.kernels.nearest import NearestTiles
from vsm_fast.kernels.provenance import first_line
from vsm_fast.kernels.tuning import TunedEntry, TunedGPU, default, file_name
from vsm_fast.kernels.workloads import Batch, random_batch

_log = logging.getLogger(__name__)
FLOAT8 = torch.float8_e4m3fn
DTYPES = (torch.float16, torch.bfloat16, FLOAT8, torch.float32)
CHANNELS = (384, 128)
POINTS = (2304, 576, 1024, 256, 9216)  # all candidates run on the first shape
FINALISTS = 4
PAIRS = 64
NO_GPU = 3  # exit code

# Source rows, target rows, warps, register limit. A thread holds 64 or 128 products of a tile.
_SHAPES = (
    (128, 128, 8, 128),
    (128, 256, 8, 0),
    (256, 128, 8, 0),
    (128, 128, 4, 0),
    (64, 128, 4, 0),
    (64, 64, 4, 0),
)
_SHAPES_FLOAT32 = ((64, 64, 8, 0), (64, 64, 4, 0), (128, 64, 8, 0), (128, 128, 8, 0))

Timer = Callable[[Callable[[], object]], float]  # returns microseconds per call


def candidates(dtype: torch.dtype, shared: int, *, copies: bool) -> Iterator[NearestTiles]:
    """Yield tiles that fit a GPU.

    Args:
        dtype: Type of the rows.
        shared: Shared memory per program in bytes.
        copies: Whether the GPU has a copy engine for tiles.
    """
    shapes = _SHAPES_FLOAT32 if dtype == torch.float32 else _SHAPES
    steps = (16, 32) if dtype == torch.float32 else (64, 128)
    for (queries, keys, warps, registers), channels, stages in product(shapes, steps, (2, 3, 4)):
        operands = (queries + keys) * channels * dtype.itemsize * stages
        if operands > shared - 2048:  # reserved for barriers and reductions
            continue
        tiles = NearestTiles(queries, keys, channels, warps, stages, registers=registers)
        if copies:
            yield replace(tiles, descriptors=True)
        if not copies or stages == 3:
            yield tiles
        if registers:
            yield replace(tiles, descriptors=copies, programs=2)


@dataclass(frozen=True, eq=False)
class Trial:
    """One shape with its batch and its exact result."""

    batch: Batch
    float8: bool
    expected: torch.Tensor  # semantic similarities in full precision
    tolerance: float

    @staticmethod
    def of(points: int, channels: int, dtype: torch.dtype, pairs: int) -> Trial:
        """Return a trial of ``pairs`` pairs of ``points`` points each on the current GPU."""
        device = torch.device("cuda")
        float8 = dtype == FLOAT8
        rows = torch.float16 if float8 else dtype
        batch = random_batch([points] * pairs, [points] * pairs, channels, rows, device)
        tiles = default(torch.float32, device).tiles
        expected = batch.match(batch.schedule(tiles, gemm=True), tiles, gemm=True)
        tolerance = 0.2 if float8 else 2e-3 if dtype != torch.float32 else 1e-5
        return Trial(batch, float8, expected.nearest.semantic_similarity, tolerance)

    def time(self, tiles: NearestTiles, timer: Timer, *, gemm: bool = False) -> float:
        """Return microseconds per batch; infinite if it fails or is wrong."""
        try:
            schedule = self.batch.schedule(tiles, gemm=gemm)
            found = self.batch.match(schedule, tiles, gemm=gemm, float8=self.float8)
            error = (found.nearest.semantic_similarity - self.expected).abs().max().item()
            if not error <= self.tolerance:
                _log.warning("excluded, error %g: %s", error, tiles)
                return math.inf
            return timer(lambda: self.batch.match(schedule, tiles, gemm=gemm, float8=self.float8))
        except Exception as error:  # of any class: from a compiler or driver
            _log.warning("excluded, %s: %s", str(error).splitlines()[:1], tiles)
            return math.inf


def fastest(
    trial: Trial, tried: Sequence[NearestTiles], timer: Timer, until: float
) -> list[tuple[float, NearestTiles]]:
    """Return the times of valid candidates, fastest first; stop at ``until``."""
    times = []
    for tiles in tried:
        if time.monotonic() > until:
            break
        times.append((trial.time(tiles, timer), tiles))
    return sorted((one for one in times if one[0] < math.inf), key=lambda one: one[0])


def tune(
    shapes: Sequence[tuple[torch.dtype, int, Sequence[int]]],
    timer: Timer,
    until: float,
    find: Callable[[torch.dtype], Sequence[NearestTiles]],
    make: Callable[[int, int, torch.dtype, int], Trial] = Trial.of,
) -> Iterator[TunedEntry]:
    """Tune shapes in order until the time budget ends.

    Args:
        shapes: (type, channels, numbers of points); all candidates run on the first number.
        timer: Timer of one call.
        until: End of the budget, in monotonic seconds.
        find: Function that returns the candidates for a type.
        make: Function that returns a trial of (points, channels, type, pairs).
    """
    for dtype, channels, several in shapes:
        finalists = list(find(dtype))
        for number, points in enumerate(several):
            if time.monotonic() > until or not finalists:
                break
            pairs = max(1, PAIRS * 2304 // max(points, 2304))
            trial = make(points, channels, dtype, pairs)
            ranked = fastest(trial, finalists, timer, until)
            if not ranked:
                break
            if number == 0:
                finalists = [tiles for _, tiles in ranked[:FINALISTS]]
            best, tiles = ranked[0]
            gemm = math.inf if trial.float8 else trial.time(tiles, timer, gemm=True)
            name = str(dtype).removeprefix("torch.")
            _log.info("%s %d x %d: %.0f us, torch's products %.0f us, %s",
                      name, points, channels, best, gemm, tiles)  # fmt: skip
            yield TunedEntry(name, channels, points, tiles, best, gemm, pairs)


def _provenance() -> dict[str, str]:
    import triton

    properties = torch.cuda.get_device_properties(0)
    return {
        "capability": f"{properties.major}.{properties.minor}",
        "driver": first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": os.environ.get("VSM_COMMIT") or first_line("git", "rev-parse", "--short", "HEAD"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune the first GPU of this machine."""
    parser = argparse.ArgumentParser(prog="python -m vsm_fast.kernels.tune", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument(
        "--budget", type=float, default=600, help="time budget in seconds (default 600)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if not torch.cuda.is_available():
        print("No GPU is available to torch: nothing to tune.", file=sys.stderr)
        return NO_GPU
    from triton.testing import do_bench

    def timer(run: Callable[[], object]) -> float:
        return 1e3 * float(do_bench(run, warmup=20, rep=80, return_mode="median"))

    until = time.monotonic() + options.budget
    properties = torch.cuda.get_device_properties(0)
    shared = getattr(properties, "shared_memory_per_block_optin", 48 << 10)
    copies = torch.version.hip is None and properties.major >= 9

    def find(dtype: torch.dtype) -> list[NearestTiles]:
        if dtype == FLOAT8 and (torch.version.hip or (properties.major, properties.minor) < (8, 9)):
            return []
        first = default(dtype, torch.device("cuda")).tiles
        found = [tiles for tiles in candidates(dtype, shared, copies=copies) if tiles != first]
        # In order of promise, should time run out: default, large tiles, copy engine.
        found.sort(key=lambda tiles: (-tiles.queries * tiles.keys, not tiles.descriptors))
        return [first, *found]

    shapes = [(dtype, channels, POINTS) for channels in CHANNELS for dtype in DTYPES]
    entries: list[TunedEntry] = []
    share = options.budget / len(shapes)
    for number, shape in enumerate(shapes):
        limit = min(until, time.monotonic() + share * (1 if number else 2))
        entries += tune([shape], timer, limit, find)
        tuned = TunedGPU(properties.name, _provenance(), tuple(entries))
        path = options.out / file_name(properties.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if entries:
            with replacing(path) as temporary:
                temporary.write_text(tuned.json(), encoding="utf-8")
    print(f"{len(entries)} shapes tuned: {options.out / file_name(properties.name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
