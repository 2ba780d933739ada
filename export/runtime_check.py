"""Whether a runtime computes what the model computes, on pictures and in scores, and how fast.

The contract is that of every fast path here: the error against float32 is at most twice that of
torch in the same precision, and a floor.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
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

LEAST_COSINE = 0.999  # of a descriptor with that of the reference
MOST_DRIFT = 0.01  # of a score from that of the reference
_TIMES = 2  # what torch in the same precision is off, so often may a runtime be
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"  # not part of an installed wheel


@dataclass(frozen=True)
class Difference:
    """How far a runtime is from a reference.

    Attributes:
        cosine: The least of a descriptor with that of the reference, on random smooth pictures.
        drift: Of the scores of photographs; None where there are none.
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
        config: Of the model.
        reference: What is right.
        runtime: What is compared with it.
        batch: Sizes that ``runtime`` was made for: the least, the best and one more are tried.
        photographs: Folder in which every ``NAME.jpg`` with a ``NAME_mask.png`` is scored against
            every other.
    """
    cosine = 1.0
    for count in sorted({batch.least, batch.best, min(batch.most, batch.best + 1)}):
        images = smooth_pictures(count, config.backbone.resolution)
        for wanted, found in zip(reference(images), runtime(images), strict=True):
            similarity = (wanted.cpu() * found.cpu()).sum(1)
            # NaN is the least of all.
            cosine = min(cosine, float(torch.nan_to_num(similarity, nan=-1.0).min()))
    return Difference(cosine, _score_drift(config, reference, runtime, photographs))


def _score_drift(
    config: ModelConfig, reference: Runtime, runtime: Runtime, photographs: Path
) -> Drift | None:
    masks = sorted(photographs.rglob("*_mask.png"))
    images = [mask.with_name(mask.name.replace("_mask.png", ".jpg")) for mask in masks]
    if not images:
        return None
    pairs = [(i, j) for i in range(len(images)) for j in range(len(images)) if i != j]
    wanted, found = (
        VSMScorer(LoadedModel(config, one)).score(
            images, images, pairs=pairs, ref_masks=masks, gen_masks=masks, heatmaps=True
        )
        for one in (reference, runtime)
    )
    return drift(wanted, found)


def require_small(found: Difference, torchs: Difference | None, what: str) -> None:
    """Refuse a difference that is too large.

    Args:
        found: Of the runtime.
        torchs: Of torch in the same precision, from the same reference; None = it is the
            reference.
        what: Subject of the error.

    Raises:
        ModelError: It is too large.
    """
    off = 1 - (torchs.cosine if torchs else 1.0)
    least = 1 - max(1 - LEAST_COSINE, _TIMES * off)
    if not found.cosine >= least:
        raise ModelError(
            f"{what} computes something else: the least cosine of a descriptor with the "
            f"reference's is {found.cosine:.6f}, wanted {least:.6f}. Report it with the "
            "versions in use."
        )
    if found.drift is None:
        return
    torch_drift = torchs.drift.score if torchs and torchs.drift else 0.0
    most = max(MOST_DRIFT, _TIMES * torch_drift)
    if not found.drift.score <= most:
        raise ModelError(
            f"{what} changes scores too much: {found.drift}; a score may change by {most:.4f}. "
            "Export in a higher precision (--dtype fp32)."
        )


@dataclass(frozen=True)
class Speed:
    """Time of one batch size in one runtime.

    Attributes:
        runtime: Its name.
        batch: Images.
        milliseconds: Of a batch, the median.
    """

    runtime: str
    batch: int
    milliseconds: float

    @property
    def per_second(self) -> float:
        """Images per second."""
        return 1000 * self.batch / self.milliseconds


def speeds(runtimes: Sequence[Runtime], sizes: Sequence[int], resolution: int) -> list[Speed]:
    """Time runtimes in turns, so that what else the machine does meets all of them."""
    return [
        Speed(runtime.name, size, _milliseconds(runtime, size, resolution))
        for size in sizes
        for runtime in runtimes
    ]


def _milliseconds(runtime: Runtime, size: int, resolution: int, calls: int = 10) -> float:
    images = smooth_pictures(size, resolution).to(runtime.device)
    wait: Callable[[], None] = (
        torch.cuda.synchronize if runtime.device.type == "cuda" else lambda: None
    )
    times = []
    for number in range(calls + 3):
        wait()
        begin = time.perf_counter()
        runtime(images)
        wait()
        if number >= 3:  # the first ones prepare
            times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times)


def speed_table(found: Sequence[Speed]) -> str:
    """Lines for people; each row also against the first runtime at that size."""
    first = {speed.batch: speed for speed in reversed(found)}
    lines = [f"{'runtime':<16}{'batch':>6}{'ms':>10}{'images/s':>11}{'times':>7}"]
    lines += [
        f"{speed.runtime:<16}{speed.batch:>6}{speed.milliseconds:>10.2f}"
        f"{speed.per_second:>11.1f}{speed.per_second / first[speed.batch].per_second:>7.2f}"
        for speed in found
    ]
    return "\n".join(lines)
