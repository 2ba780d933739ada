"""Accuracy and speed of a runtime against a reference.

The contract is that of every fast path: the error against float32 is at most twice that of torch
in the same precision, or below a floor.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vsm_fast.errors import ModelError
from vsm_fast.export.onnx_check import smooth_pictures
from vsm_fast.model.config import ModelConfig
from vsm_fast.results.drift import Drift, drift
from vsm_fast.runtimes.choose import LoadedModel
from vsm_fast.runtimes.exported import BatchRange
from vsm_fast.runtimes.runtime import Runtime
from vsm_fast.scorer import VSMScorer

LEAST_COSINE = 0.999  # of a descriptor with the reference's
MOST_DRIFT = 0.01  # of a score from the reference's
_TIMES = 2  # permitted multiple of torch's error in the same precision
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"  # not part of an installed wheel


@dataclass(frozen=True)
class Difference:
    """Difference of a runtime from a reference.

    Attributes:
        cosine: Least cosine of a descriptor with the reference's, on random smooth pictures.
        drift: Difference of the scores of photographs; None without photographs.
    """

    cosine: float
    drift: Drift | None

    def __str__(self) -> str:
        scores = "scores not compared, no photographs here" if self.drift is None else self.drift
        return f"least cosine {self.cosine:.6f}; {scores}"


def difference(
    config: ModelConfig, reference: Runtime, runtime: Runtime, batch: BatchRange, photographs: Path
) -> Difference:
    """Compare two runtimes of one model.

    Args:
        config: The model's configuration.
        reference: The reference.
        runtime: The runtime to judge.
        batch: Batch sizes of ``runtime``; the least, the best and one more are tried.
        photographs: Folder in which every ``NAME.jpg`` with a ``NAME_mask.png`` is scored against
            every other.
    """
    cosine = 1.0
    for count in sorted({batch.least, batch.best, min(batch.most, batch.best + 1)}):
        pictures = smooth_pictures(count, config.backbone.resolution)
        for expected, actual in zip(reference(pictures), runtime(pictures), strict=True):
            similarity = (expected.cpu() * actual.cpu()).sum(1)
            cosine = min(cosine, float(torch.nan_to_num(similarity, nan=-1.0).min()))
    masks = sorted(photographs.rglob("*_mask.png"))
    images = [mask.with_name(mask.name.replace("_mask.png", ".jpg")) for mask in masks]
    if not images:
        return Difference(cosine, None)
    pairs = [(i, j) for i in range(len(images)) for j in range(len(images)) if i != j]
    scores = [
        VSMScorer(LoadedModel(config, one)).score(
            images, images, pairs=pairs, ref_masks=masks, gen_masks=masks, heatmaps=True
        )
        for one in (reference, runtime)
    ]
    return Difference(cosine, drift(*scores))


def require_small(actual: Difference, torchs: Difference | None, subject: str) -> None:
    """Refuse a runtime with a large difference from the reference.

    ``torchs`` is the difference of torch in the same precision; None if torch is the reference.

    Raises:
        ModelError: If the difference is too large; its sentence starts with ``subject``.
    """
    torch_error = 1 - torchs.cosine if torchs else 0.0
    least = 1 - max(1 - LEAST_COSINE, _TIMES * torch_error)
    if not actual.cosine >= least:  # also refuses NaN
        raise ModelError(
            f"{subject} is inaccurate: the least cosine of a descriptor with the reference's is "
            f"{actual.cosine:.6f}; at least {least:.6f} is required. Report it with the versions "
            "in use."
        )
    if actual.drift is None:
        return
    torch_drift = torchs.drift.score if torchs and torchs.drift else 0.0
    most = max(MOST_DRIFT, _TIMES * torch_drift)
    if not actual.drift.score <= most:
        raise ModelError(
            f"{subject} changes scores too much: {actual.drift}; a score may change by {most:.4f}. "
            "Export in a higher precision (--dtype fp32)."
        )


def speed_table(runtimes: Sequence[Runtime], sizes: Sequence[int], resolution: int) -> str:
    """Time runtimes and return a table, with the speed-up over the first runtime per batch size.

    The runtimes alternate, so that other load on the machine affects all of them.
    """
    lines = [f"{'runtime':<16}{'batch':>6}{'ms':>10}{'images/s':>11}{'times':>7}"]
    for size in sizes:
        times = [_milliseconds(runtime, size, resolution) for runtime in runtimes]
        lines += [
            f"{runtime.name:<16}{size:>6}{time_:>10.2f}{1000 * size / time_:>11.1f}"
            f"{times[0] / time_:>7.2f}"
            for runtime, time_ in zip(runtimes, times, strict=True)
        ]
    return "\n".join(lines)


def _milliseconds(runtime: Runtime, size: int, resolution: int, calls: int = 10) -> float:
    """Return the median time of a batch, after three calls of warm-up."""
    images = smooth_pictures(size, resolution).to(runtime.device)
    times = []
    for _ in range(calls + 3):
        begin = time.perf_counter()
        runtime(images)
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times[3:])
