"""Exported models: a folder with an ONNX file, optional TensorRT plans, and ``export.json``.

``export.json`` holds the model's own configuration, so the folder scores without the original
weights, and records how it was exported.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vsm_fast.errors import WRONG_JSON, ModelError
from vsm_fast.files import sha256_of, write_json
from vsm_fast.model.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

RECORD = "export.json"
ONNX = "model.onnx"
FORMAT = "vsm_fast-export/1"
IMAGES, SEMANTIC, VISUAL = "images", "semantic", "visual"  # names of the graph's input and outputs


class DamagedExport(ModelError):
    """The files of an exported folder were altered or lost."""


@dataclass(frozen=True)
class BatchRange:
    """Batch sizes that a graph accepts; it is optimised for ``best``."""

    least: int
    best: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most:
            raise ValueError(
                f"batch sizes must be 1 <= least <= best <= most; got {self.least}:{self.best}:"
                f"{self.most}."
            )

    @property
    def static(self) -> bool:
        """Whether there is only one size."""
        return self.least == self.most


DEFAULT_BATCH = BatchRange(1, 8, 32)


@dataclass(frozen=True)
class ExportRecord:
    """Content of ``export.json``.

    Attributes:
        model: The model's configuration; ``files`` are the hashes of the exported weights.
        precision: Precision of the graph, like ``"float32"``.
        batch: Accepted batch sizes.
        opset: ONNX operator set.
        versions: Library versions by name.
        files: sha256 (hex) of every file of the graph, by name in the folder.
    """

    model: ModelConfig
    precision: str
    batch: BatchRange
    opset: int
    versions: Mapping[str, str]
    files: Mapping[str, str]

    @property
    def graph(self) -> dict[str, str]:
        """sha256 of each file that affects descriptors."""
        return {name: digest for name, digest in self.files.items() if name.startswith(ONNX)}

    def write(self, folder: Path) -> None:
        """Write ``export.json``, which marks the folder as an exported model."""
        model = json.loads(self.model.to_json())
        write_json(folder / RECORD, {"format": FORMAT, **dataclasses.asdict(self), "model": model})


def is_exported(folder: Path) -> bool:
    """Return whether a folder is an exported model."""
    return (folder / RECORD).is_file()


def read_record(folder: Path) -> ExportRecord:
    """Read ``export.json`` of a folder.

    Raises:
        DamagedExport: If it is missing or wrong.
    """
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT!r}; got {content['format']!r}")
        return ExportRecord(
            ModelConfig.from_json(json.dumps(content["model"]), f"{path}: model"),
            str(content["precision"]),
            BatchRange(**{name: int(size) for name, size in content["batch"].items()}),
            int(content["opset"]),
            {str(name): str(version) for name, version in content["versions"].items()},
            {str(name): str(digest) for name, digest in content["files"].items()},
        )
    except WRONG_JSON as error:
        raise DamagedExport(
            f"{path} does not describe an exported model ({type(error).__name__}: {error}). "
            "Export the model again: python export/build_onnx.py"
        ) from error


def verify_graph(folder: Path, record: ExportRecord) -> Path:
    """Check the sha256 of every file of the graph.

    Returns:
        The ONNX file.

    Raises:
        DamagedExport: If a file is missing, altered, unlisted or outside the folder.
    """
    unlisted = {ONNX, *(path.name for path in folder.glob(f"{ONNX}*"))} - set(record.files)
    if unlisted:
        raise DamagedExport(
            f"{folder / RECORD} has no sha256 for {sorted(unlisted)}. Export the model again."
        )
    for name, expected in record.files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise DamagedExport(f"{folder}: {name!r} is not a file in it. Export the model again.")
        actual = sha256_of(path)
        if actual != expected:
            raise DamagedExport(
                f"{path} was altered or cut off: its sha256 is {actual}, {RECORD} says "
                f"{expected}. Export the model again."
            )
    return folder / ONNX


def run_in_range(
    run: Callable[[Tensor], tuple[Tensor, Tensor]], images: Tensor, batch: BatchRange
) -> tuple[Tensor, Tensor]:
    """Run a network on any number of images: large batches are split, small ones padded.

    Args:
        run: Maps float [B, 3, R, R], ``batch.least`` ≤ B ≤ ``batch.most``, to semantic and visual
            descriptors.
        images: float [N, 3, R, R].
        batch: Batch sizes that ``run`` accepts.
    """
    import torch  # the export commands read options before they import it

    parts = []
    for part in images.split(batch.most):
        outputs = run(padded(part, batch.least))
        parts.append([branch[: len(part)] for branch in outputs])
    semantic, visual = (torch.cat(branch) for branch in zip(*parts, strict=True))
    return semantic, visual


def padded(images: Tensor, size: int) -> Tensor:
    """Return a batch of at least ``size`` images; added rows repeat the last one."""
    import torch

    missing = size - len(images)
    if missing <= 0:
        return images
    return torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])
