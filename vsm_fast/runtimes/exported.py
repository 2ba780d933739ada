"""Exported models: a folder with an ONNX file, perhaps TensorRT plans, and ``export.json``.

``export.json`` holds the model's own configuration, so that the folder scores without the
weights that it was exported from, and says what was exported and how.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsm_fast.errors import WRONG_JSON, ModelError
from vsm_fast.files import sha256_of, write_json
from vsm_fast.model.config import ModelConfig

RECORD = "export.json"
ONNX = "model.onnx"
FORMAT = "vsm_fast-export/1"
IMAGES, SEMANTIC, VISUAL = "images", "semantic", "visual"  # names of the graph's input and outputs


class DamagedExport(ModelError):
    """The files of an exported folder are not what was written."""


@dataclass(frozen=True)
class BatchRange:
    """Batch sizes that a graph takes; equal numbers mean one fixed size.

    Attributes:
        least, best, most: ``best`` is the size that is optimised for.
    """

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
    """What ``export.json`` says.

    Attributes:
        model: The model's configuration; ``files`` are the hashes of the weights exported.
        precision: In which the graph computes, like ``"float32"``.
        batch: Batch sizes that it takes.
        opset: ONNX operator set.
        versions: Version of each library that took part, by name.
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
        """sha256 of each file that decides descriptors."""
        return {name: digest for name, digest in self.files.items() if name.startswith(ONNX)}

    def write(self, folder: Path) -> None:
        """Write ``export.json``, which makes the folder an exported model."""
        content = {
            "format": FORMAT,
            "precision": self.precision,
            "batch": dataclasses.asdict(self.batch),
            "opset": self.opset,
            "versions": dict(self.versions),
            "files": dict(self.files),
            "model": json.loads(self.model.to_json()),
        }
        write_json(folder / RECORD, content)


def is_exported(folder: Path) -> bool:
    """Whether a folder is an exported model."""
    return (folder / RECORD).is_file()


def read_record(folder: Path) -> ExportRecord:
    """Read ``export.json`` of a folder.

    Raises:
        DamagedExport: It is missing or wrong.
    """
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return _record(content, path)
    except WRONG_JSON as error:
        raise DamagedExport(
            f"{path} does not describe an exported model ({type(error).__name__}: {error}). "
            "Export the model again: python export/build_onnx.py"
        ) from error


def _record(content: Any, path: Path) -> ExportRecord:
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


def verify_graph(folder: Path, record: ExportRecord) -> Path:
    """Check the sha256 of every file of the graph.

    Returns:
        The ONNX file.

    Raises:
        DamagedExport: A file is missing, altered, not listed or not inside the folder.
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
        found = sha256_of(path)
        if found != expected:
            raise DamagedExport(
                f"{path} was altered or cut off: its sha256 is {found}, {RECORD} says "
                f"{expected}. Export the model again."
            )
    return folder / ONNX
