"""Shared parts of the export steps: a model folder of the SD 2.1 shape, and result rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_export import write_model
from benchmarks.gpu.timing import measure
from vsm_fast.export.onnx_check import smooth_pictures
from vsm_fast.export.onnx_graph import ExportOptions, export_onnx
from vsm_fast.export.trt_plans import torch_references
from vsm_fast.runtimes.exported import BatchRange, ExportRecord
from vsm_fast.runtimes.runtime import Runtime
from vsm_fast.runtimes.torch_runtime import CompiledRuntime

PRECISION = "float16"
BATCH = 8


@dataclass(frozen=True)
class Exported:
    """Model with random weights and its export.

    Attributes:
        model: Model folder.
        folder: Folder of the export.
        record: Record of the export.
        minutes: Duration of the export.
    """

    model: Path
    folder: Path
    record: ExportRecord
    minutes: float


def exported(home: Path, quick: bool) -> Exported:
    """Write a model of the SD 2.1 shape and export it for one batch size.

    Without the export's check on the CPU, which takes minutes at this size; the rows contain the
    cosines.
    """
    write_model(home / "model", quick)
    batch = 2 if quick else BATCH
    options = ExportOptions("float32" if quick else PRECISION, BatchRange(batch, batch, batch))
    begin = time.monotonic()
    record = export_onnx(str(home / "model"), home / "exported", options, check=lambda *_: None)
    minutes = (time.monotonic() - begin) / 60
    return Exported(home / "model", home / "exported", record, minutes)


class Contest:
    """Comparison of an export's runtimes on one batch of images.

    Args:
        of: The export.
        device: Device of the runtimes.
        quick: Small scale, to test the benchmark.
    """

    def __init__(self, of: Exported, device: torch.device, quick: bool) -> None:
        self._of, self._device, self._quick = of, device, quick
        self.references = torch_references(str(of.model), of.record, device)
        side = of.record.model.backbone.resolution
        self._images = smooth_pictures(of.record.batch.best, side).to(device)
        self._right = self.references.best(self._images)

    def row(self, runtime: Runtime) -> dict[str, Any]:
        """Return a runtime's speed and its least cosine with torch in float32."""
        images = self._images
        found: dict[str, Any] = {"how": runtime.name, "batch": len(images)}
        try:
            ours = runtime(images)
            timing = measure(lambda: runtime(images), self._device, milliseconds=1000)
        except Exception as error:  # of any class: the other runtimes still run
            return found | failed(error)
        pairs = zip(ours, self._right, strict=True)
        return found | {
            "precision": runtime.precision,
            "images_per_s": len(images) / timing.p50 * 1e6,
            "least_cosine": min(float((a.float() * b).sum(1).min()) for a, b in pairs),
        }

    def torch_rows(self) -> Iterator[dict[str, Any]]:
        """Yield rows of torch in the export's precision, eager and compiled."""
        eager = self.references.torch or self.references.best
        network = eager.network  # type: ignore[attr-defined]
        network.to(memory_format=torch.channels_last)
        yield self.row(eager)
        if not self._quick:
            yield self.row(CompiledRuntime(network))


def failed(error: Exception) -> dict[str, Any]:
    """Return the error entry of a row."""
    return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
