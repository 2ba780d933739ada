"""Thumbnails of the images in a report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vsm_fast.errors import InputError
from vsm_fast.images.loading import load_image
from vsm_fast.report.data import Results

LONGEST = 360  # pixels; three side by side fill a wide screen
QUALITY = 80
NOT_INCLUDED, UNREADABLE = -1, -2


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Distinct images of some rows.

    Attributes:
        files: WebP files.
        reference: int32 [P], position in ``files``; -1 for a row without pictures, -2 for an
            unreadable image.
        generation: int32 [P], the same for the generated images.
        missing: Number of unreadable images.
    """

    files: Sequence[bytes]
    reference: NDArray[np.int32]
    generation: NDArray[np.int32]
    missing: int


def thumbnails(
    results: Results, limit: int, root: str | os.PathLike[str] | None = None
) -> Thumbnails:
    """Read and scale down the images of at most ``limit`` rows.

    Args:
        results: Rows; ``ref_id`` and ``gen_id`` are paths.
        limit: Number of rows with pictures, see :func:`illustrated_rows`.
        root: Base of relative paths; None = the current folder.
    """
    rows = illustrated_rows(results.score, limit)
    base = Path() if root is None else Path(root)
    sides = [results.texts[side] for side in ("ref_id", "gen_id")]
    names = list(dict.fromkeys(column[row] for row in rows for column in sides))
    files: list[bytes] = []
    places: dict[str, int] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        encoded = pool.map(thumbnail, [base / name for name in names])
        for name, file in zip(names, encoded, strict=True):
            places[name] = UNREADABLE if file is None else len(files)
            files += [] if file is None else [file]
    reference, generation = (np.full(len(results), NOT_INCLUDED, np.int32) for _ in sides)
    for positions, column in zip((reference, generation), sides, strict=True):
        positions[rows] = [places[column[row]] for row in rows]
    return Thumbnails(files, reference, generation, len(names) - len(files))


def illustrated_rows(score: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
    """Select the rows with pictures: all rows if they are few, else mostly both ends.

    Args:
        score: float32 [P], NaN where undefined.
        limit: Number of rows.

    Returns:
        int64 [min(P, limit)], ascending: one half has the lowest scores, a quarter the highest; the
        rest is spread evenly over the others, unscored rows included.
    """
    order = np.argsort(score, kind="stable")  # NaN last
    if len(order) <= limit:
        return np.sort(order)
    scored = int(np.isfinite(score).sum())
    low = min(limit // 2, scored)
    high = min(limit // 4, scored - low)
    ends = np.concatenate([order[:low], order[scored - high : scored]])
    others = np.concatenate([order[low : scored - high], order[scored:]])
    count = limit - len(ends)
    spread = others[(2 * np.arange(count) + 1) * len(others) // (2 * count)]
    return np.sort(np.concatenate([ends, spread]))


def thumbnail(path: Path) -> bytes | None:
    """Return an image of at most ``LONGEST`` pixels as WebP; None if it cannot be read."""
    try:
        image = Image.fromarray(load_image(path).pixels)
    except InputError:
        return None
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=4)
    return file.getvalue()
