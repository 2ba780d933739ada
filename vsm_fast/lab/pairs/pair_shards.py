"""Controlled pairs on disk: Parquet shards in the column layout of the published test set.

The columns of ``abdo-eldesokey/mtg-dataset`` (encoded images and masks) come first, so one reader
handles both; further columns hold the data that only generated pairs have. Hugging Face's
``datasets`` opens a folder of shards and decodes the images.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vsm_fast.errors import InputError, PairingError
from vsm_fast.files import replacing
from vsm_fast.images.loading import load_image
from vsm_fast.lab.pairs.pairs import ControlledPair, Mask, Pixels

IMAGES = {
    "original_1": "image_1_original",
    "original_2": "image_2_original",
    "altered_1": "image_1_inpainted",
    "altered_2": "image_2_inpainted",
}
MASKS = {
    "mask_1": "image_1_object_mask",
    "mask_2": "image_2_object_mask",
    "part_1": "image_1_part_mask",
    "part_2": "image_2_part_mask",
}
_FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_ENCODED = (*IMAGES.values(), *MASKS.values())
_OPTIONAL = {IMAGES["altered_2"], MASKS["part_2"]}
_TEXT = ("id", "subject", "view", "kind", "provenance")
_FEATURES = {
    **{name: {"_type": "Image"} for name in _ENCODED},
    **{name: {"dtype": "string", "_type": "Value"} for name in _TEXT},
    "oracle": {"dtype": "float64", "_type": "Value"},
    "points": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"},
}
SCHEMA = pa.schema(
    [
        *((name, _FILE) for name in _ENCODED),
        *((name, pa.string()) for name in _TEXT),
        ("oracle", pa.float64()),
        ("points", pa.list_(pa.float32())),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)
_MAX_ROWS = 16  # per row group: rows are read by group and decoded one at a time


def write_pair_shard(pairs: Iterable[ControlledPair], path: str | os.PathLike[str]) -> int:
    """Write pairs to one Parquet file, complete or not at all; return their number.

    Pairs are consumed a few at a time. The folder must exist.
    """
    written, rows = 0, list[dict[str, Any]]()
    with replacing(path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        for pair in pairs:
            rows.append(_row(pair))
            written += 1
            if len(rows) == _MAX_ROWS:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    return written


def _row(pair: ControlledPair) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(pair, name) for name in ("id", "subject", "view", "kind")}
    for field, column in (IMAGES | MASKS).items():
        pixels, row[column] = getattr(pair, field), None
        if pixels is not None:
            # Masks are stored as grey 0 / 255, readable by every viewer.
            grey = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
            file = io.BytesIO()
            Image.fromarray(grey).save(file, "PNG")
            row[column] = {"bytes": file.getvalue(), "path": None}
    row["oracle"] = pair.oracle
    row["points"] = None if pair.points is None else pair.points.ravel()
    row["provenance"] = json.dumps(pair.provenance, sort_keys=True)
    return row


def shard_paths(source: str | os.PathLike[str]) -> list[Path]:
    """Return the Parquet files of a dataset: the file itself, or all files in a folder, sorted.

    Raises:
        PairingError: If there is none.
    """
    root = Path(source)
    paths = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    # A killed process leaves a truncated hidden file.
    paths = [path for path in paths if path == root or not path.name.startswith(".")]
    if not paths:
        raise PairingError(
            f"{root} holds no controlled pairs. Give a .parquet file or a folder of them, as "
            "written by vsm-fast make-pairs."
        )
    return paths


def count_pairs(source: str | os.PathLike[str]) -> int:
    """Return the number of pairs of a dataset, from the file footers."""
    return sum(pq.read_metadata(path).num_rows for path in shard_paths(source))


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        yield pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise PairingError(f"{path} cannot be read as Parquet: {error}") from error


def read_pairs(source: str | os.PathLike[str]) -> Iterator[ControlledPair]:
    """Read a generated or published dataset, a Parquet file or a folder of them, pair by pair.

    Columns outside the published layout are optional: ``id`` defaults to ``FILE:ROW``, other
    texts to ``""``, and ``kind`` follows from the masks (``"none"`` without an altered part, else
    ``"inpainted"``).

    Raises:
        PairingError: If there is no file, a file is not Parquet or lacks a column, or the images
            of a row cannot be decoded or differ in size; the message names file and row.
    """
    for path in shard_paths(source):
        with _opened(path) as file:
            missing = sorted(set(_ENCODED) - _OPTIONAL - set(file.schema_arrow.names))
            if missing:
                raise PairingError(
                    f"{path} lacks the columns {', '.join(missing)}; controlled pairs have "
                    f"{', '.join(_ENCODED)}."
                )
            columns = [name for name in SCHEMA.names if name in file.schema_arrow.names]
            number = 0
            for batch in file.iter_batches(_MAX_ROWS, columns=columns):
                for row in batch.to_pylist():
                    yield _pair(row, f"{path.name}:{number}")
                    number += 1


def _pair(row: Mapping[str, Any], place: str) -> ControlledPair:
    try:
        pictures = {name: decode_picture(row.get(column)) for name, column in IMAGES.items()}
        masks: dict[str, Mask | None] = {}
        for name, column in MASKS.items():
            file, view = row.get(column), pictures[f"original_{name[-1]}"]
            masks[name] = None
            if file is not None and file["bytes"]:
                with Image.open(io.BytesIO(file["bytes"])) as picture:
                    masks[name] = mask = np.asarray(picture.convert("L")) > 127
                if view is not None and mask.shape != view.shape[:2]:
                    size = view.shape[1::-1]
                    resized = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
                    masks[name] = np.asarray(resized)
        for name, column in (IMAGES | MASKS).items():
            if column not in _OPTIONAL and {**pictures, **masks}[name] is None:
                raise ValueError(f"{column} is empty")
        points, part = row.get("points"), masks["part_1"]
        altered = part is not None and part.any()
        return ControlledPair(
            id=row.get("id") or place,
            subject=row.get("subject") or "",
            view=row.get("view") or "",
            kind=row.get("kind") or ("inpainted" if altered else "none"),
            points=None if points is None else np.array(points, np.float32).reshape(-1, 4),
            provenance=json.loads(row.get("provenance") or "{}"),
            **pictures,  # type: ignore[arg-type]
            **masks,  # type: ignore[arg-type]
        )
    except (ValueError, OSError, InputError) as error:  # Pillow raises both of the former
        raise PairingError(f"controlled pair {place}: {error}") from error


def decode_picture(file: Mapping[str, Any] | None) -> Pixels | None:
    """Decode an image cell to uint8 [H, W, 3]; None if the cell is empty."""
    if file is None or not file["bytes"]:
        return None
    with Image.open(io.BytesIO(file["bytes"])) as picture:
        return load_image(picture).pixels


def read_subjects(source: str | os.PathLike[str]) -> Sequence[str]:
    """Read the subject of every pair without decoding images; ``""`` if unknown.

    Raises:
        PairingError: If there is no file, or a file is not Parquet.
    """
    subjects: list[str] = []
    for path in shard_paths(source):
        with _opened(path) as file:
            if "subject" in file.schema_arrow.names:
                subjects += [name or "" for name in file.read(["subject"])["subject"].to_pylist()]
            else:
                subjects += [""] * file.metadata.num_rows
    return subjects
