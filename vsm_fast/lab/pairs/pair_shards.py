"""Controlled pairs on disk: Parquet shards in the column layout of the published test set.

The columns of ``abdo-eldesokey/mtg-dataset`` (images and masks as encoded files) come first, so
that one reader serves both; what only our own pairs have follows in further columns. Hugging
Face's ``datasets`` opens a folder of shards with the images decoded.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from vsm_fast.errors import InputError, PairingError
from vsm_fast.files import replacing
from vsm_fast.images.loading import load_image
from vsm_fast.lab.pairs.pairs import ControlledPair

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
_MAX_ROWS = 16  # a row is decoded at a time, but read by row groups


def write_shard(pairs: Iterable[ControlledPair], path: str | os.PathLike[str]) -> int:
    """Write pairs as one Parquet file: all of it, or nothing.

    Args:
        pairs: Read once, a few at a time.
        path: The file; its folder must exist.

    Returns:
        The number of pairs.
    """
    written = 0
    with replacing(path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        rows: list[dict[str, Any]] = []
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
        picture = getattr(pair, field)
        row[column] = None if picture is None else {"bytes": _png(picture), "path": None}
    row["oracle"] = pair.oracle
    row["points"] = None if pair.points is None else pair.points.ravel()
    row["provenance"] = json.dumps(pair.provenance, sort_keys=True)
    return row


def _png(picture: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    file = io.BytesIO()
    # Masks are written as grey 0 / 255: what every viewer shows and every reader understands.
    grey = picture.astype(np.uint8) * 255 if picture.dtype == bool else picture
    Image.fromarray(grey).save(file, "PNG")
    return file.getvalue()


def shard_paths(source: str | os.PathLike[str]) -> list[Path]:
    """The Parquet files of a dataset: the file itself, or all below a folder, sorted.

    Raises:
        PairingError: There is none.
    """
    root = Path(source)
    paths = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    # A process that was killed leaves a hidden file, cut off in the middle.
    paths = [path for path in paths if path == root or not path.name.startswith(".")]
    if not paths:
        raise PairingError(
            f"{root} holds no controlled pairs: a .parquet file or a folder of them is expected, "
            "as vsm-fast make-pairs writes it."
        )
    return paths


def count_pairs(source: str | os.PathLike[str]) -> int:
    """Number of rows of a dataset, from the files' footers."""
    return sum(pq.read_metadata(path).num_rows for path in shard_paths(source))


def read_pairs(source: str | os.PathLike[str]) -> Iterator[ControlledPair]:
    """Read a dataset pair by pair, ours or the published one.

    Columns that only our shards have may be missing: ``id`` becomes ``FILE:ROW``, other texts
    are empty, and a ``kind`` follows from the masks (``"none"`` without an altered part, else
    ``"inpainted"``).

    Args:
        source: A Parquet file or a folder of them.

    Raises:
        PairingError: No file, a file that is not Parquet, a missing column, or a row whose
            pictures cannot be decoded or do not fit together; it names the file and the row.
    """
    for path in shard_paths(source):
        try:
            file = pq.ParquetFile(path)
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
        except (pa.ArrowInvalid, OSError) as error:
            raise PairingError(f"{path} cannot be read as Parquet: {error}") from error


def _pair(row: Mapping[str, Any], place: str) -> ControlledPair:
    try:
        pictures = {name: decode_picture(row.get(column)) for name, column in IMAGES.items()}
        masks = {name: _decode_mask(row.get(column)) for name, column in MASKS.items()}
        for field, column in (IMAGES | MASKS).items():
            if column not in _OPTIONAL and (pictures | masks)[field] is None:
                raise ValueError(f"{column} is empty")
        for name, mask in masks.items():
            view = pictures[f"original_{name[-1]}"]
            if mask is not None and view is not None and mask.shape != view.shape[:2]:
                masks[name] = _resized(mask, view.shape[:2])
        points = row.get("points")
        altered = masks["part_1"]
        assert altered is not None
        return ControlledPair(
            id=row.get("id") or place,
            subject=row.get("subject") or "",
            view=row.get("view") or "",
            kind=row.get("kind") or ("inpainted" if altered.any() else "none"),
            points=None if points is None else np.array(points, np.float32).reshape(-1, 4),
            provenance=json.loads(row.get("provenance") or "{}"),
            **pictures,  # type: ignore[arg-type]
            **masks,  # type: ignore[arg-type]
        )
    except (ValueError, OSError, InputError) as error:  # Pillow's errors are of both kinds
        raise PairingError(f"controlled pair {place}: {error}") from error


def decode_picture(file: Mapping[str, Any] | None) -> NDArray[np.uint8] | None:
    """The pixels of an encoded picture, uint8 [H, W, 3]; None when there is none."""
    if file is None or not file["bytes"]:
        return None
    with Image.open(io.BytesIO(file["bytes"])) as picture:
        return load_image(picture).pixels


def _decode_mask(file: Mapping[str, Any] | None) -> NDArray[np.bool_] | None:
    """The mask of an encoded picture, bool [H, W]: brighter than half; None without one."""
    if file is None or not file["bytes"]:
        return None
    with Image.open(io.BytesIO(file["bytes"])) as picture:
        return np.asarray(picture.convert("L")) > 127


def _resized(mask: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask that was stored at another resolution than its image, at the image's."""
    height, width = size
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def read_subjects(source: str | os.PathLike[str]) -> Sequence[str]:
    """The subject of every pair, without decoding pictures; empty texts where unknown.

    Raises:
        PairingError: No file, or one that is not Parquet.
    """
    subjects: list[str] = []
    for path in shard_paths(source):
        try:
            file = pq.ParquetFile(path)
            if "subject" in file.schema_arrow.names:
                subjects += [name or "" for name in file.read(["subject"])["subject"].to_pylist()]
            else:
                subjects += [""] * file.metadata.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise PairingError(f"{path} cannot be read as Parquet: {error}") from error
    return subjects
