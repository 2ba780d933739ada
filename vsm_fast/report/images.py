"""Small copies of the images that a report shows."""

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

LONGEST = 360  # pixels; three of them side by side fill a wide screen
QUALITY = 80
NOT_ASKED, NOT_READABLE = -1, -2


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """The images of some rows, each one once.

    Attributes:
        files: WebP files.
        reference: int32 [P], position in ``files``; -1 where the row has no pictures, -2 where
            the image could not be read.
        generation: The same for the generated images.
        missing: How many images could not be read.
    """

    files: Sequence[bytes]
    reference: NDArray[np.int32]
    generation: NDArray[np.int32]
    missing: int


def thumbnails(
    results: Results, limit: int, root: str | os.PathLike[str] | None = None
) -> Thumbnails:
    """Read the images of at most ``limit`` rows and scale them down.

    Args:
        results: The rows; ``ref_id`` and ``gen_id`` are taken as paths.
        limit: Rows that get pictures, see :func:`illustrated_rows`.
        root: What relative paths start from; None = the current folder.
    """
    rows = illustrated_rows(results.score, limit)
    base = Path() if root is None else Path(root)
    sides = {side: results.texts[side] for side in ("ref_id", "gen_id")}
    wanted = list(dict.fromkeys(names[row] for row in rows for names in sides.values()))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        encoded = list(pool.map(lambda name: thumbnail(base / name), wanted))
    files = [file for file in encoded if file is not None]
    places = dict.fromkeys(wanted, NOT_READABLE)
    read = (name for name, file in zip(wanted, encoded, strict=True) if file is not None)
    places.update({name: place for place, name in enumerate(read)})
    columns = {}
    for side, names in sides.items():
        columns[side] = np.full(len(results), NOT_ASKED, np.int32)
        columns[side][rows] = [places[names[row]] for row in rows]
    return Thumbnails(
        files, columns["ref_id"], columns["gen_id"], sum(file is None for file in encoded)
    )


def illustrated_rows(score: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
    """Which rows get pictures: all if they are few, else mostly those at both ends.

    Args:
        score: float32 [P], NaN where undefined.
        limit: How many rows.

    Returns:
        int64 [min(P, limit)] in ascending order: half of them the lowest scores, a quarter the
        highest, and the rest spread evenly over the others, unscored rows included.
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
    """An image scaled to at most ``LONGEST`` pixels, as WebP; None where it cannot be read."""
    try:
        image = Image.fromarray(load_image(path).pixels)
    except InputError:
        return None
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=4)
    return file.getvalue()
